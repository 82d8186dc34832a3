package dnsguard

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"appfw/policy"
)

// known answers what is known without asking anybody, and without the policy:
// localhost (RFC 6761, 6.3); for an address that was given out, the names it was
// given for; and the names by which programs find out whether they may use
// another resolver than this one.
func (g *Guard) known(q *dns.Msg, name policy.Name) *dns.Msg {
	qtype := q.Question[0].Qtype
	switch {
	case Localhost(name):
		e := hostsEntry(q.Question[0], []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, g.Now())
		return e.answer(q, g.Now())
	case canaries[name]:
		return denied(q, dns.RcodeNameError, "names are resolved here alone")
	case name == "resolver.arpa" || below(name, "resolver.arpa"): // RFC 9462, 6.4
		return denied(q, dns.RcodeSuccess, "names are resolved here alone")
	case below(name, "in-addr.arpa") || below(name, "ip6.arpa"):
		if g.Zone(name) {
			return nil
		}
		addr, ok := reverse(string(name))
		var pinned []Pin
		if ok {
			pinned = g.Pins.Of(addr, g.Now())
			if g.Synthetic != nil {
				if name, _ := g.Synthetic.Name(addr); name != "" { // which counts as a use
					pinned = []Pin{{Name: name}}
				}
			}
		}
		if len(pinned) == 0 {
			return denied(q, dns.RcodeNameError, "the address was not resolved from a name")
		}
		if qtype != dns.TypePTR {
			return denied(q, dns.RcodeSuccess, "an address has names only")
		}
		m := reply(q)
		for _, p := range pinned[:min(len(pinned), maxPointers)] {
			m.Answer = append(m.Answer, &dns.PTR{Hdr: header(q.Question[0], hostsTTL), Ptr: dns.Fqdn(string(p.Name))})
		}
		return m
	}
	return nil
}

// maxPointers bounds the names that are told of an address: those that it was given for
// last.
const maxPointers = 100

// Localhost tells whether a name is one of the loopback (RFC 6761, 6.3).
func Localhost(n policy.Name) bool { return n == "localhost" || below(n, "localhost") }

// canaries are the names without which browsers keep to the system's resolver:
// Mozilla's for DNS over HTTPS, Apple's for Private Relay.
var canaries = map[policy.Name]bool{
	"use-application-dns.net": true, "mask.icloud.com": true, "mask-h2.icloud.com": true,
}

// isLocal tells names that mean nothing beyond this host or its link, and so
// must not leave: single labels, mDNS (RFC 6762, 22.1), Tor (RFC 7686),
// names that can never exist (RFC 6761, 6.4), and other systems' (RFC 9476).
func isLocal(n policy.Name) bool {
	return !strings.Contains(string(n), ".") || below(n, "local") || below(n, "onion") || below(n, "invalid") || below(n, "alt")
}

// localHint says how a local name that a rule allows can be asked for.
func localHint(n policy.Name) string {
	switch {
	case below(n, "onion"):
		return " (Tor knows it: --allow " + string(n) + " via=tor)"
	case below(n, "invalid"), below(n, "alt"):
		return ""
	}
	return " (to have it asked: --dns " + string(n) + "=RESOLVER)"
}

func below(n policy.Name, zone string) bool { return strings.HasSuffix(string(n), "."+zone) }

// hostsEntry answers an address question from a list of addresses.
func hostsEntry(question dns.Question, addrs []netip.Addr, now time.Time) *entry {
	e := &entry{stored: now, expires: now.Add(hostsTTL * time.Second)}
	for _, a := range addrs {
		switch h := header(question, hostsTTL); {
		case a.Is4() && h.Rrtype == dns.TypeA:
			e.records = append(e.records, &dns.A{Hdr: h, A: a.AsSlice()})
		case a.Is6() && h.Rrtype == dns.TypeAAAA:
			e.records = append(e.records, &dns.AAAA{Hdr: h, AAAA: a.AsSlice()})
		}
	}
	return e
}

// reverse is the address whose name is asked for (RFC 1035 3.5, RFC 3596 2.5).
func reverse(name string) (netip.Addr, bool) {
	if s, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		labels := strings.Split(s, ".")
		if len(labels) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(labels[3] + "." + labels[2] + "." + labels[1] + "." + labels[0])
		return a, err == nil
	}
	s, ok := strings.CutSuffix(name, ".ip6.arpa")
	labels := strings.Split(s, ".")
	if !ok || len(labels) != 32 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i, l := range labels {
		n, err := strconv.ParseUint(l, 16, 4)
		if err != nil || len(l) != 1 {
			return netip.Addr{}, false
		}
		b[15-i/2] |= byte(n) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), true
}
