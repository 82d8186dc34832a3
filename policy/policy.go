// Package policy says which destinations an app may reach, and why. It is pure:
// no sockets, no clock, and files only through the function it is given.
//
// A policy is written as lines, in files or as flags of the command line:
//
//	allow registry.example.org:443
//	deny  any/udp
//
// It is compiled once and then asked, by any number of goroutines:
//
//	p, err := policy.Compile(policy.Config{Lines: lines})
//	v := p.Decide(policy.Flow{Proto: policy.TCP, Addr: addr, Port: 443, Name: name, Pinned: true})
//	if !v.Allowed() {
//		log.Print(v.Reason())
//	}
//
// What its lines say to others (which resolvers to ask, by which proxies to go out)
// is kept with it as [Settings], for those to make sense of: nothing here resolves a
// name or connects. Package policy/source reads policies that are in files.
//
// Order never matters. Of the rules that match a flow, a deny wins, unless an
// allow is a carve-out of it: whatever that allow covers the deny covers too,
// and more.
package policy

import (
	"net/netip"

	"github.com/gaissmai/bart"
)

// Policy is a compiled policy. It does not change.
type Policy struct {
	any      []*Rule
	names    map[Name]*nameRules
	prefixes bart.Table[[]*Rule]
	lists    []*list
	rules    []*Rule // all of them, in the order of the lines

	ancestors nameSet // of the names that are allowed

	from    *Policy // judges clients of published ports; nil in itself
	ingress bool    // it is such a policy

	fallback     bool   // what no rule matches is allowed
	fallbackText string // the line that says so; "" if it follows from the rules
	denyNames    bool   // some deny rule speaks of names
	count        int

	way      string // where flows go whose rule has no via: Default, or Direct if there is no such upstream
	chained  bool   // there are upstreams
	settings *Settings
}

// Names of ways out.
const (
	Direct  = "direct"
	Default = "" // the chain of upstream lines without a name; Direct if there is none
)

// nameRules are the rules for one name: those that match it, and those that
// match the names below.
type nameRules struct{ exact, below []*Rule }

// Flow is what is known of a flow, or of one about to be.
type Flow struct {
	Proto Proto
	Addr  netip.Addr
	Port  uint16 // 0 for ICMP

	// Name is what the destination is called: by the resolver that gave out
	// Addr for it (Pinned), or only by the flow itself. Empty: not known.
	Name   Name
	Pinned bool
	// Aliases are the names by way of which Name led to Addr (CNAME, SVCB).
	// They open nothing, but what is denied is denied under any name.
	Aliases []Name
}

// Decide says whether the flow may be.
func (p *Policy) Decide(f Flow) Verdict {
	var buffer [8]match // most flows match few rules: no need of the heap
	all := p.matchFlow(buffer[:0], f)
	return p.decide(&f, p.special(f.Addr), all, all[:0])
}

// DecideFrom says whether a client with the address may come to a published port.
// Without an allow-from for any, all may that no deny-from is for.
func (p *Policy) DecideFrom(proto Proto, client netip.Addr, port uint16) Verdict {
	v := p.from.Decide(Flow{Proto: proto, Addr: client.Unmap().WithZone(""), Port: port})
	v.Client = true
	return v
}

// OpenByDefault tells whether what no rule matches is allowed though no line says
// so.
func (p *Policy) OpenByDefault() bool { return p.fallback && p.fallbackText == "" }

// OpenToAll tells whether clients may come that no rule speaks of.
func (p *Policy) OpenToAll() bool { return p.from.fallback }

// Rules are the lines that allow or deny destinations, in their order.
func (p *Policy) Rules() []*Rule { return p.rules }

// ClientRules are the lines that allow or deny clients of published ports.
func (p *Policy) ClientRules() []*Rule { return p.from.rules }
