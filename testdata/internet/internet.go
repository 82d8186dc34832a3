// Package internet makes a small internet for tests: a simulated host, in which the programs under test run, and
// behind its only link a namespace with any number of servers, a DNS resolver and a packet counter. Neither
// namespace has a link to the real network: nothing leaves the machine.
package internet

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	hostAddr4, hostAddr6         = "11.1.0.2", "2a0d:1::2"
	routerAddr4, routerAddr6     = "11.1.0.1", "2a0d:1::1"
	resolverAddr4, resolverAddr6 = "11.22.0.53", "2a0d:aaaa::53"

	// patience is how long set-up and cleanup wait for something that should happen at once.
	patience = 10 * time.Second
)

// Internet is a simulated host and the internet it is connected to. Its methods fail the test (t.Fatal) on errors
// they do not return, so those belong to the test's goroutine.
type Internet struct {
	t           testing.TB
	dir         string
	host, world *space
	witness     func() (*space, error) // a network namespace in which nothing is done; made when needed
	ca          *authority
	zone        *Zone
	packets     *capture
	serial      atomic.Int64 // numbers files
}

// New builds the internet; it fails the test when not root. Everything is undone by t.Cleanup: no namespace,
// process, mount or file is left.
func New(t testing.TB) *Internet {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("internet: needs root")
	}
	n := &Internet{t: t}
	n.dir = n.newDir()
	n.ca = must(newAuthority(n.dir))(t)
	n.world = n.newSpace(unix.CLONE_NEWNET)
	n.host = n.newSpace(unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_FS | unix.CLONE_NEWUTS)
	n.witness = sync.OnceValues(n.newWitness)
	t.Cleanup(n.sweep)
	if err := connect(n.host, n.world); err != nil {
		t.Fatal("internet: ", err)
	}
	if err := n.host.do(n.privateFiles); err != nil {
		t.Fatal("internet: ", err)
	}
	n.packets = must(newCapture(n.world))(t)
	t.Cleanup(n.packets.close)
	n.zone = newZone(t)
	n.Host(resolverAddr4, resolverAddr6).ServeDNS(n.zone)
	return n
}

// must returns a function giving value, or failing t with err.
func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal("internet: ", err)
		}
		return value
	}
}

func (n *Internet) newSpace(flags int) *space {
	s := must(newSpace(flags))(n.t)
	n.t.Cleanup(s.close)
	return s
}

func (n *Internet) newWitness() (*space, error) {
	s, err := newSpace(unix.CLONE_NEWNET)
	if err == nil {
		n.t.Cleanup(s.close)
	}
	return s, err
}

// newDir makes the directory everybody can read, with a home for each user, removed by cleanup.
func (n *Internet) newDir() string {
	dir := must(os.MkdirTemp("", "appfw-internet-"))(n.t)
	n.t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			n.t.Error("internet: ", err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		n.t.Fatal("internet: ", err)
	}
	for _, u := range []User{root(dir), ordinary(dir)} {
		if err := os.Mkdir(u.Home, 0o755); err != nil {
			n.t.Fatal("internet: ", err)
		}
		if err := os.Chown(u.Home, int(u.UID), int(u.GID)); err != nil {
			n.t.Fatal("internet: ", err)
		}
	}
	return dir
}

// Dir is a directory owned by root that every user can read, for the test's files; cleanup removes it.
func (n *Internet) Dir() string { return n.dir }

// file returns the path of the internet's own file of that name.
func (n *Internet) file(name string) string { return filepath.Join(n.dir, name) }

// Addr4 is the simulated host's own IPv4 address on its link.
func (n *Internet) Addr4() netip.Addr { return netip.MustParseAddr(hostAddr4) }

// Addr6 is the simulated host's own IPv6 address on its link.
func (n *Internet) Addr6() netip.Addr { return netip.MustParseAddr(hostAddr6) }

// Resolver4 is the IPv4 address of the DNS resolver.
func (n *Internet) Resolver4() netip.Addr { return netip.MustParseAddr(resolverAddr4) }

// Resolver6 is the IPv6 address of the DNS resolver.
func (n *Internet) Resolver6() netip.Addr { return netip.MustParseAddr(resolverAddr6) }

// Zone is what the DNS resolver knows.
func (n *Internet) Zone() *Zone { return n.zone }

// NewZone makes a zone for another resolver: see Host.ServeDNS.
func (n *Internet) NewZone() *Zone { return newZone(n.t) }

// ListenOnHost is net.Listen in the simulated host, closed by cleanup. address is an IP literal with port.
func (n *Internet) ListenOnHost(network, address string) (l net.Listener, err error) {
	err = n.host.do(func() error {
		l, err = net.Listen(network, address)
		return err
	})
	if err == nil {
		n.t.Cleanup(func() { _ = l.Close() }) // the test may have closed it
	}
	return l, err
}

// ListenPacketOnHost is net.ListenPacket in the simulated host, closed by cleanup. address is an IP literal with port.
func (n *Internet) ListenPacketOnHost(network, address string) (c net.PacketConn, err error) {
	err = n.host.do(func() error {
		c, err = net.ListenPacket(network, address)
		return err
	})
	if err == nil {
		n.t.Cleanup(func() { _ = c.Close() }) // the test may have closed it
	}
	return c, err
}

// DialFromHost is net.Dial in the simulated host. address is an IP literal with port.
func (n *Internet) DialFromHost(network, address string) (c net.Conn, err error) {
	err = n.host.do(func() error {
		c, err = net.Dial(network, address)
		return err
	})
	return c, err
}

// DialFrom is net.Dial from one of the internet's servers, by its address of the same family. Cleanup closes it.
func (h *Host) DialFrom(network, address string) (c net.Conn, err error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	from := h.Addr6()
	if to.Addr().Is4() {
		from = h.Addr4()
	}
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: 10 * time.Second}
	if network == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	err = h.n.world.do(func() error {
		c, err = d.Dial(network, address)
		return err
	})
	if err == nil {
		h.n.t.Cleanup(func() { _ = c.Close() }) // the test may have closed it
	}
	return c, err
}
