package mmsg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Dial makes a socket for datagrams to and from one address. Unlike those of package
// net it cannot send broadcasts (SO_BROADCAST of socket(7)).
func Dial(to netip.AddrPort) (*net.UDPConn, error) {
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
	domain := unix.AF_INET6
	if to.Addr().Is4() {
		sa, domain = &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}, unix.AF_INET
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "datagrams")
	defer file.Close()
	if err := unix.Connect(fd, sa); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("take in a socket for datagrams: %w", err)
	}
	return conn.(*net.UDPConn), nil
}

// Listen opens a port for datagrams at an address; with port 0, any. Unlike those of
// package net it cannot send broadcasts: whoever sent from a broadcast address, or so it
// seems, is not answered by all hosts of a network being written to.
func Listen(at netip.AddrPort) (*net.UDPConn, error) {
	network := "udp6"
	if at.Addr().Is4() {
		network = "udp4"
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) { err = NoBroadcast(int(fd)) })
		return errors.Join(cerr, err)
	}}
	conn, err := lc.ListenPacket(context.Background(), network, at.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// NoBroadcast keeps a socket from sending broadcasts (SO_BROADCAST of socket(7)), which
// package net, and a service manager that passes one, may have let it do.
func NoBroadcast(fd int) error {
	return os.NewSyscallError("setsockopt SO_BROADCAST", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 0))
}
