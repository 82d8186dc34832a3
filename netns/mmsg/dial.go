package mmsg

import (
	"fmt"
	"net"
	"net/netip"
	"os"

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
