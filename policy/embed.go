package policy

import (
	"encoding/binary"
	"net/netip"
)

var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291, 2.5.5.1
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765
	mapped     = netip.MustParsePrefix("::ffff:0:0/96")   // RFC 4291, 2.5.5.2
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
