package netns

import "net/netip"

// WayIn is how a client of the host's comes to a port of the app's: on the app's own
// loopback or over the veth, and from where to where.
type WayIn struct {
	Loopback bool
	From, To netip.AddrPort // port 0 is any
}

// WaysIn are the ways of a client to a port, in the order in which to try them. The app
// sees the client's address if that means something in its namespace.
func WaysIn(client netip.AddrPort, port uint16) []WayIn {
	local := func(a netip.Addr) WayIn {
		return WayIn{true, netip.AddrPortFrom(a, 0), netip.AddrPortFrom(a, port)}
	}
	v4, v6 := local(netip.AddrFrom4([4]byte{127, 0, 0, 1})), local(netip.IPv6Loopback())
	switch a := client.Addr(); {
	case a.IsLoopback() && a.Is4():
		return []WayIn{v4, v6}
	case a.IsLoopback(): // many programs listen to IPv4 alone
		return []WayIn{v6, v4}
	case a.Is4():
		return []WayIn{{false, client, netip.AddrPortFrom(App4, port)}}
	case a.IsLinkLocalUnicast(): // means nothing on another link
		return []WayIn{{false, netip.AddrPortFrom(Gateway6, 0), netip.AddrPortFrom(App6, port)}}
	default:
		return []WayIn{{false, client, netip.AddrPortFrom(App6, port)}}
	}
}
