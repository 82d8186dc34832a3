package internet

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is a server: addresses in the internet.
type Host struct {
	n     *Internet
	addrs []netip.Addr
}

// Host adds a server with these addresses, which answers pings and refuses connections until told to serve.
func (n *Internet) Host(addrs ...string) *Host {
	n.t.Helper()
	h := &Host{n: n}
	for _, text := range addrs {
		addr := must(netip.ParseAddr(text))(n.t)
		h.addrs = append(h.addrs, addr)
		n.packets.take(addr)
		err := n.world.do(func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return addAddr(lo, ipNet(single(addr)))
		})
		if err != nil {
			n.t.Fatalf("internet: adding %s: %v", addr, err)
		}
	}
	return h
}

// Name gives the server names: A and AAAA records of its addresses in the zone. It returns h.
func (h *Host) Name(names ...string) *Host {
	h.n.t.Helper()
	for _, name := range names {
		for _, addr := range h.addrs {
			kind := "AAAA"
			if addr.Is4() {
				kind = "A"
			}
			h.n.zone.Set(fmt.Sprintf("%s 300 IN %s %s", name, kind, addr))
		}
	}
	return h
}

// Addr4 is the server's first IPv4 address, or the zero Addr.
func (h *Host) Addr4() netip.Addr { return h.first(netip.Addr.Is4) }

// Addr6 is the server's first IPv6 address, or the zero Addr.
func (h *Host) Addr6() netip.Addr { return h.first(netip.Addr.Is6) }

func (h *Host) first(is func(netip.Addr) bool) netip.Addr {
	if i := slices.IndexFunc(h.addrs, is); i >= 0 {
		return h.addrs[i]
	}
	return netip.Addr{}
}

// Blackhole makes the host never answer anything again: packets to it still arrive and are counted. Sockets on
// it stay open and hear nothing; new ones cannot be opened.
func (h *Host) Blackhole() {
	h.n.t.Helper()
	err := h.n.world.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, addr := range h.addrs {
			// The default route is a black hole, and router does not answer for an address once taken.
			if err := delAddr(lo, ipNet(single(addr))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		h.n.t.Fatal("internet: ", err)
	}
}

// single is the prefix with this address only.
func single(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

// AwaitTCP waits until a program listens on a TCP port in the internet, at whatever address, for at most 10 s. It
// does not connect.
func (n *Internet) AwaitTCP(port int) {
	n.t.Helper()
	deadline := time.After(patience)
	for retry := time.NewTicker(5 * time.Millisecond); ; {
		var sockets []*netlink.Socket
		err := n.world.do(func() error {
			for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
				found, err := netlink.SocketDiagTCP(family)
				if err != nil {
					return err
				}
				sockets = append(sockets, found...)
			}
			return nil
		})
		if err != nil {
			n.t.Fatal("internet: listing sockets: ", err)
		}
		for _, s := range sockets {
			if s.State == netlink.TCP_LISTEN && int(s.ID.SourcePort) == port {
				retry.Stop()
				return
			}
		}
		select {
		case <-retry.C: // the kernel tells nobody about new listeners
		case <-deadline:
			n.t.Fatalf("internet: nothing listens on port %d", port)
		}
	}
}
