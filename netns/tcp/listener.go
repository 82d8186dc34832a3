package tcp

import (
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listener takes in connections.
type Listener struct {
	file *os.File
	raw  syscall.RawConn
}

// Listen has a socket listen at an address; with [netip.IPv6Unspecified], to IPv6
// alone. What was set for it, its connections inherit (tcp(7)). It is closed if that
// fails.
func Listen(fd int, at netip.AddrPort) (l *Listener, err error) {
	l = &Listener{file: os.NewFile(uintptr(fd), "TCP listener")}
	l.raw, err = l.file.SyscallConn()
	if err == nil && at.Addr().Is6() {
		err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err == nil {
		err = unix.Bind(fd, Sockaddr(at))
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err == nil {
		err = l.file.SetDeadline(time.Time{}) // fails if the poller could not take it
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// backlog is more than the kernel allows, which takes its own limit then
// (net.core.somaxconn).
const backlog = 1 << 16

// Accept waits for the next connection. It is [net.ErrClosed] after Close.
func (l *Listener) Accept() (*Conn, error) {
	var fd int
	var remote syscall.Sockaddr
	var failed error
	err := l.raw.Read(func(listening uintptr) bool {
		for {
			fd, remote, failed = syscall.Accept4(int(listening), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if failed != unix.EINTR && failed != unix.ECONNABORTED {
				return failed != unix.EAGAIN
			}
		}
	})
	switch {
	case err != nil:
		return nil, closedError(err)
	case failed != nil:
		return nil, failed
	}
	local, err := localAddr(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	c, err := newConn(fd, addrPort(remote))
	if err != nil {
		return nil, err
	}
	c.Local = local
	return c, nil
}

// Close stops listening.
func (l *Listener) Close() error { return closedError(l.file.Close()) }
