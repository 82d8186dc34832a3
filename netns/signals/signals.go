// Package signals is what a process that stands for another has to know of signals
// (signal(7)) and package os/signal does not tell: which of them it was to ignore when
// it was executed, so that it can pass that on, and how to end by one.
//
//	ignored := signals.Ignored(signals.IgnoredNow()) // before package os/signal is used
//	err := ignored.Apply()       // and then syscall.Exec
//	...
//	signals.Die(unix.SIGINT) // as a program did
package signals

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Last is the kernel's last signal.
const Last unix.Signal = 64

// Set is a set of signals; signal n is bit n-1, as in /proc/PID/status.
type Set uint64

// Has tells whether a signal is in the set.
func (s Set) Has(sig unix.Signal) bool { return sig > 0 && sig <= Last && s>>(sig-1)&1 != 0 }

// With is the set and a signal.
func (s Set) With(sig unix.Signal) Set { return s | 1<<(sig-1) }

// action is struct sigaction of the kernel's, on amd64, arm64 and riscv64.
type action struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

// Handlers of an action that are none (sigaction(2)).
const (
	byDefault = 0
	ignore    = 1
)

// set does what sigaction(2) does. Either action may be nil.
func set(sig unix.Signal, to, was *action) error {
	_, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(was)), unsafe.Sizeof(to.mask), 0, 0)
	if e != 0 {
		return fmt.Errorf("disposition of signal %d: %w", sig, e)
	}
	return nil
}

// Apply has this process ignore the signals of the set, and do the usual with all
// others: what it executes next does so, too (execve(2)). Go's own handlers are gone
// then.
func (s Set) Apply() error {
	for sig := unix.Signal(1); sig <= Last; sig++ {
		if sig == unix.SIGKILL || sig == unix.SIGSTOP {
			continue
		}
		to := action{handler: byDefault}
		if s.Has(sig) {
			to.handler = ignore
		}
		if err := set(sig, &to, nil); err != nil {
			return err
		}
	}
	return nil
}

// Die ends this process by a signal, without a core. It returns if that does not end
// it: a signal that does not end processes, or one that process 1 sent to itself.
func Die(sig unix.Signal) {
	runtime.LockOSThread()
	// Cores that are piped to a program heed no limit (core(5)).
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	_ = set(sig, &action{handler: byDefault}, nil)
	if sig > 0 && sig <= Last {
		var mask unix.Sigset_t
		mask.Val[0] = uint64(1) << (sig - 1)
		_ = unix.PthreadSigmask(unix.SIG_UNBLOCK, &mask, nil)
	}
	// To this thread, which has it unblocked: it is delivered before tgkill(2) returns.
	_ = unix.Tgkill(os.Getpid(), unix.Gettid(), sig)
}
