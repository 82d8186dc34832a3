package conntest

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Silent is a port of TCP at an IPv4 address of this host where no SYN is answered:
// its backlog is full (listen(2)). port is that, or 0 for any.
func Silent(t testing.TB, addr string, port uint16) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	a := netip.MustParseAddr(addr)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: a.As4(), Port: int(port)}); err != nil {
		t.Fatal(os.NewSyscallError("bind", err))
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(os.NewSyscallError("listen", err))
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(os.NewSyscallError("getsockname", err))
	}
	at := netip.AddrPortFrom(a, uint16(bound.(*unix.SockaddrInet4).Port))
	for range 8 { // more than the kernel takes in
		c, err := net.DialTimeout("tcp", at.String(), 100*time.Millisecond)
		if os.IsTimeout(err) {
			return at
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the backlog does not fill up")
	return at
}
