package dnsguard

import (
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// Far away in each family: servers of the root zone. Nothing is sent to them.
var (
	far4 = netip.MustParseAddr("198.41.0.4")
	far6 = netip.MustParseAddr("2001:503:ba3e::2:30")
)

// leaveOut takes addresses out of an answer that are of a family in which the host has no
// way to any of them, if it has the other family. The app cannot tell: it has routes for
// both always, by which its resolver library puts addresses of the one or the other first
// (RFC 6724), and many programs try the first alone.
func (g *Guard) leaveOut(e *entry) {
	if g.Reaches == nil || len(e.addrs) == 0 || slices.ContainsFunc(e.addrs, g.Reaches) {
		return
	}
	other := far4
	if e.addrs[0].Is4() {
		other = far6
	}
	if !g.Reaches(other) {
		return // it is offline, which connecting tells
	}
	e.addrs, e.authentic = nil, false
	e.records = slices.DeleteFunc(e.records, func(rr dns.RR) bool {
		sig, signed := rr.(*dns.RRSIG)
		t := rr.Header().Rrtype
		return t == dns.TypeA || t == dns.TypeAAAA || signed && (sig.TypeCovered == dns.TypeA || sig.TypeCovered == dns.TypeAAAA)
	})
}
