package supervise

import (
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Orders are what a service is told by signals. From when it is told to end, it does so
// in time, whatever it waits for: a client, who reads its log, a terminal, a policy that
// is a pipe.
type Orders struct {
	End    chan struct{} // closed when it is told to end
	Now    chan struct{} // closed when it is told so again
	Reload chan struct{} // SIGHUP; several that come together are one

	grace atomic.Int64 // a time.Duration
	told  chan syscall.Signal
}

// TakeOrders listens to signals from here on. As process 1, it also reaps what others
// leave.
func TakeOrders() *Orders {
	o := &Orders{
		End: make(chan struct{}), Now: make(chan struct{}), Reload: make(chan struct{}, 1), told: make(chan syscall.Signal),
	}
	received := make(chan os.Signal, 16)
	signal.Notify(received, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	signal.Ignore(unix.SIGPIPE) // that nobody reads stderr is no reason to end
	ReapOrphans()
	go o.hear(received)
	return o
}

// Allow sets how long the service may go on when it is told to end.
func (o *Orders) Allow(grace time.Duration) { o.grace.Store(int64(grace)) }

// Stop has it end as by a signal.
func (o *Orders) Stop() { o.told <- unix.SIGTERM }

func (o *Orders) hear(received <-chan os.Signal) {
	times := 0
	for {
		var sig syscall.Signal
		select {
		case s := <-received:
			sig = s.(syscall.Signal)
		case sig = <-o.told:
		}
		if sig == unix.SIGHUP {
			select {
			case o.Reload <- struct{}{}:
			default: // it has been asked
			}
			continue
		}
		switch times++; times {
		case 1:
			close(o.End)
			EndBy(sig, time.Duration(o.grace.Load())+EndTime)
		case 2:
			close(o.Now)
			EndBy(sig, EndTime)
		}
	}
}

// EndBy ends this process after a time by the signal that told it to end, if it has not
// ended in order.
func EndBy(sig syscall.Signal, d time.Duration) {
	time.AfterFunc(d, func() { Ending{Signal: sig}.Exit() })
}

// Within calls a function that may block, and waits for it, for a time at most; false if
// that was not enough.
func Within(d time.Duration, fn func()) bool {
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	select {
	case <-done:
		return true
	case <-time.After(d):
		return false
	}
}
