package supervise

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"appfw/netns/signals"
)

// Process is a process by its pidfd (pidfd_open(2)): unlike a number, that never comes
// to mean another one. It need not be a child.
type Process struct{ file *os.File }

// OpenProcess opens the process with a number. It is ESRCH if there is none.
func OpenProcess(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open: %w", err)
	}
	return &Process{os.NewFile(uintptr(fd), "process")}, nil
}

// Ended waits until the process has ended; false if Close is called before.
func (p *Process) Ended() bool {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return false
	}
	return raw.Read(hasEnded) == nil
}

// Lives tells whether the process has not ended yet.
func (p *Process) Lives() bool {
	ended := false
	raw, err := p.file.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { ended = hasEnded(fd) })
	}
	return err == nil && !ended
}

func hasEnded(pidfd uintptr) bool {
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
	return n > 0
}

// Close forgets the process, which goes on.
func (p *Process) Close() error { return p.file.Close() }

// Child is a process that was started here, by its number and its pidfd.
type Child struct {
	PID    int
	Handle *os.File
}

// signal sends a signal to a child, and to no other process: one that was reaped gets
// none.
func (c Child) signal(sig syscall.Signal) error {
	return unix.PidfdSendSignal(int(c.Handle.Fd()), sig, nil, 0)
}

// Ending is how a process ended: by a signal, or else with an exit code.
type Ending struct {
	Code   int
	Signal syscall.Signal // 0: none
}

// EndingOf is the ending that wait(2) tells.
func EndingOf(status syscall.WaitStatus) Ending {
	if status.Signaled() {
		return Ending{Signal: status.Signal()}
	}
	return Ending{Code: status.ExitStatus()}
}

// ShellCode is the exit code by which a shell tells of it.
func (e Ending) ShellCode() int {
	if e.Signal != 0 {
		return 128 + int(e.Signal)
	}
	return e.Code
}

// Exit ends this process in the same way: who waits for it sees what it would have seen
// of the other one. It does not return.
func (e Ending) Exit() {
	if e.Signal != 0 {
		signals.Die(e.Signal)
	}
	os.Exit(e.ShellCode())
}
