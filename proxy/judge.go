package proxy

import (
	"context"
	"errors"
	"net/netip"

	"appfw/dnsguard"
	"appfw/netns/route"
	"appfw/policy"
	"appfw/proxy/decide"
	"appfw/proxy/journal"
	"appfw/proxy/relay"
)

// Denied is why a flow that is denied is none.
type Denied struct {
	Verdict policy.Verdict
	What    string        // it is, for people: "tcp example.com:443"
	said    bool          // there is a record of it
	event   journal.Event // which is to be recorded, if not
}

func (d *Denied) Error() string { return "denied " + d.What + ": " + d.Verdict.Reason() }

// Reason says in plain words why.
func (d *Denied) Reason() string { return d.Verdict.Reason() }

// Is has a relay that is cut by it reset both connections.
func (d *Denied) Is(target error) bool { return target == relay.ErrAbort }

// judge finds out what the verdict on facts needs, and decides. An address that is
// allowed for a name stays pinned to it.
func (p *Proxy) judge(rules *policy.Policy, f *decide.Facts) decide.Decision {
	return p.judgeBy(rules, f, p.Routes.Kind)
}

// judgeBy is judge with a way to ask the routes.
func (p *Proxy) judgeBy(rules *policy.Policy, f *decide.Facts, kind func(netip.Addr) route.Kind) decide.Decision {
	p.stand(f)
	if f.Name != "" || f.In {
		return decide.Flow(rules, f)
	}
	return p.judgeReal(rules, f, kind)
}

// stand finds out for what an address stands.
func (p *Proxy) stand(f *decide.Facts) {
	a := f.Dst.Addr()
	if f.In {
		a = f.Src.Addr().WithZone("")
	}
	if p.Guard != nil && p.Guard.Synthetic != nil {
		f.Name, f.Stands = p.Guard.Synthetic.Name(a)
	}
}

// judgeReal is judge for an address that stands for itself.
func (p *Proxy) judgeReal(rules *policy.Policy, f *decide.Facts, kind func(netip.Addr) route.Kind) decide.Decision {
	f.Own, f.Pins = p.Own, nil
	if f.Pin == nil && !p.Shared && f.Dst.Addr().IsValid() {
		f.Pins = p.Pins.Of(f.Dst.Addr(), p.Now())
	}
	d := decide.Flow(rules, f)
	if d.AsksRoute {
		f.Route = kind(f.Dst.Addr())
		d = decide.Flow(rules, f)
	}
	f.Pins = nil // they are many, perhaps, and change
	if d.Pinned && f.Pin == nil {
		p.Pins.Keep(f.Dst.Addr(), d.Name, p.Now())
	}
	return d
}

// Decide says what is decided on a flow of the app's to an address.
func (p *Proxy) Decide(rules *policy.Policy, proto policy.Proto, dst netip.AddrPort) decide.Decision {
	return p.judge(rules, &decide.Facts{Proto: proto, Dst: dst})
}

// decideShown decides on a name that a flow shows which goes a way.
func (p *Proxy) decideShown(rules *policy.Policy, f *decide.Facts, w way, shown policy.Name) policy.Verdict {
	at := *f
	at.Dst = w.dst
	p.stand(&at)
	if w.pin != nil && w.pin.Name == shown {
		return decide.Shown(rules, &at, shown, w.pin)
	}
	if pin, ok := p.Pins.Find(w.dst.Addr(), shown, p.Now()); ok {
		return decide.Shown(rules, &at, shown, &pin)
	}
	return decide.Shown(rules, &at, shown, nil)
}

// standsFor is the name that an address stands for; "" if it stands for itself.
func (p *Proxy) standsFor(a netip.Addr) policy.Name {
	f := decide.Facts{Dst: netip.AddrPortFrom(a, 0)}
	p.stand(&f)
	return f.Name
}

// ways decides on a flow that begins, and returns how it may go, in the order in
// which to try them. A name that was asked for is judged before anything is asked of
// anybody, and then each of its addresses, as if the app had resolved it and then
// connected.
func (p *Proxy) ways(ctx context.Context, rules *policy.Policy, f *Facts) ([]way, error) {
	if f.Asked == "" {
		return p.wayOf(f, p.judge(rules, &f.Facts))
	}
	if !dnsguard.Localhost(f.Asked) { // that is an address in all but spelling
		if d := decide.Flow(rules, &f.Facts); !d.Verdict.Allowed() {
			return nil, p.denied(f, way{dst: f.Dst, verdict: d.Verdict, name: f.Asked})
		}
	}
	addrs, pin, err := p.Guard.Resolve(ctx, f.Asked)
	if denied, ok := errors.AsType[*dnsguard.DeniedError](err); ok {
		return nil, &Denied{Verdict: denied.Verdict, What: "dns " + string(f.Asked), said: true}
	}
	if err != nil {
		return nil, &unresolved{f.Asked, err}
	}
	return p.waysTo(rules, f, addrs, &pin)
}

// wayOf is the way that was decided on, or the denial.
func (p *Proxy) wayOf(f *Facts, d decide.Decision) ([]way, error) {
	w := way{dst: f.Dst, pin: f.Pin, verdict: d.Verdict, name: d.Name}
	if !d.Verdict.Allowed() {
		return nil, p.denied(f, w)
	}
	w.chain = p.chain(d.Verdict.Via)
	return []way{w}, nil
}

// errWaits says that deciding takes asking somebody: the kernel, or a resolver.
var errWaits = errors.New("deciding takes time")

// waysNow is ways without waiting for anybody.
func (p *Proxy) waysNow(rules *policy.Policy, f *Facts) ([]way, error) {
	if f.Asked != "" {
		return nil, errWaits
	}
	d := p.judgeBy(rules, &f.Facts, p.Routes.Known)
	if d.AsksRoute {
		return nil, errWaits
	}
	return p.wayOf(f, d)
}

// waysTo decides on the addresses of a name that was asked for.
func (p *Proxy) waysTo(rules *policy.Policy, f *Facts, addrs []netip.Addr, pin *dnsguard.Pin) (allowed []way, err error) {
	for _, addr := range addrs {
		at := f.Facts
		at.Dst, at.Pin = netip.AddrPortFrom(addr, f.Dst.Port()), pin
		d := p.judge(rules, &at)
		w := way{dst: at.Dst, pin: pin, verdict: d.Verdict, name: d.Name}
		switch {
		case d.Verdict.Allowed():
			w.chain = p.chain(d.Verdict.Via)
			if at.Name != "" {
				return []way{w}, nil // the others stand for the same name
			}
			allowed = append(allowed, w)
		case err == nil:
			w.name = f.Asked
			err = p.denied(f, w)
		}
	}
	if len(allowed) > 0 {
		return allowed, nil
	}
	return nil, err
}

// denied is the denial of a flow that would go a way.
func (p *Proxy) denied(f *Facts, w way) *Denied {
	name := string(w.name)
	if name == "" {
		name = f.Called
	}
	if name == "" && f.Asked == "" {
		name = p.NameOf(w.dst.Addr())
	}
	e := f.event(w.verdict)
	if e.Name = name; !f.In {
		e.Dst = w.dst
	}
	return &Denied{Verdict: w.verdict, What: e.What(), event: e}
}

// unresolved is the failure to resolve a name that was asked for. There is a record
// of it as a question.
type unresolved struct {
	name policy.Name
	err  error
}

func (u *unresolved) Error() string { return string(u.name) + ": " + u.err.Error() }
func (u *unresolved) Unwrap() error { return u.err }

// isLocal tells whether an address is this host's own. Unsure is yes.
func (p *Proxy) isLocal(a netip.Addr) bool {
	k := p.Routes.Kind(a)
	return k == route.Local || k == route.Unknown
}

// NameOf is the name that the app was last given the address for.
func (p *Proxy) NameOf(a netip.Addr) string {
	if name := p.standsFor(a); name != "" {
		return string(name)
	}
	if p.Shared || p.Pins == nil {
		return ""
	}
	if pinned := p.Pins.Of(a, p.Now()); len(pinned) > 0 {
		return string(pinned[0].Name)
	}
	return ""
}
