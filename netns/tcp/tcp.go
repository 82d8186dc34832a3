// Package tcp makes TCP connections by as few system calls as can be: a client's SYN
// waits for them. Its connections are otherwise as package net's.
package tcp

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is a TCP connection.
type Conn struct {
	Local, Remote netip.AddrPort // Local: of those that a Listener took in

	file *os.File
	raw  syscall.RawConn
}

func newConn(fd int, remote netip.AddrPort) (*Conn, error) {
	c := &Conn{file: os.NewFile(uintptr(fd), "TCP connection"), Remote: remote}
	var err error
	if c.raw, err = c.file.SyscallConn(); err != nil {
		c.file.Close()
		return nil, err
	}
	return c, nil
}

// Socket makes a socket of the family of an address. It does not block.
func Socket(to netip.Addr) (fd int, err error) {
	domain := unix.AF_INET6
	if to.Is4() {
		domain = unix.AF_INET
	}
	fd, err = unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	if err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil { // as package net has it
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// Begin starts to connect a socket, which is closed if that fails. It is done if the
// other end has answered meanwhile, as one on this host has; otherwise [Conn.Await]
// is to be called next.
func Begin(fd int, to netip.AddrPort) (c *Conn, done bool, err error) {
	sa := Sockaddr(to)
	err = unix.Connect(fd, sa)
	if err == unix.EINPROGRESS {
		err = unix.Connect(fd, sa)
	}
	pending := err == unix.EALREADY || err == unix.EINTR
	if err == nil {
		err = selfConnected(fd, to)
	}
	if err != nil && !pending {
		unix.Close(fd)
		return nil, false, err
	}
	c, err = newConn(fd, to)
	return c, !pending, err
}

// Await waits for the answer of the other end, and closes the connection if there is
// none, or ctx ends before.
func (c *Conn) Await(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetWriteDeadline(time.Unix(1, 0)) })
	sa := Sockaddr(c.Remote)
	var failed error
	err := c.raw.Write(func(fd uintptr) bool {
		if failed = unix.Connect(int(fd), sa); failed == nil {
			failed = selfConnected(int(fd), c.Remote)
		}
		return failed != unix.EALREADY && failed != unix.EINTR
	})
	if err == nil {
		err = failed
	}
	if !stop() && err == nil { // its deadline may be set yet
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	return nil
}

// KeepAlive has the kernel ask for signs of life: when there was none for idle, and
// then as often, up to count times (tcp(7)).
func (c *Conn) KeepAlive(idle time.Duration, count int) {
	_ = c.control(func(fd int) error {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(idle/time.Second))
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(idle/time.Second))
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, count)
		return nil
	})
}

// Start is [Begin] with a socket of its own.
func Start(to netip.AddrPort) (c *Conn, done bool, err error) {
	fd, err := Socket(to.Addr())
	if err != nil {
		return nil, false, err
	}
	return Begin(fd, to)
}

// Keep-alives find destinations that are gone without a word, and keep open what NATs
// forget. They go on for two hours, as the kernel's own do by default (tcp(7)): a program
// that asked for none outlives an outage, if nothing is sent meanwhile.
const (
	keepAlive  = 60 * time.Second
	keepAlives = 127 // MAX_TCP_KEEPCNT
)

// DialFar is Dial for other hosts: it finds out when they are gone.
func DialFar(ctx context.Context, to netip.AddrPort) (*Conn, error) {
	c, err := Dial(ctx, to)
	if err == nil {
		c.KeepAlive(keepAlive, keepAlives)
	}
	return c, err
}

// Dial connects to an address.
func Dial(ctx context.Context, to netip.AddrPort) (*Conn, error) {
	c, done, err := Start(to)
	if err == nil && !done {
		err = c.Await(ctx)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// selfConnected is an error if the other end is the socket itself: nobody listens at
// a port of this host's, and the kernel chose it for the socket (RFC 9293, 3.5).
func selfConnected(fd int, to netip.AddrPort) error {
	local, err := localAddr(fd)
	if err != nil || local.Port() != to.Port() {
		return err
	}
	// Where it leads may be written otherwise: 0.0.0.0 and :: are this host, too.
	if remote, err := syscall.Getpeername(fd); err != nil || addrPort(remote) != local {
		return nil // with an error, the other end has left already
	}
	return unix.ECONNREFUSED
}

func localAddr(fd int) (netip.AddrPort, error) {
	sa, err := syscall.Getsockname(fd)
	return addrPort(sa), err
}

// Sockaddr is an address for the kernel. Zones are lost.
func Sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// addrPort is an address of the kernel's; invalid if it is of another family. It is
// package syscall that gives it: unix asks for the protocol besides.
func addrPort(sa syscall.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *syscall.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// Read reads what has come; it is [io.EOF] at the end.
func (c *Conn) Read(b []byte) (n int, err error) {
	var failed error
	err = c.raw.Read(func(fd uintptr) bool {
		for {
			if n, failed = unix.Read(int(fd), b); failed != unix.EINTR {
				return failed != unix.EAGAIN
			}
		}
	})
	switch {
	case err != nil:
		return 0, closedError(err)
	case failed != nil:
		return 0, failed
	case n == 0 && len(b) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write sends all of b.
func (c *Conn) Write(b []byte) (sent int, err error) {
	var failed error
	err = c.raw.Write(func(fd uintptr) bool {
		for sent < len(b) {
			n, err := unix.Write(int(fd), b[sent:])
			if err == nil {
				sent += n
			} else if err == unix.EAGAIN {
				return false
			} else if err != unix.EINTR {
				failed = err
				break
			}
		}
		return true
	})
	if err == nil {
		return sent, failed
	}
	return sent, closedError(err)
}

// closedError is an error of a file's as package net has it.
func closedError(err error) error {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return net.ErrClosed
}

// CloseWrite sends the end of data.
func (c *Conn) CloseWrite() error {
	return c.control(func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
}

// SetLinger has Close reset the connection, with 0 seconds (SO_LINGER of socket(7)).
func (c *Conn) SetLinger(seconds int) error {
	return c.control(func(fd int) error {
		return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: int32(seconds)})
	})
}

// control calls f with the connection's descriptor.
func (c *Conn) control(f func(fd int) error) error {
	var failed error
	if err := c.raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return net.ErrClosed
	}
	return failed
}

// LocalAddr is where this end is, a *net.TCPAddr.
func (c *Conn) LocalAddr() net.Addr {
	local := c.Local
	if !local.IsValid() {
		_ = c.control(func(fd int) (err error) {
			local, err = localAddr(fd)
			return err
		})
	}
	return net.TCPAddrFromAddrPort(local)
}

// RemoteAddr is where the other end is, a *net.TCPAddr.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.Remote) }

func (c *Conn) Close() error                       { return closedError(c.file.Close()) }
func (c *Conn) SetDeadline(t time.Time) error      { return closedError(c.file.SetDeadline(t)) }
func (c *Conn) SetReadDeadline(t time.Time) error  { return closedError(c.file.SetReadDeadline(t)) }
func (c *Conn) SetWriteDeadline(t time.Time) error { return closedError(c.file.SetWriteDeadline(t)) }

// SyscallConn is for other system calls. Its errors after Close are not [net.ErrClosed].
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }
