// Package proxy takes in the app's flows, decides on each, connects it to its
// destination and relays. Every flow goes one way, whatever it comes by: it is put
// into the table, decided on ([decide.Flow], in one place and before the app's connect(2)
// returns), dialled, let in, relayed, and its end recorded. What the flow then shows
// of itself (TLS SNI, HTTP Host) goes through the same decision.
//
// It knows no protocol of clients that ask for destinations (package explicit), no
// first bytes (package sniff) and no log (package journal).
//
//	p := proxy.New(proxy.Config{Policy: current, Pins: pins, Guard: guard, Routes: route.New(), Log: log})
//	asks := explicit.New(explicit.Config{Proxy: p})
//	go p.Serve(ctx, &proxy.GateIntake{Proxy: p, Gate: gateway.ByGate(gate), Explicit: asks})
//	// ...
//	p.Recheck() // after the policy has changed: cuts what it denies
package proxy

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"appfw/dnsguard"
	"appfw/netns/route"
	"appfw/policy"
	"appfw/proxy/decide"
	"appfw/proxy/journal"
	"appfw/proxy/relay"
	"appfw/proxy/upstream"
)

// Config is what a Proxy is made of. What does not say what nil means is needed.
type Config struct {
	Policy func() *policy.Policy
	Pins   *dnsguard.Pins
	Guard  *dnsguard.Guard
	Routes Routes
	Log    func(journal.Event) // must not block; nil: nothing is said
	Now    func() time.Time    // nil: time.Now
	// Chain is the chain of proxies with a name that verdicts have (Via). Nil if
	// there is none.
	Chain func(name string) *upstream.Chain
	// Owner names the process that a flow is of (policy.IsolateProcess); "" if
	// that cannot be told. It may take its time. Nil: it never can.
	Owner func(proto uint8, src, dst netip.AddrPort) string
	// Group names the group of programs that a flow is of: of many that share a gate,
	// each has room. Nil: all are of one.
	Group func(proto uint8, src, dst netip.AddrPort) string
	// Own are the addresses that appfw itself listens at: no flow may go there. Nil: none.
	Own []netip.AddrPort
	// Shared tells that the flows are of several apps: what one resolved is not
	// pinned for others.
	Shared bool
}

// Routes says what the host's routes call an address: a *[route.Table], or a fake.
type Routes interface {
	Kind(netip.Addr) route.Kind  // asks the kernel, if need be
	Known(netip.Addr) route.Kind // does not: route.Unknown if that takes asking
}

// Proxy relays the flows of one app, or of those that share a policy. Make it
// with New.
type Proxy struct {
	Config

	mu     sync.Mutex // never held together with that of a flow: see CONTRIBUTING.md
	flows  map[*Flow]struct{}
	last   uint64        // ID of a flow
	inward chan struct{} // one for each client that the app has not accepted
	asked  *Scope
	held   *relay.Budget // for what is not judged
}

// New makes a Proxy.
func New(c Config) *Proxy {
	if c.Log == nil {
		c.Log = func(journal.Event) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	p := &Proxy{Config: c, flows: make(map[*Flow]struct{}), inward: make(chan struct{}, maxInward), held: relay.NewBudget(relay.HeldBytes, relay.HeldTime)}
	p.asked = p.NewScope()
	p.asked.MaxOpening = maxAsked
	return p
}

// maxAsked bounds the connections that clients of the explicit proxy ask for and that
// are not made yet: descriptors bound them before.
const maxAsked = 1 << 16

// Asked is the scope of connections that clients of the explicit proxy ask for.
func (p *Proxy) Asked() *Scope { return p.asked }

// AdmitsClient tells whether a client may come to a port that appfw itself listens at,
// and records it if not.
func (p *Proxy) AdmitsClient(client, at netip.AddrPort) bool {
	f := Facts{Facts: decide.Facts{Proto: policy.TCP, In: true, Src: client, Dst: at}, Subject: Subject{Client: client.String()}}
	v := p.judge(p.Policy(), &f.Facts).Verdict
	if !v.Allowed() {
		p.Log(f.event(v))
	}
	return v.Allowed()
}

// Serve takes in what comes by an intake until ctx ends. It returns when all its
// flows have ended.
func (p *Proxy) Serve(ctx context.Context, in Intake) error {
	return in.Run(ctx, func(a Attempt) { p.Start(ctx, a) })
}

// Recheck cuts the flows that the policy denies by now. It is called after the
// policy changed.
func (p *Proxy) Recheck() {
	for _, f := range p.all() {
		f.recheck()
	}
}

// Alive returns when the proxy can take in flows; it does not if it hangs.
func (p *Proxy) Alive() {
	p.mu.Lock()
	_ = len(p.flows)
	p.mu.Unlock()
}
