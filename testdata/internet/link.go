package internet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkName is the name of the link between host and internet, at both ends.
const linkName = "eth0"

// linkIndex is the link's interface index in the host. It differs from that in the internet, 2, as otherwise the
// kernel takes neither end for a virtual link and delays the news that it is up by a second.
const linkIndex = 3

// connect gives host and world their addresses and routes and a link between them, and waits until it works.
func connect(host, world *space) error {
	worldNamespace, err := world.netNamespace()
	if err != nil {
		return err
	}
	defer func() { _ = worldNamespace.Close() }()
	err = host.do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = linkName
		attrs.Index = linkIndex
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: linkName, PeerNamespace: netlink.NsFd(worldNamespace.Fd())}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("adding the link: %w", err)
		}
		return errors.Join(
			linkUp(hostAddr4+"/24", hostAddr6+"/64", "fe80::2/64"),
			sysctl("net/ipv4/ping_group_range", "0 2147483647"), // as systemd sets it
		)
	})
	if err != nil {
		return err
	}
	err = world.do(func() error {
		return errors.Join(
			linkUp(routerAddr4+"/24", routerAddr6+"/64", "fe80::1/64"),
			// What is for nobody is dropped silently: router answers it.
			addRoute(unix.RTN_BLACKHOLE, netip.MustParsePrefix("0.0.0.0/0"), nil),
			addRoute(unix.RTN_BLACKHOLE, netip.MustParsePrefix("::/0"), nil),
		)
	})
	if err != nil {
		return err
	}
	if err := errors.Join(awaitLink(host), awaitLink(world)); err != nil {
		return err
	}
	return host.do(func() error {
		return errors.Join(
			addRoute(unix.RTN_UNICAST, netip.MustParsePrefix("0.0.0.0/0"), net.ParseIP(routerAddr4)),
			addRoute(unix.RTN_UNICAST, netip.MustParsePrefix("::/0"), net.ParseIP(routerAddr6)),
		)
	})
}

// linkUp sets the loopback and the link up, the latter with these addresses (with prefix length) and no automatic ones.
func linkUp(addrs ...string) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(linkName)
	if err != nil {
		return err
	}
	conf := "net/ipv6/conf/" + linkName
	err = errors.Join(sysctl(conf+"/addr_gen_mode", "1"), sysctl(conf+"/accept_ra", "0"), sysctl(conf+"/accept_dad", "0"))
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkSetUp(lo), netlink.LinkSetUp(link)); err != nil {
		return fmt.Errorf("setting links up: %w", err)
	}
	for _, text := range addrs {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		if err := addAddr(link, addr.IPNet); err != nil {
			return fmt.Errorf("adding %s: %w", text, err)
		}
	}
	return nil
}

// addAddr adds an address that is local at once. The kernel makes IPv6 addresses local by and by, in a work queue
// (addrconf_dad_work), also without duplicate address detection.
func addAddr(link netlink.Link, addr *net.IPNet) error {
	err := netlink.AddrAdd(link, &netlink.Addr{IPNet: addr, Flags: unix.IFA_F_NODAD})
	if err != nil || addr.IP.To4() != nil {
		return err
	}
	if err = netlink.RouteAdd(local(link, addr.IP)); errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// delAddr undoes addAddr.
func delAddr(link netlink.Link, addr *net.IPNet) error {
	err := netlink.AddrDel(link, &netlink.Addr{IPNet: addr})
	if err != nil || addr.IP.To4() != nil {
		return err
	}
	if err = netlink.RouteDel(local(link, addr.IP)); errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// local is the route that makes an IPv6 address a local one.
func local(link netlink.Link, addr net.IP) *netlink.Route {
	host := &net.IPNet{IP: addr, Mask: net.CIDRMask(128, 128)}
	return &netlink.Route{LinkIndex: link.Attrs().Index, Dst: host, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL}
}

// awaitLink waits until the space's end of the link carries packets.
func awaitLink(s *space) error {
	updates, done := make(chan netlink.LinkUpdate), make(chan struct{})
	err := s.do(func() error {
		return netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{ListExisting: true})
	})
	if err != nil {
		return err
	}
	defer func() {
		close(done)
		for range updates { // until the subscription has ended
		}
	}()
	deadline := time.After(patience)
	for {
		select {
		case u, ok := <-updates:
			if !ok {
				return errors.New("watching the link: subscription ended")
			}
			if u.Link != nil && u.Attrs().Name == linkName && u.Attrs().OperState == netlink.OperUp {
				return nil
			}
		case <-deadline:
			return errors.New("the link does not come up")
		}
	}
}

// addRoute adds a route of this kind (unix.RTN_...) in the thread's namespace; via is nil for kinds without gateway.
func addRoute(kind int, to netip.Prefix, via net.IP) error {
	if err := netlink.RouteAdd(&netlink.Route{Type: kind, Dst: ipNet(to), Gw: via}); err != nil {
		return fmt.Errorf("adding a route to %s: %w", to, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// sysctl sets a value, named with slashes, in the thread's network namespace.
func sysctl(name, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644)
}
