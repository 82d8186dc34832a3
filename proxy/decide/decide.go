// Package decide says what is decided on a flow, by facts alone: [Flow] asks nobody, keeps
// nothing and changes nothing. Package proxy finds out the facts. What they are may be
// found out on the way: a verdict says what it lacks ([Decision].AsksRoute).
//
//	d := decide.Flow(rules, &decide.Facts{Proto: policy.TCP, Dst: dst, Pins: pins})
//	if d.AsksRoute {
//		facts.Route = routes.Kind(dst.Addr())
//		d = decide.Flow(rules, facts)
//	}
package decide

import (
	"net/netip"

	"appfw/dnsguard"
	"appfw/netns"
	"appfw/netns/route"
	"appfw/policy"
)

// Facts is what a flow that somebody attempts is decided by. All of it was seen or found
// out by appfw itself, but for what a client of the explicit proxy asks for.
type Facts struct {
	Proto policy.Proto
	Other string // the protocol, if that is none of policy's
	In    bool   // it comes from a client of a published port
	// Src is who attempts it: the app's socket, or a client. Dst is where it goes:
	// for what comes in, the port of the host. Of a flow that was asked for by name,
	// Dst has only the port.
	Src, Dst netip.AddrPort
	Asked    policy.Name
	Refused  string // why it cannot be decided on: it is no destination; "" if it can

	// Pin is by which somebody who asked for a name came to Dst; nil: by none. Pins
	// are the names that Dst was given out for, the one given last first.
	Pin  *dnsguard.Pin
	Pins []dnsguard.Pin
	// Stands tells that Dst is of the addresses that stand for names; Name is the
	// one it stands for, if there is one.
	Stands bool
	Name   policy.Name
	Route  route.Kind       // what the host's routes call Dst
	Own    []netip.AddrPort // where appfw itself listens
}

// Decision is a verdict on facts.
type Decision struct {
	Verdict policy.Verdict
	Name    policy.Name // that an allowed flow is allowed for, or that it is best known by
	Pinned  bool        // an allowed flow is by a pin of that name
	// AsksRoute tells that the verdict is a denial only because Route is unknown.
	AsksRoute bool
}

func denial(reason string) Decision { return Decision{Verdict: policy.Denial(reason)} }

// Flow decides on a flow by its facts. It is the one place where that is done, for run
// and for why.
func Flow(rules *policy.Policy, f *Facts) Decision {
	switch {
	case f.Refused != "":
		return denial(f.Refused)
	case f.In:
		return Decision{Verdict: decideClient(rules, f)}
	case f.Asked != "" && !f.Dst.Addr().IsValid():
		return Decision{Verdict: rules.Decide(policy.Flow{Proto: f.Proto, Port: f.Dst.Port(), Name: f.Asked, Pinned: true}), Name: f.Asked}
	case f.Name == "" && f.Stands && len(rules.Settings().Upstreams) > 0:
		return denial("it is an address that stands for a name, and was given out for none (synthetic PREFIX has others for that)")
	}
	var d Decision
	if f.Name != "" {
		d = Decision{Verdict: rules.Decide(policy.Flow{Proto: f.Proto, Port: f.Dst.Port(), Name: f.Name, Pinned: true}), Name: f.Name}
	} else {
		d = decideReal(rules, f)
	}
	if v := d.Verdict; v.Allowed() && f.Proto == policy.ICMP && (v.Via != policy.Direct || f.Name != "") {
		d.Verdict = policy.Denial("upstreams carry no ICMP")
	}
	return d
}

// decideClient judges a client of a published port. Addresses that mean something to
// the app are nobody's: a datagram may come from wherever it says.
func decideClient(rules *policy.Policy, f *Facts) policy.Verdict {
	a := f.Src.Addr().WithZone("")
	if f.Stands && len(rules.Settings().Upstreams) > 0 {
		return policy.Denial("it is an address that stands for a name")
	}
	if own(a) {
		return policy.Denial("it is an address of appfw's own")
	}
	return rules.DecideFrom(f.Proto, a, f.Dst.Port())
}

// own tells whether an address is one of the veth's.
func own(a netip.Addr) bool {
	return a == netns.Gateway4 || a == netns.Gateway6 || a == netns.App4 || a == netns.App6
}

// decideReal judges a flow to an address that stands for itself.
func decideReal(rules *policy.Policy, f *Facts) Decision {
	if own(f.Dst.Addr()) {
		return denial("it is an address of appfw's own")
	}
	asks := Decision{Verdict: policy.Denial("what the host's routes say of it cannot be told"), AsksRoute: true}
	for _, l := range f.Own {
		switch {
		case Hears(l, f.Dst, f.Route):
			return denial("it is a port of appfw's own")
		case Hears(l, f.Dst, route.Local) && f.Route == route.Unknown:
			return asks
		}
	}
	d := decidePinned(rules, f)
	v := d.Verdict
	byRoute := v.ByName || v.Rule() == nil // a rule for the address opens the host's own, too
	switch {
	case !v.Allowed():
	case f.Route == route.Unknown && (byRoute || v.Via == policy.Direct):
		return asks
	case f.Route == route.Local && byRoute:
		// A name's owner must not be able to point the app at the host itself,
		// and its services are no more open by default than its loopback.
		d.Verdict = policy.Denial("it is an address of this host, and no rule names that")
		d.Verdict.Lacks = policy.Target{Proto: f.Proto, Addr: f.Dst.Addr(), Port: f.Dst.Port()}
	case v.Via != policy.Direct: // what the address is beyond is not known here
	case f.Route == route.Broadcast, f.Route == route.Anycast, f.Route == route.Multicast:
		d.Verdict = policy.Denial(f.Route.String() + " addresses are not carried")
	}
	return d
}

// Hears tells whether a listener of this host takes in what is sent to dst.
func Hears(l, dst netip.AddrPort, kind route.Kind) bool {
	return l.Port() == dst.Port() && (l.Addr() == dst.Addr() || l.Addr().IsUnspecified() && kind == route.Local)
}

// decidePinned judges a flow by the policy, and by the names of its address.
func decidePinned(rules *policy.Policy, f *Facts) Decision {
	flow := policy.Flow{Proto: f.Proto, Addr: f.Dst.Addr(), Port: f.Dst.Port()}
	pins := f.Pins
	if f.Pin != nil {
		pins = []dnsguard.Pin{*f.Pin}
	}
	if len(pins) == 0 {
		return Decision{Verdict: rules.Decide(flow)}
	}
	flow.Pinned = true
	var denied policy.Verdict
	for i, x := range pins {
		flow.Name, flow.Aliases = x.Name, x.Aliases
		switch v := rules.Decide(flow); {
		case v.Allowed():
			return Decision{Verdict: v, Name: x.Name, Pinned: true}
		case i == 0:
			denied = v
		}
	}
	return Decision{Verdict: denied, Name: pins[0].Name}
}

// Shown decides on a name that an allowed flow shows. pin is the one of its
// address to that name, nil if there is none.
func Shown(rules *policy.Policy, f *Facts, shown policy.Name, pin *dnsguard.Pin) policy.Verdict {
	flow := policy.Flow{Proto: f.Proto, Port: f.Dst.Port(), Name: shown}
	if f.Name != "" {
		flow.Pinned = shown == f.Name
		return rules.Decide(flow)
	}
	flow.Addr = f.Dst.Addr()
	if pin != nil {
		flow.Pinned, flow.Aliases = true, pin.Aliases
	}
	return rules.Decide(flow)
}
