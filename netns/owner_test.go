package netns

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The owner of a flow is found by its socket, of whatever family and kind.
func TestOwner(t *testing.T) {
	ns, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var fds []int
	socket := func(domain, kind int, bind, connect unix.Sockaddr) (fd int, local unix.Sockaddr) {
		t.Helper()
		err := ns.Do(func() (err error) {
			if fd, err = unix.Socket(domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
				return err
			}
			fds = append(fds, fd)
			if err = unix.Bind(fd, bind); err == nil && connect != nil {
				if err = unix.Connect(fd, connect); err == unix.EINPROGRESS {
					err = nil
				}
			}
			if err == nil && kind == unix.SOCK_STREAM && connect == nil {
				err = unix.Listen(fd, 1)
			}
			local, _ = unix.Getsockname(fd)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return fd, local
	}
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	if err := ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}); err != nil {
		t.Fatal(err)
	}
	here := netip.MustParseAddr("127.0.0.1")
	any4 := &unix.SockaddrInet4{Addr: here.As4()}
	_, l := socket(unix.AF_INET, unix.SOCK_STREAM, any4, nil)
	server := l.(*unix.SockaddrInet4)
	mapped := &unix.SockaddrInet6{Port: server.Port, Addr: netip.AddrFrom16(here.As16()).As16()}
	_, tcp4 := socket(unix.AF_INET, unix.SOCK_STREAM, any4, server)
	_, tcp6 := socket(unix.AF_INET6, unix.SOCK_STREAM, &unix.SockaddrInet6{}, mapped)
	_, udp4 := socket(unix.AF_INET, unix.SOCK_DGRAM, &unix.SockaddrInet4{}, nil)
	_, udp6 := socket(unix.AF_INET6, unix.SOCK_DGRAM, &unix.SockaddrInet6{}, nil)
	self := fmt.Sprintf("/proc/%d ", os.Getpid())
	dst := netip.AddrPortFrom(here, uint16(server.Port))
	port := func(a unix.Sockaddr) uint16 {
		if v4, ok := a.(*unix.SockaddrInet4); ok {
			return uint16(v4.Port)
		}
		return uint16(a.(*unix.SockaddrInet6).Port)
	}
	for _, tt := range []struct {
		about string
		proto uint8
		port  uint16
		found bool
	}{
		{"TCP", unix.IPPROTO_TCP, port(tcp4), true},
		{"TCP of an IPv6 socket", unix.IPPROTO_TCP, port(tcp6), true},
		{"UDP", unix.IPPROTO_UDP, port(udp4), true},
		{"UDP of an IPv6 socket", unix.IPPROTO_UDP, port(udp6), true},
		{"no such socket", unix.IPPROTO_TCP, 1, false},
		{"another protocol's", unix.IPPROTO_TCP, port(udp4), false},
	} {
		owner := ns.Owner(tt.proto, netip.AddrPortFrom(here, tt.port), dst)
		if tt.found != (strings.HasPrefix(owner, self) && len(owner) > len(self)) || !tt.found && owner != "" {
			t.Errorf("%s: %q", tt.about, owner)
		}
	}
}
