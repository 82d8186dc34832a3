package main

import (
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"appfw/netns/supervise"
	"appfw/proxy/journal"
)

// orders are what a service is told by signals. From when it is told to end, it does so
// in time, whatever it waits for: a client, who reads its log, a terminal, a policy that
// is a pipe.
type orders struct {
	end    chan struct{} // closed when it is told to end
	now    chan struct{} // closed when it is told so again
	reload chan struct{} // SIGHUP; several that come together are one

	grace atomic.Int64 // how long it may go on when it is told to end, a time.Duration
	told  chan syscall.Signal
}

// takeOrders listens to signals from here on. As process 1, it also reaps what others
// leave.
func takeOrders() *orders {
	o := &orders{
		end: make(chan struct{}), now: make(chan struct{}), reload: make(chan struct{}, 1), told: make(chan syscall.Signal),
	}
	received := make(chan os.Signal, 16)
	signal.Notify(received, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	signal.Ignore(unix.SIGPIPE) // that nobody reads stderr is no reason to end
	supervise.ReapOrphans()
	go o.hear(received)
	return o
}

// stop has it end as by a signal.
func (o *orders) stop() { o.told <- unix.SIGTERM }

func (o *orders) hear(received <-chan os.Signal) {
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
			case o.reload <- struct{}{}:
			default: // it has been asked
			}
			continue
		}
		switch times++; times {
		case 1:
			close(o.end)
			endBy(sig, time.Duration(o.grace.Load())+supervise.EndTime)
		case 2:
			close(o.now)
			endBy(sig, supervise.EndTime)
		}
	}
}

// endBy ends this process after a time by the signal that told it to end, if it has not
// ended in order.
func endBy(sig syscall.Signal, d time.Duration) {
	time.AfterFunc(d, func() { supervise.Ending{Signal: sig}.Exit() })
}

const (
	// servingTime bounds the wait for what is served when there is nobody to be served
	// any more, and reportTime that for who reads what is said.
	servingTime = 400 * time.Millisecond
	reportTime  = 800 * time.Millisecond
)

// within calls a function that may block, and waits for it, for a time at most; false if
// that was not enough.
func within(d time.Duration, fn func()) bool {
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	select {
	case <-done:
		return true
	case <-time.After(d):
		return false
	}
}

// closeService closes the journal of a service that ends with an error, or without one:
// then it fails if its log is not whole.
func closeService(j *journal.Journal, logs bool, err *error) {
	if failed := closeReport(j, logs); *err == nil {
		*err = failed
	}
}

// closeReport ends a service's journal. If its log is not whole, it has said so, and the
// error is an exit code.
func closeReport(j *journal.Journal, logs bool) error {
	var err error
	if !within(reportTime, func() { err = j.Close() }) {
		if logs {
			return &exitError{code: exitFailed}
		}
		return nil // who does not read is told nothing
	}
	if err != nil {
		return &exitError{code: exitFailed} // it has been said
	}
	return nil
}
