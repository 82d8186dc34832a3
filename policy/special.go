package policy

import (
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// Kind is a kind of special-purpose address. The zero value is an ordinary one.
type Kind uint8

const (
	Ordinary Kind = iota
	Loopback
	LinkLocal
	Private
	Multicast
	ThisHost // 0.0.0.0/8 and ::, which are nobody's (RFC 1122, 3.2.1.3)
	Broadcast
	Reserved
	Benchmarking
	Documentation
	SixToFourRelay
)

var kindNames = [...]string{
	"", "loopback", "link-local", "private", "multicast", "this host", "broadcast", "reserved", "benchmarking", "documentation", "6to4 relay",
}

// String is the kind in words; "" for Ordinary.
func (k Kind) String() string { return kindNames[k] }

// carried tells whether packets to such an address are taken anywhere. Others have no
// one host to go to.
func (k Kind) carried() bool { return k != Multicast && k != Broadcast && k != ThisHost }

// specials are the addresses that no name may lead to unless an address rule
// allows them: those that the IANA special-purpose registries (RFC 6890) call
// not globally reachable, and those that reach more than one host. Of those that lie
// within others, the narrower say the kind.
var specials = []struct {
	kind     Kind
	prefixes []netip.Prefix
	// Keyword is how rules name them, as systemd.resource-control(5) does for
	// IPAddressAllow=, and "private" beside that. It means the prefixes, or those
	// of named if it has any. "": they have none.
	keyword string
	named   []netip.Prefix
	// Everywhere is set where every host has a meaning for them, so that they can
	// stand for nothing else.
	everywhere bool
}{
	{kind: Loopback, prefixes: prefixes("127.0.0.0/8", "::1/128"), keyword: "localhost", everywhere: true},
	{kind: LinkLocal, prefixes: prefixes("169.254.0.0/16", "fe80::/10"), keyword: "link-local", named: prefixes("169.254.0.0/16", "fe80::/64"), everywhere: true},
	// RFC 1918, RFC 6598 (shared, carrier-grade NAT), RFC 4193 (unique local).
	{kind: Private, prefixes: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"), keyword: "private"},
	{kind: Multicast, prefixes: prefixes("224.0.0.0/4", "ff00::/8"), keyword: "multicast", everywhere: true},
	{kind: ThisHost, prefixes: prefixes("0.0.0.0/8", "::/128"), everywhere: true},
	{kind: Broadcast, prefixes: prefixes("255.255.255.255/32"), everywhere: true},
	{kind: Reserved, prefixes: prefixes("240.0.0.0/4", "192.0.0.0/24"), everywhere: true},
	{kind: Reserved, prefixes: prefixes("100::/64", "100:0:0:1::/64", "2001::/23", "5f00::/16", "fec0::/10")},
	{kind: Benchmarking, prefixes: prefixes("198.18.0.0/15", "2001:2::/48")},
	{kind: Documentation, prefixes: prefixes("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20")},
	{kind: SixToFourRelay, prefixes: prefixes("192.88.99.0/24")},
}

// anyWord is how rules name every host.
const anyWord = "any"

// kinds are specials, to look an address up in.
var kinds = func() *bart.Table[Kind] {
	t := new(bart.Table[Kind])
	for _, s := range specials {
		for _, p := range s.prefixes {
			t.Insert(p, s.kind)
		}
	}
	return t
}()

// keywords are the words that stand for hosts.
var keywords = func() []string {
	words := []string{anyWord}
	for _, s := range specials {
		if s.keyword != "" {
			words = append(words, s.keyword)
		}
	}
	slices.Sort(words)
	return words
}()

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// Keyword is what a word of a destination stands for: "localhost", "link-local",
// "multicast" and "any" as systemd.resource-control(5) has them, and "private". Nil:
// it is no keyword.
func Keyword(word string) []netip.Prefix {
	if word == anyWord {
		return prefixes("0.0.0.0/0", "::/0")
	}
	for _, s := range specials {
		switch {
		case word == "" || s.keyword != word:
		case s.named != nil:
			return slices.Clone(s.named)
		default:
			return slices.Clone(s.prefixes)
		}
	}
	return nil
}

// Special says what kind of special-purpose address a is. An address that embeds
// another is what that is. ISATAP embeds within any prefix: an ordinary address in a
// private one stays private.
func Special(a netip.Addr) Kind {
	a = a.WithZone("").Unmap()
	inner := Embedded(a)
	if of, is := isatap(a); is {
		inner = of
	}
	kind, ok := kinds.Lookup(inner)
	if !ok && inner != a && !teredo.Contains(a) {
		kind, _ = kinds.Lookup(a)
	}
	return kind
}

// isLoopback tells whether all of p is the host's loopback.
func isLoopback(p netip.Prefix) bool {
	kind, ok := kinds.LookupPrefix(p)
	return ok && kind == Loopback
}

// meantEverywhere tells whether p has addresses in it that mean something to every
// host, and can stand for nothing else.
func meantEverywhere(p netip.Prefix) bool {
	for _, s := range specials {
		if s.everywhere && slices.ContainsFunc(s.prefixes, p.Overlaps) {
			return true
		}
	}
	return mapped.Overlaps(p)
}
