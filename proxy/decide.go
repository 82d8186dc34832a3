package proxy

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"appfw/dnsguard"
	"appfw/netns"
	"appfw/netns/tcp"
	"appfw/policy"
)

// decision is what was decided on a flow, and under which policy.
type decision struct {
	origin
	proto   policy.Proto
	dst     netip.AddrPort
	ingress bool          // it comes from a client: dst is that, with the port of the host that it came to
	asked   *dnsguard.Pin // by which a client of the explicit proxy came to dst; nil: by none
	rules   *policy.Policy
	verdict policy.Verdict
	chain   *Chain      // by which an allowed flow goes out; nil: directly
	name    policy.Name // that it was allowed for, or is best known by
	looked  bool        // the names that it shows matter, and are looked at
	started time.Time

	shown *shownNames
	real  *real // where a flow to a name that has another way out elsewhere went directly; nil for others
}

// real is an address that was dialled for a synthetic one.
type real struct {
	dst netip.AddrPort
	pin dnsguard.Pin
}

// origin is who wants a flow.
type origin struct {
	owner       func() string // names its process; nil: that cannot be told
	client      string        // of the explicit proxy: its address
	user        string        // that it is known as
	credentials string        // that it gave, whatever for; they isolate
	still       func() bool   // whether it may use the proxy; nil: that does not change
}

// shownNames are the names that a flow has shown.
type shownNames struct {
	mu    sync.Mutex
	names []policy.Name
	many  bool // more than were remembered
}

// maxShown bounds the names that are remembered of a flow.
const maxShown = 32

func (s *shownNames) add(n policy.Name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case slices.Contains(s.names, n):
	case len(s.names) == maxShown:
		s.many = true
	default:
		s.names = append(s.names, n)
	}
}

// decide decides on a flow that begins.
func (p *Proxy) decide(from origin, proto policy.Proto, dst netip.AddrPort, asked *dnsguard.Pin) decision {
	d := decision{origin: from, proto: proto, dst: dst, asked: asked, rules: p.Policy(), started: p.Now(), shown: new(shownNames)}
	d.verdict, d.name = p.decideAsked(d.rules, proto, dst, asked)
	d.looked = d.verdict.Needs == policy.NeedsName
	if d.verdict.Allowed() {
		d.chain = p.chain(d.verdict.Via)
	}
	return d
}

// decideFrom decides on a flow that a client of a published port begins.
func (p *Proxy) decideFrom(proto policy.Proto, client netip.AddrPort, port uint16) decision {
	d := decision{
		origin: origin{client: client.String()}, ingress: true, proto: proto, dst: netip.AddrPortFrom(client.Addr(), port),
		rules: p.Policy(), started: p.Now(), shown: new(shownNames),
	}
	d.verdict = p.decideClient(d.rules, proto, d.dst)
	return d
}

// decideClient judges a client of the host's port that from has. Addresses that mean
// something to the app are nobody's: a datagram may come from wherever it says.
func (p *Proxy) decideClient(rules *policy.Policy, proto policy.Proto, from netip.AddrPort) policy.Verdict {
	a := from.Addr().WithZone("")
	if _, ours := p.synthetic(a); ours && len(rules.Upstreams) > 0 {
		return policy.Denial("it is an address that stands for a name")
	}
	if own(a) {
		return policy.Denial("it is an address of appfw's own")
	}
	return rules.DecideFrom(proto, a, from.Port())
}

// own tells whether an address is one of the veth's.
func own(a netip.Addr) bool {
	return a == netns.Gateway4 || a == netns.Gateway6 || a == netns.App4 || a == netns.App6
}

// judge decides on a name that a flow shows, and reports a denial.
func (p *Proxy) judge(d *decision, shown policy.Name) policy.Verdict {
	d.shown.add(shown) // before, so that Recheck sees it if the policy changes meanwhile
	v := p.decideShown(p.Policy(), d, shown)
	if !v.Allowed() {
		e := d.event(v)
		e.Name = string(shown)
		p.Log(e)
	}
	return v
}

// event is one of the flow.
func (d *decision) event(v policy.Verdict) Event {
	return Event{Verdict: v, Proto: d.proto.String(), Dst: d.dst, Name: string(d.name), Ingress: d.ingress, Client: d.client, User: d.user}
}

// ended reports the end of a flow that was allowed.
func (p *Proxy) ended(d *decision, v policy.Verdict, sent, received int64) {
	e := p.end(d, v)
	e.Sent, e.Received = sent, received
	p.Log(e)
}

// end is the end of a flow as an event.
func (p *Proxy) end(d *decision, v policy.Verdict) Event {
	e := d.event(v)
	e.Closed, e.Duration = true, p.Now().Sub(d.started)
	return e
}

// again decides on a flow as if it began now, if the policy has changed.
func (p *Proxy) again(d *decision) policy.Verdict {
	if d.still != nil && !d.still() {
		return policy.Denial("its user may not use the proxy any more, or under another policy")
	}
	rules := p.Policy()
	if rules == d.rules {
		return d.verdict
	}
	v := p.decideBy(rules, d)
	if v.Allowed() {
		d.rules = rules // and the old ones may be forgotten
	}
	return v
}

// decideBy decides by other rules on a flow that goes on.
func (p *Proxy) decideBy(rules *policy.Policy, d *decision) policy.Verdict {
	if d.ingress {
		return p.decideClient(rules, d.proto, d.dst)
	}
	v, _ := p.decideAsked(rules, d.proto, d.dst, d.asked)
	if v.Allowed() && p.chain(v.Via) != d.chain {
		return policy.Denial("the policy has changed, and it would go out another way now")
	}
	if v.Allowed() && d.real != nil {
		if v, _ := p.decideReal(rules, d.proto, d.real.dst, &d.real.pin); !v.Allowed() {
			return v
		}
	}
	if !v.Allowed() || v.Needs == policy.NeedsNothing {
		return v
	}
	d.shown.mu.Lock()
	defer d.shown.mu.Unlock()
	if !d.looked || d.shown.many { // it may have shown one that is denied
		return policy.Denial("the policy has changed, and not every name that the flow has shown is known")
	}
	for _, shown := range d.shown.names {
		if v := p.decideShown(rules, d, shown); !v.Allowed() {
			return v
		}
	}
	return v
}

// deny reports a flow that was allowed before.
func (p *Proxy) deny(d *decision, v policy.Verdict) { p.Log(d.event(v)) }

// flow is one that goes on until it ends, or is cut.
type flow interface{ abort() }

// track has a flow that begins cut when the policy denies it. If it does so by
// now, the verdict says it, and the flow is not tracked.
func (p *Proxy) track(f flow, d *decision) policy.Verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.again(d)
	if v.Allowed() {
		p.flows[f] = d
	}
	return v
}

// untrack ends that.
func (p *Proxy) untrack(f flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.flows, f)
}

// Recheck cuts the flows that the policy denies by now. It is called after the
// policy changed.
func (p *Proxy) Recheck() {
	p.mu.Lock()
	intakes := slices.Clone(p.intakes)
	for f, d := range p.flows {
		if v := p.again(d); !v.Allowed() {
			p.deny(d, v)
			f.abort()
		}
	}
	p.mu.Unlock()
	for _, in := range intakes {
		in.mu.Lock()
		for _, c := range in.pending {
			if c.cancel == nil || !c.letIn.IsZero() {
				continue // appfw's own, or judged again when it is accepted
			}
			d := c.decision // which is read by who dials
			if v := in.again(&d); !v.Allowed() {
				c.denied = &v
				c.cancel()
			}
		}
		in.mu.Unlock()
	}
}

// Decide judges a flow by its address and by the names the address is pinned
// to. name is the one that it was allowed for, or that it is best known by.
func (p *Proxy) Decide(rules *policy.Policy, proto policy.Proto, dst netip.AddrPort) (v policy.Verdict, name policy.Name) {
	return p.decideAsked(rules, proto, dst, nil)
}

// decideAsked is Decide for a flow that is known to be for one name, if it is.
func (p *Proxy) decideAsked(rules *policy.Policy, proto policy.Proto, dst netip.AddrPort, asked *dnsguard.Pin) (v policy.Verdict, name policy.Name) {
	if name, ours := p.synthetic(dst.Addr()); name != "" || ours && len(rules.Upstreams) > 0 {
		if name == "" {
			return policy.Denial("it is an address that stands for a name, and was given out for none (synthetic PREFIX has others for that)"), ""
		}
		return rules.Decide(policy.Flow{Proto: proto, Port: dst.Port(), Name: name, Pinned: true}), name
	}
	return p.decideReal(rules, proto, dst, asked)
}

// decideReal is decideAsked for an address that stands for itself.
func (p *Proxy) decideReal(rules *policy.Policy, proto policy.Proto, dst netip.AddrPort, asked *dnsguard.Pin) (v policy.Verdict, name policy.Name) {
	if own(dst.Addr()) {
		return policy.Denial("it is an address of appfw's own"), ""
	}
	if Among(p.Own, dst) {
		return policy.Denial("it is a port of appfw's own"), ""
	}
	v, name = p.decidePinned(rules, proto, dst, asked)
	if v.Allowed() && (v.ByName || v.Rule() == nil) && onThisHost(dst.Addr()) {
		// A name's owner must not be able to point the app at the host itself,
		// and its services are no more open by default than its loopback.
		v = policy.Denial("it is an address of this host, and no rule names that")
		v.Lacks = policy.Target{Proto: proto, Addr: dst.Addr(), Port: dst.Port()}
	}
	return v, name
}

// synthetic is the name that an address of dnsguard's stands for.
func (p *Proxy) synthetic(a netip.Addr) (name policy.Name, ours bool) {
	if p.Guard == nil || p.Guard.Synthetic == nil {
		return "", false
	}
	return p.Guard.Synthetic.Name(a)
}

// decidePinned judges a flow by the policy alone.
func (p *Proxy) decidePinned(rules *policy.Policy, proto policy.Proto, dst netip.AddrPort, asked *dnsguard.Pin) (policy.Verdict, policy.Name) {
	flow := policy.Flow{Proto: proto, Addr: dst.Addr(), Port: dst.Port()}
	var pinned []dnsguard.Pin
	switch {
	case asked != nil:
		pinned = []dnsguard.Pin{*asked}
	case !p.Shared:
		pinned = p.Pins.Of(dst.Addr(), p.Now())
	}
	if len(pinned) == 0 {
		return rules.Decide(flow), ""
	}
	flow.Pinned = true
	var denied policy.Verdict
	for i, x := range pinned {
		flow.Name, flow.Aliases = x.Name, x.Aliases
		switch v := rules.Decide(flow); {
		case v.Allowed():
			p.Pins.Keep(dst.Addr(), x.Name, p.Now())
			return v, x.Name
		case i == 0:
			denied = v
		}
	}
	return denied, pinned[0].Name
}

// decideShown judges a flow by a name that it shows, after it was allowed.
func (p *Proxy) decideShown(rules *policy.Policy, d *decision, shown policy.Name) policy.Verdict {
	if name, _ := p.synthetic(d.dst.Addr()); name != "" {
		return rules.Decide(policy.Flow{Proto: d.proto, Port: d.dst.Port(), Name: shown, Pinned: shown == name})
	}
	pin, pinned := p.Pins.Find(d.dst.Addr(), shown, p.Now())
	if d.asked != nil && d.asked.Name == shown {
		pin, pinned = *d.asked, true
	}
	return rules.Decide(policy.Flow{
		Proto: d.proto, Addr: d.dst.Addr(), Port: d.dst.Port(),
		Name: shown, Pinned: pinned, Aliases: pin.Aliases,
	})
}

// Among tells whether one of the listeners takes in what is sent to dst.
func Among(listeners []netip.AddrPort, dst netip.AddrPort) bool {
	return slices.ContainsFunc(listeners, func(l netip.AddrPort) bool {
		return l.Port() == dst.Port() && (l.Addr() == dst.Addr() || l.Addr().IsUnspecified() && onThisHost(dst.Addr()))
	})
}

// onThisHost tells whether an address is one of the host's own, by what the kernel
// does. Where nothing can be sent to it, dialling fails in the same way.
func onThisHost(a netip.Addr) bool {
	// To an address of its own, a socket is connected from that, mostly. Connecting
	// one of UDP sends nothing.
	to := tcp.Sockaddr(netip.AddrPortFrom(a, port53))
	fd, err := datagramSocket(a)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if unix.Connect(fd, to) != nil {
		return false
	}
	switch own, _ := unix.Getsockname(fd); own := own.(type) {
	case *unix.SockaddrInet4:
		if netip.AddrFrom4(own.Addr) == a {
			return true
		}
	case *unix.SockaddrInet6:
		if netip.AddrFrom16(own.Addr) == a {
			return true
		}
	}
	// Of a whole prefix that is the host's, such as 127.0.0.0/8, it may be from another
	// address. What is not the host's, no socket can have, mostly (ip_nonlocal_bind of
	// ip(7)); the routes tell.
	bound, err := datagramSocket(a)
	if err != nil {
		return false
	}
	defer unix.Close(bound)
	if unix.Bind(bound, tcp.Sockaddr(netip.AddrPortFrom(a, 0))) != nil {
		return false
	}
	routes, err := netlink.RouteGet(a.AsSlice())
	return err != nil || slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Type == unix.RTN_LOCAL })
}

func datagramSocket(to netip.Addr) (fd int, err error) {
	domain := unix.AF_INET6
	if to.Is4() {
		domain = unix.AF_INET
	}
	return unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
}
