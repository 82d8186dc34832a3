package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The two ends of the veth have the same addresses in every run: the
// namespaces are the run's own, so nothing can collide. 192.0.0.0/29 is for
// the inside of a host (RFC 7335); the ULA spells "appfw".
var (
	Gateway4 = netip.MustParseAddr("192.0.0.1")
	App4     = netip.MustParseAddr("192.0.0.2")
	Gateway6 = netip.MustParseAddr("fd61:7070:6677::1")
	App6     = netip.MustParseAddr("fd61:7070:6677::2")
)

const (
	gatewayDevice = "app"  // the gateway's end, named for what it leads to
	appDevice     = "eth0" // what programs expect

	gatewayIndex = 61 // unlike the first free one, which the app's end gets

	// A veth carries whatever fits into an sk_buff, so the largest datagram
	// (65,507 bytes) need not be fragmented. The gate refuses fragments.
	mtu = 65535

	// So much TCP sends over a veth at once (BIG TCP: gso_max_size of ip-link(8)).
	segment = 256 << 10
)

// addrGenModeNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
const addrGenModeNone = 1

// Locally administered addresses: the neighbour entries below are permanent,
// so neither ARP nor neighbour discovery is ever spoken on the veth.
var (
	gatewayMAC = net.HardwareAddr{0x02, 0x61, 0x70, 0x66, 0x77, 0x01}
	appMAC     = net.HardwareAddr{0x02, 0x61, 0x70, 0x66, 0x77, 0x02}
)

// Connect joins the two namespaces by a veth. The app's only route leads to the
// gateway; to the gateway every address but the app's is its own, so that a
// packet ends at one of its sockets or nowhere. Reports whether IPv6 could be
// had; IPv4 always is.
func Connect(gateway, app *Namespace) (ipv6 bool, err error) {
	err = gateway.links(func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = gatewayDevice
		attrs.HardwareAddr = gatewayMAC
		attrs.MTU = mtu
		// Two ends with the same index look like no veth to the kernel's link
		// watch, which then takes a second to set them running.
		attrs.Index = gatewayIndex
		err := h.LinkAdd(&netlink.Veth{
			LinkAttrs:        attrs,
			PeerName:         appDevice,
			PeerHardwareAddr: appMAC,
			PeerNamespace:    netlink.NsFd(app.File().Fd()),
			PeerMTU:          mtu,
		})
		if err != nil {
			return fmt.Errorf("create veth: %w", err)
		}
		e := end{Handle: h, device: gatewayDevice, peerMAC: appMAC, addr4: Gateway4, peer4: App4, addr6: Gateway6, peer6: App6}
		if ipv6, err = e.setUp(); err != nil {
			return err
		}
		return e.gatewayRoutes(ipv6)
	})
	if err != nil {
		return false, fmt.Errorf("gateway namespace: %w", err)
	}
	err = app.links(func(h *netlink.Handle) error {
		e := end{Handle: h, device: appDevice, peerMAC: gatewayMAC, addr4: App4, peer4: Gateway4, addr6: App6, peer6: Gateway6}
		app6, err := e.setUp()
		if err != nil {
			return err
		}
		ipv6 = ipv6 && app6
		return e.appRoutes(ipv6)
	})
	if err != nil {
		return false, fmt.Errorf("app namespace: %w", err)
	}
	if err := gateway.links(awaitCarrier); err != nil {
		return false, fmt.Errorf("gateway namespace: %w", err)
	}
	return ipv6, nil
}

// links runs fn on the namespace's thread with one netlink socket for all that it
// asks (rtnetlink(7)).
func (ns *Namespace) links(fn func(h *netlink.Handle) error) error {
	return ns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return fn(h)
	})
}

// carrierTime bounds how long the kernel's link watch may take. It takes a second
// at most (net/core/link_watch.c).
const carrierTime = 2 * time.Second

// awaitCarrier waits until the gateway's end can send. It was up before its peer,
// so that its carrier came on later, and until the link watch has run, what is
// sent is lost. Since Linux 6.8, to ask for the link runs it (rtnl_getlink in
// net/core/rtnetlink.c); before, the state is asked for until it is so.
func awaitCarrier(h *netlink.Handle) error {
	for started := time.Now(); ; time.Sleep(100 * time.Microsecond) {
		link, err := h.LinkByName(gatewayDevice)
		if err != nil {
			return fmt.Errorf("find %s: %w", gatewayDevice, err)
		}
		switch {
		case link.Attrs().OperState == netlink.OperUp:
			return nil
		case time.Since(started) > carrierTime:
			return fmt.Errorf("%s has no carrier: %s", gatewayDevice, link.Attrs().OperState)
		}
	}
}

// end is one end of the veth and what it must know of the other.
type end struct {
	*netlink.Handle              // of its namespace
	lo, link        netlink.Link // found by setUp

	device       string
	peerMAC      net.HardwareAddr
	addr4, peer4 netip.Addr
	addr6, peer6 netip.Addr
}

// setUp configures lo and one end of the veth in the calling thread's namespace.
func (e *end) setUp() (ipv6 bool, err error) {
	if e.lo, err = e.LinkByName("lo"); err != nil {
		return false, fmt.Errorf("find lo: %w", err)
	}
	if err := e.LinkSetUp(e.lo); err != nil {
		return false, fmt.Errorf("set lo up: %w", err)
	}
	if e.link, err = e.LinkByName(e.device); err != nil {
		return false, fmt.Errorf("find %s: %w", e.device, err)
	}
	// No link-local address: nothing on the veth is autoconfigured.
	if err := e.LinkSetIP6AddrGenMode(e.link, addrGenModeNone); err != nil && !noIPv6(err) {
		return false, fmt.Errorf("%s: address generation mode: %w", e.device, err)
	}
	// Without (before Linux 5.19, and 6.3 for IPv4), streams cost some more.
	_ = e.LinkSetGSOMaxSize(e.link, segment)
	_ = e.LinkSetGSOIPv4MaxSize(e.link, segment)
	if err := setGRO(e.device); err != nil {
		return false, err
	}
	if err := e.LinkSetUp(e.link); err != nil {
		return false, fmt.Errorf("set %s up: %w", e.device, err)
	}
	if err := e.configure(e.addr4, e.peer4); err != nil {
		return false, fmt.Errorf("%s: %w", e.device, err)
	}
	switch err := e.configure(e.addr6, e.peer6); {
	case err == nil:
		return true, nil
	case noIPv6(err):
		return false, nil
	default:
		return false, fmt.Errorf("%s: %w", e.device, err)
	}
}

// configure gives the end its address and its one neighbour, in one family.
func (e *end) configure(addr, peer netip.Addr) error {
	a := &netlink.Addr{IPNet: host(addr)}
	family := netlink.FAMILY_V4
	if addr.Is6() {
		a.Flags = unix.IFA_F_NODAD
		family = netlink.FAMILY_V6
	}
	if err := e.AddrAdd(e.link, a); err != nil {
		return fmt.Errorf("add address %s: %w", addr, err)
	}
	if addr.Is6() {
		// The kernel makes the address a local one by and by, in a work queue
		// (addrconf_dad_work in net/ipv6/addrconf.c), also without duplicate
		// address detection. What comes before is lost.
		err := e.RouteAdd(&netlink.Route{LinkIndex: e.link.Attrs().Index, Dst: host(addr), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL})
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make %s local: %w", addr, err)
		}
	}
	err := e.NeighSet(&netlink.Neigh{
		LinkIndex:    e.link.Attrs().Index,
		Family:       family,
		State:        netlink.NUD_PERMANENT,
		IP:           peer.AsSlice(),
		HardwareAddr: e.peerMAC,
	})
	if err != nil {
		return fmt.Errorf("add neighbour %s: %w", peer, err)
	}
	return nil
}

// appRoutes sends everything the app does not keep on its lo to the gateway.
func (e *end) appRoutes(ipv6 bool) error {
	for _, gw := range families(ipv6, Gateway4, Gateway6) {
		err := e.RouteAdd(&netlink.Route{
			LinkIndex: e.link.Attrs().Index,
			Dst:       anywhere(gw),
			Gw:        gw.AsSlice(),
			Flags:     int(netlink.FLAG_ONLINK),
		})
		if err != nil {
			return fmt.Errorf("add default route by %s: %w", gw, err)
		}
	}
	return nil
}

// gatewayRoutes makes every address local to the gateway (AnyIP), the app's
// excepted: packets to it go out by the veth.
func (e *end) gatewayRoutes(ipv6 bool) error {
	for _, app := range families(ipv6, App4, App6) {
		err := e.RouteAdd(&netlink.Route{LinkIndex: e.link.Attrs().Index, Dst: host(app), Scope: netlink.SCOPE_LINK})
		if err != nil {
			return fmt.Errorf("add route to %s: %w", app, err)
		}
		err = e.RouteAdd(&netlink.Route{
			LinkIndex: e.lo.Attrs().Index,
			Dst:       anywhere(app),
			Type:      unix.RTN_LOCAL,
			Scope:     netlink.SCOPE_HOST,
			Table:     unix.RT_TABLE_MAIN,
		})
		if err != nil {
			return fmt.Errorf("add local default route: %w", err)
		}
	}
	return nil
}

func families(ipv6 bool, v4, v6 netip.Addr) []netip.Addr {
	if ipv6 {
		return []netip.Addr{v4, v6}
	}
	return []netip.Addr{v4}
}

// host is addr as a prefix of one address.
func host(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
}

// anywhere is the prefix of length 0 of addr's family.
func anywhere(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: make(net.IP, addr.BitLen()/8), Mask: net.CIDRMask(0, addr.BitLen())}
}

// noIPv6 tells errors of a kernel in which IPv6 is absent (ipv6.disable=1, no
// /proc/net/if_inet6) or switched off for new devices (disable_ipv6=1).
func noIPv6(err error) bool {
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return true
	}
	_, missing := os.Stat("/proc/net/if_inet6")
	return errors.Is(missing, os.ErrNotExist) || errors.Is(err, unix.EACCES)
}
