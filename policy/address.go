package policy

import (
	"encoding/binary"
	"net/netip"

	"github.com/gaissmai/bart"
)

// Keywords for addresses, as systemd.resource-control(5) defines them for
// IPAddressAllow=, and "private" beside them.
var keywords = map[string][]netip.Prefix{
	"localhost":  prefixes("127.0.0.0/8", "::1/128"),
	"link-local": prefixes("169.254.0.0/16", "fe80::/64"),
	"multicast":  prefixes("224.0.0.0/4", "ff00::/8"),
	// RFC 1918, RFC 6598 (shared, carrier-grade NAT), RFC 4193 (unique local).
	"private": prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
}

var loopbacks = keywords["localhost"]

// special are the addresses that no name may lead to unless an address rule
// allows them: those that the IANA special-purpose registries (RFC 6890) call
// not globally reachable, and those that reach more than one host.
var special = func() *bart.Table[string] {
	t := new(bart.Table[string])
	for kind, list := range map[string][]netip.Prefix{
		"loopback":      prefixes("127.0.0.0/8", "::1/128"),
		"link-local":    prefixes("169.254.0.0/16", "fe80::/10"),
		"private":       keywords["private"],
		"multicast":     keywords["multicast"],
		"this host":     prefixes("0.0.0.0/8", "::/128"),
		"broadcast":     prefixes("255.255.255.255/32"),
		"reserved":      prefixes("240.0.0.0/4", "192.0.0.0/24", "100::/64", "100:0:0:1::/64", "2001::/23", "5f00::/16", "fec0::/10"),
		"benchmarking":  prefixes("198.18.0.0/15", "2001:2::/48"),
		"documentation": prefixes("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"),
		"6to4 relay":    prefixes("192.88.99.0/24"),
	} {
		for _, p := range list {
			t.Insert(p, kind)
		}
	}
	return t
}()

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// Special says what kind of special-purpose address a is, "" if it is an
// ordinary one. An address that embeds another is what that is. ISATAP embeds
// within any prefix: an ordinary address in a private one stays private.
func Special(a netip.Addr) string {
	a = a.WithZone("").Unmap()
	inner := Embedded(a)
	if of, is := isatap(a); is {
		inner = of
	}
	kind, ok := special.Lookup(inner)
	if !ok && inner != a && !teredo.Contains(a) {
		kind, _ = special.Lookup(a)
	}
	return kind
}

var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291, 2.5.5.1
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765
)

// Embedded is the IPv4 address that packets to a are in the end delivered to,
// where a carries one: IPv4-mapped, IPv4-compatible, NAT64, 6to4, Teredo. Any
// other address is itself, without its zone.
func Embedded(a netip.Addr) netip.Addr {
	a = a.WithZone("").Unmap()
	if !a.Is6() {
		return a
	}
	b := a.As16()
	last := netip.AddrFrom4([4]byte(b[12:16]))
	switch {
	case nat64.Contains(a), translated.Contains(a):
		return last
	case nat64Local.Contains(a):
		return last // RFC 6052, 2.2: with a /96 below it, as is usual
	case sixToFour.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6]))
	case teredo.Contains(a): // the client's address is stored inverted
		return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]})
	case compatible.Contains(a) && binary.BigEndian.Uint32(b[12:]) > 1:
		return last
	}
	return a
}

// isatap is the IPv4 address that a carries as an interface identifier of ISATAP
// (RFC 5214, 6.1). Whoever has a prefix can give a host such an address, so it is
// not where packets are delivered to: it only may be.
func isatap(a netip.Addr) (inner netip.Addr, ok bool) {
	if !a.Is6() || a.Is4In6() {
		return inner, false
	}
	b := a.As16()
	ok = b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
	return netip.AddrFrom4([4]byte(b[12:16])), ok
}
