package supervise

import (
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"appfw/netns/signals"
)

// forwarded are the signals that mean the program: all that somebody sends on purpose,
// and that a process does not get for what it does itself. Of those a terminal sends, the
// program has its own copy.
var forwarded = append([]os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGABRT, unix.SIGPWR, unix.SIGIO,
	unix.SIGALRM, unix.SIGVTALRM, unix.SIGTSTP, unix.SIGCONT, unix.SIGTTIN, unix.SIGTTOU, unix.SIGWINCH,
}, realTime()...)

// realTime are the signals that mean what programs want, but for those that C libraries
// and Go's runtime keep to themselves.
func realTime() (list []os.Signal) {
	const first = 35
	for sig := unix.Signal(first); sig <= signals.Last; sig++ {
		list = append(list, sig)
	}
	return list
}

// ofTerminal are the signals that a terminal sends to its foreground group, and
// so to the program.
var ofTerminal = map[syscall.Signal]bool{
	unix.SIGINT: true, unix.SIGQUIT: true, unix.SIGTSTP: true, unix.SIGWINCH: true,
	unix.SIGTTIN: true, unix.SIGTTOU: true,
}

// ends tells whether a signal ends a program that does nothing about it.
func ends(sig syscall.Signal) bool {
	switch sig {
	case unix.SIGTSTP, unix.SIGCONT, unix.SIGTTIN, unix.SIGTTOU, unix.SIGWINCH:
		return false
	}
	return true
}

// notify has the signals that mean the program sent to a channel, but for those that
// are ignored, as nohup(1) does it: the program inherits that.
func notify(c chan<- os.Signal, ignored signals.Set) {
	for _, s := range forwarded {
		if !ignored.Has(s.(syscall.Signal)) {
			signal.Notify(c, s)
		}
	}
}

// ignore has this process ignore what the program is to ignore. It still hears of its
// children.
func ignore(ignored signals.Set) {
	for sig := unix.Signal(1); sig <= signals.Last; sig++ {
		if ignored.Has(sig) && sig != unix.SIGCHLD {
			signal.Ignore(sig)
		}
	}
}

// copies tells signals that a whole process group got, the program included, from
// those that only the supervisor got: of the former the gateway has a copy, too.
type copies struct {
	last [signals.Last + 1]atomic.Int64 // by signal, when it came; in ns since 1970
}

// sameSignal is how long after this process got a signal itself the same one
// from the supervisor is taken for a copy.
const sameSignal = time.Second

// note notes that this process got a signal.
func (c *copies) note(s syscall.Signal, now time.Time) { c.last[s].Store(now.UnixNano()) }

// has tells whether the program has got a signal that the supervisor passes on.
// SIGCONT is sent in any case: to continue twice is to continue.
func (c *copies) has(s syscall.Signal, now time.Time) bool {
	return s != unix.SIGCONT && now.Sub(time.Unix(0, c.last[s].Load())) < sameSignal
}
