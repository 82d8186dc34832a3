// Package dnsguard is the resolver that the app sees. It asks the policy before
// it asks anybody else, so a denied name sends no packet anywhere; questions
// and answers are made afresh on the way; and it remembers ([Pins]) which
// addresses it gave out for which name. It is no general resolver: it has no
// roots, and asks resolvers elsewhere.
//
//	g := dnsguard.New(dnsguard.Config{Policy: p, Upstream: up, Pins: pins})
//	go g.Serve(ctx, tcpListeners, udpConns)
package dnsguard

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"

	"appfw/policy"
)

// Exchanger asks a question of a resolver elsewhere.
type Exchanger interface {
	// Exchange returns the whole answer to q, whatever its RCODE. The answer
	// has q's question, and the AD bit only if the host trusts who says so.
	Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error)
}

// Config is what a Guard is made of. What does not say what nil means is needed.
type Config struct {
	Policy   func() *policy.Policy
	Upstream Exchanger // nil: only names of Hosts and Synthetic may be allowed
	Pins     *Pins
	Hosts    func() map[policy.Name][]netip.Addr // answered without asking (hosts(5)); nil: none are
	Zone     func(policy.Name) bool              // a resolver was named for it: it may leave though it is local; nil: none was
	Reaches  func(netip.Addr) bool               // the host has a way there; it asks nobody else; nil: it has everywhere
	Log      func(Question)                      // nil: nothing is recorded
	Now      func() time.Time                    // nil: time.Now

	// Synthetic has addresses for names that are resolved beyond a chain of
	// proxies (policy.Policy.Chained), and never here. Nil: no name is resolved there.
	Synthetic *Synthetic
}

// Question is one question of the app's and what became of it.
type Question struct {
	Name    string // as asked, escaped as in master files (RFC 1035, 5.1)
	Type    string
	Verdict policy.Verdict
	Addrs   []netip.Addr // given out
	Failed  bool         // it is allowed, and could not be answered
	Rcode   string       // of the answer to what is allowed, if that is no success: NXDOMAIN, SERVFAIL
	Error   string       // and why, in plain words
}

// Guard answers the app's questions. Make it with New.
type Guard struct {
	Config
	cache    *cache
	budget   *budget
	inFlight singleflight.Group
	slots    chan struct{} // one for each question being answered
}

// maxInFlight bounds the questions that are asked upstream at a time. More wait for
// their turn.
const maxInFlight = 512

// New makes a Guard.
func New(c Config) *Guard {
	if c.Log == nil {
		c.Log = func(Question) {}
	}
	if c.Hosts == nil {
		c.Hosts = func() map[policy.Name][]netip.Addr { return nil }
	}
	if c.Zone == nil {
		c.Zone = func(policy.Name) bool { return false }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Synthetic != nil && c.Synthetic.Now == nil {
		c.Synthetic.Now = c.Now
	}
	return &Guard{Config: c, cache: newCache(), budget: newBudget(), slots: make(chan struct{}, maxInFlight)}
}

// Forget forgets what was answered under other policies. It is called when the policy
// has changed.
func (g *Guard) Forget() { g.cache.forget() }

// Answer answers one query message. It is nil if the message deserves none: it
// is a response itself. When ctx ends while others wait for the same answer, one of
// them asks again.
func (g *Guard) Answer(ctx context.Context, q *dns.Msg) *dns.Msg {
	m, _ := g.query(ctx, q)
	return m
}

func (g *Guard) query(ctx context.Context, q *dns.Msg) (*dns.Msg, found) {
	if q.Response {
		return nil, found{}
	}
	if m := malformed(q); m != nil {
		return m, found{}
	}
	return g.answer(ctx, q)
}

// found is what an answer says, or why it says nothing.
type found struct {
	addrs   []netip.Addr
	aliases []policy.Name
	err     error // a *DeniedError if the policy denies it

	// Of an answer that the cache may have:
	entry  *entry
	pinned pinned
	log    Question
}

// DeniedError says that a name is not for who asks.
type DeniedError struct{ Verdict policy.Verdict }

func (e *DeniedError) Error() string { return e.Verdict.Reason() }

var (
	errNoName    = errors.New("the name does not exist")
	errNoAddress = errors.New("the name has no address")
)

// Resolve finds the addresses of a name, IPv6 and IPv4 in turn (RFC 8305, 4),
// and what they are pinned to, as if the app had asked for both. The error is a
// *DeniedError if they are not for it.
func (g *Guard) Resolve(ctx context.Context, name policy.Name) ([]netip.Addr, Pin, error) {
	types := []uint16{dns.TypeAAAA, dns.TypeA}
	if Localhost(name) { // which is 127.0.0.1 to most servers there
		slices.Reverse(types)
	}
	var answers [2]found
	var asking sync.WaitGroup
	for i, qtype := range types {
		asking.Go(func() {
			q := question(dns.Fqdn(string(name)), qtype, false)
			_, answers[i] = g.answer(ctx, q)
		})
	}
	asking.Wait()
	pin := Pin{Name: name}
	var addrs []netip.Addr
	for i := range max(len(answers[0].addrs), len(answers[1].addrs)) {
		for _, a := range answers {
			if i < len(a.addrs) {
				addrs = append(addrs, a.addrs[i])
			}
		}
	}
	for _, a := range answers {
		for _, alias := range a.aliases {
			if !slices.Contains(pin.Aliases, alias) {
				pin.Aliases = append(pin.Aliases, alias)
			}
		}
	}
	if len(addrs) > 0 {
		return addrs, pin, nil
	}
	for _, a := range answers {
		if a.err != nil {
			return nil, pin, a.err
		}
	}
	return nil, pin, errNoAddress
}

// addresses are those of an answer.
func addresses(m *dns.Msg) (addrs []netip.Addr) {
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			addrs = append(addrs, netip.AddrFrom4([4]byte(rr.A.To4())))
		case *dns.AAAA:
			addrs = append(addrs, netip.AddrFrom16([16]byte(rr.AAAA.To16())))
		}
	}
	return addrs
}

// Lookup is the addresses of a name that the policy allows, as they are given out
// to the app, and what they would be pinned to.
func (g *Guard) Lookup(ctx context.Context, rules *policy.Policy, name policy.Name) (addrs []netip.Addr, pin Pin, err error) {
	pin = Pin{Name: name}
	if addrs := g.Hosts()[name]; addrs != nil {
		return addrs, pin, nil
	}
	if !g.Zone(name) && isLocal(name) {
		return nil, pin, errLocal
	}
	v := rules.DecideName(name)
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		q := question(dns.Fqdn(string(name)), qtype, false)
		e, failed := g.resolve(ctx, rules, v, name, q)
		if failed != nil {
			err = failed
			continue
		}
		addrs = append(addrs, e.addrs...)
		pin.Aliases = append(pin.Aliases, e.aliases...)
	}
	if len(addrs) > 0 {
		return addrs, pin, nil
	}
	return nil, pin, err
}

var errLocal = errors.New("names of the local network are asked of nobody")

// malformed is the answer to a query that is none that can be answered; nil if
// it is one.
func malformed(q *dns.Msg) *dns.Msg {
	opts := 0
	for _, rr := range q.Extra {
		if rr.Header().Rrtype == dns.TypeOPT {
			opts++
		}
	}
	switch {
	case q.Opcode != dns.OpcodeQuery:
		return failure(q, dns.RcodeNotImplemented, 0, "")
	case len(q.Question) != 1, opts > 1: // RFC 6891, 6.1.1
		return failure(q, dns.RcodeFormatError, 0, "")
	case opts == 1 && q.IsEdns0().Version() != 0:
		return failure(q, dns.RcodeBadVers, 0, "")
	case q.Question[0].Qclass != dns.ClassINET:
		return failure(q, dns.RcodeNotImplemented, 0, "")
	}
	// Types from 128 to 255 are none of data (RFC 6895, 3.1), and neither is OPT.
	if t := q.Question[0].Qtype; t >= 128 && t <= 255 || t == dns.TypeOPT || t == dns.TypeNone {
		return failure(q, dns.RcodeNotImplemented, 0, "")
	}
	return nil
}

// withheld says why records of a type are not for the app; "" if they are.
// Types that nobody knows, and NULL (RFC 1035, 3.3.10), carry tunnels.
func withheld(qtype uint16) string {
	if _, known := dns.TypeToString[qtype]; known && qtype != dns.TypeNULL {
		return ""
	}
	return fmt.Sprintf("records of type %s are not for the app", dns.Type(qtype))
}
