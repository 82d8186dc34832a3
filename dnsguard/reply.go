package dnsguard

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

var (
	errBusy  = errors.New("too many questions at once")
	errChain = errors.New("the chain of aliases is too long")
)

// rcodeError is a failure that the upstream itself reported.
type rcodeError int

func (e rcodeError) Error() string { return "answered " + dns.RcodeToString[int(e)] }

const (
	// udpSize is the size of answers over UDP that pass everywhere without
	// fragments (RFC 9715).
	udpSize = 1232
	// hostsTTL and deniedTTL, in seconds, are short: another answer may be
	// right after the policy changed.
	hostsTTL  = 60
	deniedTTL = 10
)

// reply starts the answer to q: its question, and EDNS if it had that.
func reply(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	if q.IsEdns0() != nil {
		m.SetEdns0(udpSize, wantsDNSSEC(q))
	}
	return m
}

// denied says that the name, or the type of it, does not exist here, in the
// way that stub resolvers take for final: with an SOA (RFC 2308) and, where the
// app speaks EDNS, an extended error (RFC 8914).
func denied(q *dns.Msg, rcode int, reason string) *dns.Msg {
	m := failure(q, rcode, dns.ExtendedErrorCodeProhibited, "appfw: "+reason)
	zone := q.Question[0].Name
	if i, end := dns.NextLabel(zone, 0); !end && rcode == dns.RcodeNameError {
		zone = zone[i:]
	} else if end {
		zone = "."
	}
	m.Ns = []dns.RR{&dns.SOA{
		Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: deniedTTL},
		Ns:  "appfw.invalid.", Mbox: "nobody.invalid.",
		Serial: 1, Refresh: deniedTTL, Retry: deniedTTL, Expire: deniedTTL, Minttl: deniedTTL,
	}}
	return m
}

// failure is an answer without records; code and text are the extended error.
func failure(q *dns.Msg, rcode int, code uint16, text string) *dns.Msg {
	m := reply(q)
	m.Rcode = rcode
	if opt := m.IsEdns0(); opt != nil && text != "" {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: text})
	}
	return m
}

// hostsAnswer answers an address question from a list of them.
func hostsAnswer(q *dns.Msg, addrs []netip.Addr) *dns.Msg {
	m := reply(q)
	for _, a := range addrs {
		switch qtype := q.Question[0].Qtype; {
		case a.Is4() && qtype == dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: header(q, qtype, hostsTTL), A: a.AsSlice()})
		case a.Is6() && qtype == dns.TypeAAAA:
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: header(q, qtype, hostsTTL), AAAA: a.AsSlice()})
		}
	}
	return m
}

func header(q *dns.Msg, rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: q.Question[0].Name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

// question is one made afresh: nothing that the app put into its own goes out.
func question(name string, qtype uint16, dnssec bool) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	m.SetEdns0(udpSize, dnssec)
	return m
}

func wantsDNSSEC(q *dns.Msg) bool {
	opt := q.IsEdns0()
	return opt != nil && opt.Do()
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
