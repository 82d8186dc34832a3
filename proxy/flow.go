package proxy

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"appfw/dnsguard"
	"appfw/policy"
	"appfw/proxy/journal"
	"appfw/proxy/relay"
	"appfw/proxy/upstream"
)

// State is how far a flow has come:
//
//	begin → Deciding → Dialling → Accepting → Open → Ended
//	           │           │          │                ↑
//	         denied      failed,    left,              │
//	           │         left, cut  cut                │
//	           └───────────┴──────────┴────────────────┘
type State uint8

const (
	Deciding  State = iota // nothing has left for it; packets of it wait
	Dialling               // it is allowed, and its destination has not answered
	Accepting              // the destination has answered: who wants the flow is let in
	Open                   // data passes
	Ended
)

var stateNames = [...]string{"deciding", "dialling", "accepting", "open", "ended"}

func (s State) String() string { return stateNames[s] }

// Flow is one TCP connection, the datagrams between two sockets, or one echo
// request with its answer: from its first packet to its last record. It alone
// says of itself what happened, and that it ended exactly once.
type Flow struct {
	ID      uint64 // of the run; from 1
	proxy   *Proxy
	scope   *Scope
	group   string  // of programs, if that was asked for
	counted bool    // it counts in its scope, and packets find it by its key; guarded by proxy.mu
	attempt Attempt // nil once a connection is open; guarded by proxy.mu for others than the flow's goroutine
	began   time.Time
	cancel  context.CancelCauseFunc // ends its context, and so the flow

	sent, received atomic.Int64 // payload bytes, as the app sees it

	mu     sync.Mutex // guards what follows
	state  State
	facts  Facts
	way    way            // that it goes, with the verdict on it
	rules  *policy.Policy // by which that was decided
	others []way          // that are tried where that fails
	real   *realWay       // where a flow to a name that has another way out elsewhere went directly; nil for others
	shown  []policy.Name  // the names that it has shown
	many   bool           // more than are remembered
	looked bool           // the names that it shows are looked at
	stream *relay.Relay   // nil before it is open, and of other protocols

	packets       atomic.Pointer[relay.Datagrams] // nil before it is open, and of other protocols
	datagramsOpen bool                            // it is counted so; guarded by proxy.mu
}

// way is one way that an allowed flow may go.
type way struct {
	dst     netip.AddrPort
	pin     *dnsguard.Pin // by which somebody who asked for a name came to dst; nil: by none
	verdict policy.Verdict
	name    policy.Name     // that it is allowed for, or best known by
	chain   *upstream.Chain // nil: directly
}

// realWay is an address that was dialled for one that stands for a name.
type realWay struct {
	dst netip.AddrPort
	pin dnsguard.Pin
}

// maxShown bounds the names that are remembered of a flow.
const maxShown = 32

// decide decides on the flow, by the rules of now, and says so.
func (f *Flow) decide(ctx context.Context) error {
	return f.decideFrom(func(rules *policy.Policy) ([]way, error) { return f.proxy.ways(ctx, rules, &f.facts) })
}

// decideNow is decide without waiting for anybody: errWaits if it would have to.
func (f *Flow) decideNow() error {
	return f.decideFrom(func(rules *policy.Policy) ([]way, error) { return f.proxy.waysNow(rules, &f.facts) })
}

func (f *Flow) decideFrom(decide func(*policy.Policy) ([]way, error)) error {
	for {
		rules := f.proxy.Policy()
		ways, err := decide(rules)
		f.mu.Lock()
		if f.proxy.Policy() != rules { // Recheck may have passed by this flow already
			f.mu.Unlock()
			continue
		}
		if len(ways) > 0 && f.barred() {
			ways[0].verdict = barredVerdict
			ways, err = nil, f.proxy.denied(&f.facts, ways[0])
		}
		f.rules = rules
		if err == nil {
			f.way, f.state = ways[0], Dialling
			if len(ways) > 1 {
				f.others = ways[1:]
			}
			f.looked = f.way.verdict.Needs != policy.NeedsNothing
			f.say(f.way.verdict)
		}
		f.mu.Unlock()
		return err
	}
}

// decidedBy are the rules by which the flow was decided, or is allowed still.
func (f *Flow) decidedBy() *policy.Policy {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rules
}

// say says what was decided on the flow. f.mu is held.
func (f *Flow) say(v policy.Verdict) {
	e := f.event(v)
	e.Allowed = !v.Allowed()
	f.proxy.Log(e)
}

// event is what is said of the flow. f.mu is held.
func (f *Flow) event(v policy.Verdict) journal.Event {
	e := f.facts.event(v)
	e.Flow, e.Name = f.ID, string(f.way.name)
	if f.way.dst.IsValid() && !f.facts.In {
		e.Dst = f.way.dst
	}
	return e
}

// enter goes on to a state; false if the flow has ended.
func (f *Flow) enter(s State) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == Ended {
		return false
	}
	f.state = s
	return true
}

// State is how far the flow has come.
func (f *Flow) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

// settle says where an allowed flow went in the end, and judges that by the rules
// of now: those that it was decided by may have been for another address.
func (f *Flow) settle(w way, real *realWay) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.way, f.real, f.others = w, real, nil
	if v := f.again(true); !v.Allowed() {
		return f.cut(v)
	}
	return nil
}

// judge decides on a name that the flow shows.
func (f *Flow) judge(shown policy.Name) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch { // before, so that a change of the policy meanwhile sees it
	case slices.Contains(f.shown, shown):
	case len(f.shown) == maxShown:
		f.many = true
	default:
		f.shown = append(f.shown, shown)
	}
	v := f.proxy.decideShown(f.proxy.Policy(), &f.facts.Facts, f.way, shown)
	if v.Allowed() {
		return nil
	}
	e := f.event(v)
	e.Name, e.Allowed = string(shown), true
	f.proxy.Log(e)
	return &Denied{Verdict: v, said: true}
}

// recheck cuts the flow if the policy denies it by now.
func (f *Flow) recheck() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == Deciding || f.state == Ended {
		return // what is being decided, will be by the rules of now
	}
	if v := f.again(false); !v.Allowed() {
		_ = f.cut(v)
	}
}

// cut ends an allowed flow that is denied by now. f.mu is held.
func (f *Flow) cut(v policy.Verdict) error {
	denied := &Denied{Verdict: v, What: f.event(v).What(), said: true}
	f.say(v)
	f.cancel(denied)
	return denied
}

// barred tells whether its user may not use the proxy any more.
func (f *Flow) barred() bool {
	still := f.facts.Subject.Still
	return still != nil && !still()
}

var barredVerdict = policy.Denial("its user may not use the proxy any more, or under another policy")

// again decides on an allowed flow as if it began now, if there are other rules or
// changed tells that something else is. f.mu is held.
func (f *Flow) again(changed bool) policy.Verdict {
	if f.barred() {
		return barredVerdict
	}
	rules := f.proxy.Policy()
	if rules == f.rules && !changed {
		return f.way.verdict
	}
	v := f.decideBy(rules)
	if v.Allowed() {
		f.rules = rules // and the old ones may be forgotten
	}
	return v
}

var anotherWay = policy.Denial("the policy has changed, and it would go out another way now")

// decideBy decides by other rules on all that is known of the flow. f.mu is held.
func (f *Flow) decideBy(rules *policy.Policy) policy.Verdict {
	p, facts := f.proxy, f.facts.Facts
	facts.Dst, facts.Pin = f.way.dst, f.way.pin
	d := p.judge(rules, &facts)
	v := d.Verdict
	if !v.Allowed() || f.facts.In {
		return v
	}
	if p.chain(v.Via) != f.way.chain {
		return anotherWay
	}
	if f.real != nil {
		real := facts
		real.Dst, real.Pin, real.Name, real.Stands = f.real.dst, &f.real.pin, "", false
		switch v := p.judgeReal(rules, &real, p.Routes.Kind).Verdict; {
		case !v.Allowed():
			return v
		case v.Via != policy.Direct:
			return anotherWay
		}
	}
	if v.Needs == policy.NeedsNothing {
		return v
	}
	if !f.looked && f.state == Open || f.many { // it may have shown one that is denied
		return policy.Denial("the policy has changed, and not every name that the flow has shown is known")
	}
	f.looked = true
	for _, shown := range f.shown {
		if v := p.decideShown(rules, &facts, f.way, shown); !v.Allowed() {
			return v
		}
	}
	return v
}

// deny says that the flow is denied from here on, for what it has sent.
func (f *Flow) deny(reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.say(policy.Denial(reason))
}

// end ends the flow, once. A flow that was denied before anything left has said so
// already; of any other, it is recorded how it ended.
func (f *Flow) end(how journal.End, failed string) {
	f.mu.Lock()
	was := f.state
	f.state = Ended
	if was != Ended && was != Deciding {
		e := f.event(f.way.verdict)
		e.Closed, e.End, e.Duration = true, how, f.proxy.Now().Sub(f.began)
		e.Sent, e.Received = f.sent.Load(), f.received.Load()
		if failed != "" {
			e.Failed = failed
			e.Verdict = e.Verdict.Because(e.Verdict.Reason() + "; connecting failed: " + failed)
		}
		f.proxy.Log(e)
	}
	f.mu.Unlock()
	f.proxy.forget(f)
	f.cancel(nil)
}
