package supervise

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
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
	return raw.Read(func(fd uintptr) bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0
	}) == nil
}

// Close forgets the process, which goes on.
func (p *Process) Close() error { return p.file.Close() }
