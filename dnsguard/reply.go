package dnsguard

import (
	"errors"

	"github.com/miekg/dns"
)

var (
	errBusy  = errors.New("too many questions at once")
	errChain = errors.New("the chain of aliases is too long")
	errAlias = errors.New("the name leads to one that is none, or that is local")
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

// header is that of a record which answers the question; ttl is in seconds.
func header(q dns.Question, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: ttl}
}

// question is one made afresh: nothing that the app put into its own goes out.
func question(name string, qtype uint16, dnssec bool) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	m.SetEdns0(udpSize, dnssec)
	return m
}

// wantsAD tells whether who asks understands that an answer is authentic (RFC 6840,
// 5.7).
func wantsAD(q *dns.Msg) bool { return q.AuthenticatedData || wantsDNSSEC(q) }

func wantsDNSSEC(q *dns.Msg) bool {
	opt := q.IsEdns0()
	return opt != nil && opt.Do()
}
