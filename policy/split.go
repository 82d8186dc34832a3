package policy

import (
	"net/netip"

	"github.com/gaissmai/bart"
)

// Split divides all addresses by what a filter that knows nothing but addresses,
// and the same in both directions, may do with them. Open are those to which every
// flow is allowed that goes out directly and shows no name, and from which every
// client is; with some, those with at least one such flow. Shut are all others.
// Both are in order, and as few prefixes as possible.
//
// Ports that only rules with ports open (853) do not count. An address that embeds
// another is shut: the filter would not see what it leads to. Only of ISATAP, which
// embeds within any prefix, are some open.
func (p *Policy) Split(some bool) (open, shut []netip.Prefix) {
	bounds := new(bart.Table[struct{}]) // within none of these the verdict changes but at another
	for _, q := range prefixes("::1/128", nat64.String(), nat64Local.String(), sixToFour.String(), teredo.String(), compatible.String(), translated.String()) {
		bounds.Insert(q, struct{}{})
	}
	for q := range kinds.All() {
		bounds.Insert(q, struct{}{})
	}
	for _, of := range []*Policy{p, p.from} {
		for q := range of.prefixes.All() {
			bounds.Insert(q, struct{}{})
		}
		for _, l := range of.lists {
			for q := range l.prefixes.All() {
				bounds.Insert(q, struct{}{})
			}
		}
	}
	var walk func(at netip.Prefix)
	walk = func(at netip.Prefix) {
		for q := range bounds.Subnets(at) {
			if q != at {
				lower, upper := halves(at)
				walk(lower)
				walk(upper)
				return
			}
		}
		if p.opens(sample(at), some) {
			open = appendPrefix(open, at)
		} else {
			shut = appendPrefix(shut, at)
		}
	}
	walk(netip.MustParsePrefix("0.0.0.0/0"))
	walk(netip.MustParsePrefix("::/0"))
	return open, shut
}

// sample is an address that stands for all of a prefix, within which no verdict changes but
// for what ISATAP embeds: it embeds nothing so, if it need not.
func sample(at netip.Prefix) netip.Addr {
	if _, ok := isatap(at.Addr()); ok && at.Bits() < 96 {
		_, upper := halves(at)
		return upper.Addr()
	}
	return at.Addr()
}

// opens tells whether all flows, or some, to and from the address are allowed.
func (p *Policy) opens(a netip.Addr, some bool) bool {
	if Embedded(a) != a {
		return false
	}
	to, from := !some, !some
	p.eachFlow(Flow{Addr: a}, func(f Flow, v Verdict, _ bool) bool {
		if some || !guarded(f.Proto, f.Port) {
			to = v.Allowed() && v.Via == Direct
		}
		return to == some
	})
	p.from.eachFlow(Flow{Addr: a}, func(f Flow, v Verdict, _ bool) bool {
		if f.Proto != ICMP { // no port is published for it
			from = v.Allowed()
		}
		return from == some
	})
	return to && from
}

// Merge joins neighbours among prefixes that are sorted and do not overlap.
func Merge(sorted []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range sorted {
		out = appendPrefix(out, p)
	}
	return out
}

// appendPrefix appends to a list in order, with neighbours joined.
func appendPrefix(list []netip.Prefix, p netip.Prefix) []netip.Prefix {
	for len(list) > 0 && p.Bits() > 0 {
		both := netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked()
		if lower, upper := halves(both); p != upper || list[len(list)-1] != lower {
			break
		}
		list, p = list[:len(list)-1], both
	}
	return append(list, p)
}

// halves divides a prefix that is longer than a single address.
func halves(p netip.Prefix) (lower, upper netip.Prefix) {
	at := p.Addr().AsSlice()
	at[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	a, _ := netip.AddrFromSlice(at)
	return netip.PrefixFrom(p.Addr(), p.Bits()+1), netip.PrefixFrom(a, p.Bits()+1)
}
