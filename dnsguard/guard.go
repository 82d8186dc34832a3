// Package dnsguard is the resolver that the app sees. It asks the policy before
// it asks anybody else, so a denied name sends no packet anywhere, and it
// remembers ([Pins]) which addresses it gave out for which name. It is no
// general resolver: it has no roots, and asks the host's own resolvers.
//
//	g := dnsguard.New(dnsguard.Config{Policy: p, Upstream: up, Pins: pins})
//	go g.Serve(ctx, tcpListeners, udpConns)
package dnsguard

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"

	"appfw/policy"
)

// Exchanger asks a question of a resolver elsewhere.
type Exchanger interface {
	// Exchange returns the whole answer to q, whatever its RCODE. The answer
	// has q's question.
	Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error)
}

// Config is what a Guard is made of. Only Log and Hosts may be nil.
type Config struct {
	Policy   func() *policy.Policy
	Upstream Exchanger
	Pins     *Pins
	Hosts    map[policy.Name][]netip.Addr // answered without asking (hosts(5))
	Log      func(Question)
	Now      func() time.Time
}

// Question is one question of the app's and what became of it.
type Question struct {
	Name    string // as asked, escaped as in master files (RFC 1035, 5.1)
	Type    string
	Verdict policy.Verdict
	Addrs   []netip.Addr // given out
}

// Guard answers the app's questions. Make it with New.
type Guard struct {
	Config
	cache    *cache
	inFlight singleflight.Group
	slots    chan struct{} // one for each question being answered
}

// maxInFlight bounds the questions that wait for an upstream. More are SERVFAIL.
const maxInFlight = 512

// New makes a Guard.
func New(c Config) *Guard {
	if c.Log == nil {
		c.Log = func(Question) {}
	}
	return &Guard{Config: c, cache: newCache(), slots: make(chan struct{}, maxInFlight)}
}

// Answer answers one query message. It is nil if the message deserves none: it
// is a response itself. ctx is that of the service, not of who asks: others may
// wait for the same answer.
func (g *Guard) Answer(ctx context.Context, q *dns.Msg) *dns.Msg {
	switch {
	case q.Response:
		return nil
	case q.Opcode != dns.OpcodeQuery:
		return failure(q, dns.RcodeNotImplemented, 0, "")
	case len(q.Question) != 1:
		return failure(q, dns.RcodeFormatError, 0, "")
	}
	question := q.Question[0]
	switch {
	case question.Qclass != dns.ClassINET:
		return failure(q, dns.RcodeNotImplemented, 0, "")
	case question.Qtype == dns.TypeAXFR, question.Qtype == dns.TypeIXFR, question.Qtype == dns.TypeANY,
		question.Qtype == dns.TypeMAILA, question.Qtype == dns.TypeMAILB, question.Qtype == dns.TypeOPT:
		return failure(q, dns.RcodeNotImplemented, 0, "")
	case question.Name == ".":
		return denied(q, dns.RcodeSuccess, "the root zone is not for the app")
	}

	log := Question{Name: question.Name, Type: dns.Type(question.Qtype).String()}
	name, err := policy.ParseName(question.Name)
	if err != nil {
		log.Verdict = policy.Verdict{Reason: "not the name of a host: " + err.Error()}
		g.Log(log)
		return denied(q, dns.RcodeNameError, log.Verdict.Reason)
	}
	log.Name = string(name)
	if m := g.local(q, name); m != nil {
		return m
	}
	log.Verdict = g.Policy().DecideName(name)
	if !log.Verdict.Allow {
		g.Log(log)
		return denied(q, dns.RcodeNameError, log.Verdict.Reason)
	}

	var m *dns.Msg
	if addrs := g.Hosts[name]; addrs != nil && (question.Qtype == dns.TypeA || question.Qtype == dns.TypeAAAA) {
		m = hostsAnswer(q, addrs)
	} else if m, err = g.resolve(ctx, name, q); err != nil {
		log.Verdict.Reason = "the host's resolvers failed: " + err.Error()
		g.Log(log)
		return failure(q, dns.RcodeServerFailure, dns.ExtendedErrorCodeNetworkError, "appfw: the host's resolvers failed")
	}
	// Pinned before the answer leaves, so that the app cannot be faster.
	log.Addrs = g.pin(name, m)
	g.Log(log)
	return m
}

// local answers what is known without asking: localhost (RFC 6761, 6.3), and
// for an address that was given out, the name it was given for.
func (g *Guard) local(q *dns.Msg, name policy.Name) *dns.Msg {
	if name == "localhost" || strings.HasSuffix(string(name), ".localhost") {
		return hostsAnswer(q, []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()})
	}
	if q.Question[0].Qtype == dns.TypePTR {
		addr, ok := reverse(string(name))
		if !ok {
			return nil
		}
		names := g.Pins.Names(addr, g.Now())
		if len(names) == 0 {
			return denied(q, dns.RcodeNameError, "the address was not resolved from a name")
		}
		m := reply(q)
		for _, n := range names {
			m.Answer = append(m.Answer, &dns.PTR{Hdr: header(q, dns.TypePTR, hostsTTL), Ptr: dns.Fqdn(string(n))})
		}
		return m
	}
	return nil
}

// resolve answers from the cache or from upstream. Identical questions at the
// same time are asked once.
func (g *Guard) resolve(ctx context.Context, name policy.Name, q *dns.Msg) (*dns.Msg, error) {
	k := key{name, q.Question[0].Qtype, wantsDNSSEC(q)}
	if e := g.cache.get(k, g.Now()); e != nil {
		return e.answer(q, g.Now()), nil
	}
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	default:
		return nil, errBusy
	}
	v, err, _ := g.inFlight.Do(k.String(), func() (any, error) {
		if e := g.cache.get(k, g.Now()); e != nil {
			return e, nil // answered since it was looked for
		}
		e, err := g.ask(ctx, k)
		if err == nil {
			g.cache.put(k, e)
		}
		return e, err
	})
	if err != nil {
		return nil, err
	}
	return v.(*entry).answer(q, g.Now()), nil
}

// maxChain bounds how many aliases a chain of CNAMEs may have.
const maxChain = 12

// ask asks upstream, with a question made afresh, and keeps of the answers what
// belongs to it: the chain of aliases that starts at the name, and its end.
func (g *Guard) ask(ctx context.Context, k key) (*entry, error) {
	e := &entry{stored: g.Now()}
	owner, seen := dns.Fqdn(string(k.name)), map[string]bool{}
	for {
		m, err := g.Upstream.Exchange(ctx, question(owner, k.qtype, k.dnssec))
		if err != nil {
			return nil, err
		}
		if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
			return nil, rcodeError(m.Rcode)
		}
		next := e.take(m, owner, k.qtype, seen)
		if len(seen) > maxChain+1 { // the name itself is one of them
			return nil, errChain
		}
		if next == "" {
			e.expires = e.stored.Add(e.ttl())
			return e, nil
		}
		owner = next
	}
}

// pin remembers the addresses in m as given out for name.
func (g *Guard) pin(name policy.Name, m *dns.Msg) []netip.Addr {
	var addrs []netip.Addr
	ttl := uint32(0)
	add := func(b []byte) {
		if a, ok := netip.AddrFromSlice(b); ok {
			addrs = append(addrs, a.Unmap())
		}
	}
	for _, rr := range m.Answer {
		ttl = max(ttl, rr.Header().Ttl)
		switch rr := rr.(type) {
		case *dns.A:
			add(rr.A.To4())
		case *dns.AAAA:
			add(rr.AAAA.To16())
		case *dns.HTTPS:
			for _, h := range hints(&rr.SVCB) {
				add(h)
			}
		case *dns.SVCB:
			for _, h := range hints(rr) {
				add(h)
			}
		}
	}
	g.Pins.Give(name, addrs, time.Duration(ttl)*time.Second, g.Now())
	return addrs
}

// hints are the addresses that a service binding recommends (RFC 9460, 7.3).
func hints(rr *dns.SVCB) (addrs [][]byte) {
	for _, v := range rr.Value {
		switch v := v.(type) {
		case *dns.SVCBIPv4Hint:
			for _, ip := range v.Hint {
				addrs = append(addrs, ip.To4())
			}
		case *dns.SVCBIPv6Hint:
			for _, ip := range v.Hint {
				addrs = append(addrs, ip.To16())
			}
		}
	}
	return addrs
}
