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
//	p, err := policy.Compile(policy.Config{Lines: lines, Open: os.Open})
//	v := p.Decide(policy.Flow{Proto: policy.TCP, Addr: addr, Port: 443, Name: name, Pinned: true})
//	if !v.Allowed() { log.Print(v.Reason()) }
//
// Order never matters. Of the rules that match a flow, a deny wins, unless an
// allow is a carve-out of it: whatever that allow covers the deny covers too,
// and more.
package policy

import (
	"fmt"
	"net/netip"
	"slices"

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

	// Shown are the paths of sockets that allow-unix lines name, DNS the
	// resolvers of dns lines, and Hosts the files of hosts lines. What they
	// say is for others to make sense of.
	Shown      []string
	DNS, Hosts []Line
	// Budget is what the dns-budget line sets; nil without one.
	Budget *int
	// Upstreams are the chains of proxies that upstream lines make, by name, in
	// the order of the lines. That of Default is where flows go without a via.
	Upstreams map[string][]Line
	// SyntheticV4 and SyntheticV6 are where addresses come from that stand for
	// names beyond a chain. Invalid: not said.
	SyntheticV4, SyntheticV6 netip.Prefix
	// Isolate says what shares circuits of a Tor that it goes out by. Empty is
	// IsolateRun.
	Isolate string
}

// What shares circuits: all of a run, what goes to one host, what one process
// sends.
const (
	IsolateRun         = "run"
	IsolateDestination = "destination"
	IsolateProcess     = "process"
)

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

// match is a rule that matches a flow, and by what it does: the host or one
// prefix of the rule's own, or an entry of its list.
type match struct {
	rule   *Rule
	kind   hostKind
	line   uint32          // of the entry in the list; 0: the rule has none
	name   Name            // of the entry
	prefix [1]netip.Prefix // that the address lies within, if it is by that
}

// host is what the rule or the entry speaks of.
func (x *match) host() host {
	if x.line == 0 {
		return x.rule.host
	}
	return host{kind: x.kind, name: x.name, prefixes: x.prefix[:]}
}

// byName tells whether the rule matches for the name alone.
func (x *match) byName() bool { return x.kind != anyHost && x.kind != addresses }

// Decide says whether the flow may be.
func (p *Policy) Decide(f Flow) Verdict {
	var buffer [8]match // most flows match few rules: no need of the heap
	all := p.matchFlow(buffer[:0], f)
	return p.decide(&f, p.special(f.Addr), all, all[:0])
}

// DecideFrom says whether a client with the address may come to a published port.
// Without an allow-from for any, all may that no deny-from is for.
func (p *Policy) DecideFrom(proto Proto, client netip.Addr, port uint16) Verdict {
	return p.from.Decide(Flow{Proto: proto, Addr: client.Unmap().WithZone(""), Port: port})
}

// matchFlow appends the rules that match the flow's address and name, whatever
// the protocol and port. Those for the address come first, the narrowest of
// them before all.
func (p *Policy) matchFlow(all []match, f Flow) []match {
	switch {
	case p.ingress: // an address that embeds another is not that one's
		all = p.matchAddr(all, f.Addr)
	case f.Addr.IsValid():
		addr, outer := Embedded(f.Addr), f.Addr.WithZone("").Unmap()
		all = p.matchAddr(all, addr)
		n := len(all)
		if outer != addr { // what denies the address that embeds another denies, too
			all = p.matchAddr(all, outer)
		}
		if inner, ok := isatap(outer); ok {
			all = p.matchAddr(all, inner)
		}
		all = all[:n+len(denials(all[n:]))]
	}
	if f.Name != "" {
		all = p.matchName(all, f.Name)
	}
	return p.matchAny(all)
}

// denials are the matches that deny.
func denials(all []match) []match {
	return slices.DeleteFunc(all, func(x match) bool { return x.rule.Allows() })
}

// special is what kind of special-purpose address a is for the policy.
func (p *Policy) special(a netip.Addr) string {
	if !a.IsValid() || p.ingress {
		return ""
	}
	return Special(a)
}

// decide is Decide with the kind of the address and the rules that match at hand.
// It keeps those that match the protocol and port as well in matches, which may be
// the start of all.
func (p *Policy) decide(f *Flow, kind string, all, matches []match) Verdict {
	switch kind {
	case "multicast", "broadcast", "this host":
		return Denial(kind + " addresses are not carried")
	}
	unpinned := false // an allow rule would match the name if it were pinned
	for i := range all {
		switch x := &all[i]; {
		case !x.rule.scope.matches(f.Proto, f.Port):
		case x.rule.Allows() && x.byName() && !f.Pinned:
			unpinned = true
		default:
			matches = append(matches, *x)
		}
	}
	v := p.judge(f, kind, matches, unpinned)
	if v.Allowed() && (v.ByName || p.denyNames) {
		v.Needs = NeedsName
	}
	if v.Allowed() && p.denyNames {
		for _, alias := range f.Aliases {
			if d, denied := p.deniedAs(f, alias); denied {
				return d
			}
		}
	}
	return v
}

// deniedAs is the verdict of the rule for names that denies the flow if it goes by
// way of the alias. Rules for any host do not count: they speak of the name that
// was asked for.
func (p *Policy) deniedAs(f *Flow, alias Name) (v Verdict, denied bool) {
	var buffer [4]match
	all := slices.DeleteFunc(p.matchName(buffer[:0], alias), func(x match) bool { return !x.rule.scope.matches(f.Proto, f.Port) })
	for i := range all {
		if d := &all[i]; !d.rule.Allows() && !carvedOut(d, all) {
			v = d.verdict()
			v.alias = alias
			return v, true
		}
	}
	return v, false
}

// carvedOut tells whether one of the matches overrides the deny d.
func carvedOut(d *match, all []match) bool {
	for i := range all {
		if all[i].carvesOut(d) {
			return true
		}
	}
	return false
}

// judge weighs the rules that match.
func (p *Policy) judge(f *Flow, kind string, matches []match, unpinned bool) Verdict {
	namedSpecial := false
	valid := matches[:0]
	for i := range matches {
		switch x := &matches[i]; {
		case !x.rule.Allows():
			valid = append(valid, *x)
		case kind != "" && x.byName():
			// A name's owner must not be able to point the app at the LAN.
			namedSpecial = true
		case kind == "loopback" && !isLoopback(x.prefix[0]):
			// opened only by a rule that names it
		case !p.ingress && guarded(f.Proto, f.Port) && !x.rule.ports:
		default:
			valid = append(valid, *x)
		}
	}

	var best *match // of what allows; rather by address than by name
	ways := false   // there are several
	for i := range valid {
		x := &valid[i]
		if !x.rule.Allows() && !carvedOut(x, valid) {
			return x.verdict()
		}
		if x.rule.Allows() {
			ways = ways || best != nil && p.way(best.rule.via) != p.way(x.rule.via)
			if best == nil || best.byName() && !x.byName() {
				best = x
			}
		}
	}
	if ways {
		if best = p.narrowest(valid); best == nil {
			return Denial("rules of which none is the narrower send it different ways (via)")
		}
	}
	if best != nil {
		v := best.verdict()
		v.ByName, v.Exact = best.byName(), best.kind == exactName
		if v.Via = p.way(best.rule.via); kind == "loopback" && best.rule.via == Default {
			v.Via = Direct // this host's own is meant
		}
		return v
	}

	v := Verdict{from: p.ingress, Lacks: Target{Proto: f.Proto, Addr: f.Addr, Name: f.Name, Port: f.Port}}
	switch {
	case namedSpecial:
		v.reason, v.special = "the name leads to a "+kind+" address, which no rule allows", true
	case unpinned:
		return Denial("the name " + string(f.Name) + " was not resolved to this address")
	case kind == "loopback":
		v.reason = "the host's loopback is reached only if a rule names it"
	case !p.ingress && guarded(f.Proto, f.Port):
		v.reason = fmt.Sprintf("port %d is for resolvers, which only a rule with that port allows", f.Port)
	case p.fallbackText != "":
		v.Action, v.reason = action(p.fallback), p.fallbackText
	case p.fallback:
		v.Action, v.reason = Allow, "no rule denies it"
	case p.count == 0:
		v.reason = "the policy has no rules"
	default:
		v.reason = "no rule allows it"
	}
	if v.Allowed() {
		v.Via, v.Lacks = p.way(Default), Target{}
	}
	return v
}

// narrowest is the allow that says which way to go: all that go another way
// cover what it covers, and more. Nil if there is none.
func (p *Policy) narrowest(matches []match) *match {
	for i := range matches {
		x := &matches[i]
		if x.rule.Allows() && !slices.ContainsFunc(matches, func(y match) bool {
			return y.rule.Allows() && p.way(y.rule.via) != p.way(x.rule.via) && !(y.covers(x) && !x.covers(&y))
		}) {
			return x
		}
	}
	return nil
}

// covers tells whether x covers everything that y covers.
func (x *match) covers(y *match) bool {
	return x.host().contains(y.host()) && x.rule.scope.contains(&y.rule.scope)
}

// way is the name of the chain that via means.
func (p *Policy) way(via string) string {
	if via == Default && len(p.Upstreams[Default]) == 0 {
		return Direct
	}
	return via
}

// Chained tells whether some flow to the name is allowed that goes out by a chain
// of proxies. Such a name is resolved at its end.
func (p *Policy) Chained(n Name) bool {
	if len(p.Upstreams) == 0 {
		return false
	}
	chained := false
	p.eachFlow(Flow{Name: n, Pinned: true}, func(_ Flow, v Verdict, _ bool) bool {
		chained = chained || v.Allowed() && v.Via != Direct
		return chained
	})
	return chained
}

// DecideName says whether the name may be resolved: whether some flow to it
// could be allowed. Nothing is asked upstream for a name that is denied here.
func (p *Policy) DecideName(n Name) Verdict {
	return p.decideSome(Flow{Name: n, Pinned: true})
}

// DecideAnswer says whether the address may be given out for the name, to which
// it belongs by way of the aliases: whether some flow to it could be allowed.
func (p *Policy) DecideAnswer(n Name, aliases []Name, a netip.Addr) Verdict {
	return p.decideSome(Flow{Name: n, Aliases: aliases, Addr: a, Pinned: true})
}

// decideSome decides on a flow of which the protocol and port are open: allowed
// if one is.
func (p *Policy) decideSome(f Flow) (v Verdict) {
	first, shuts := true, false // shuts: v is by a rule that shuts what another one opens
	p.eachFlow(f, func(_ Flow, d Verdict, opened bool) bool {
		// Rather that the address is special, or else such a rule, than what shuts the rest.
		if d.Allowed() || first || !v.special && (d.special || !shuts && d.rule != nil && opened) {
			v, shuts = d, d.rule != nil && opened
		}
		first = false
		return d.Allowed()
	})
	v.Lacks.Proto, v.Lacks.Port = protoCount, 0
	return v
}

// eachFlow decides on the flow for every protocol, and for every port at which
// the verdict may change, until found is true. opened tells that some rule allows
// the port.
func (p *Policy) eachFlow(f Flow, found func(f Flow, v Verdict, opened bool) bool) {
	var buffer, some [8]match
	all := p.matchFlow(buffer[:0], f)
	// Between two ports at which a rule begins or ends the verdict is the same.
	var ports [32]uint16
	turns := appendTurns(append(ports[:0], 1), all)
	for _, alias := range f.Aliases {
		var buffer [4]match
		turns = appendTurns(turns, p.matchName(buffer[:0], alias))
	}
	slices.Sort(turns)
	turns = slices.Compact(turns)

	kind := p.special(f.Addr)
	for _, f.Proto = range []Proto{TCP, UDP, ICMP} {
		for _, f.Port = range turns {
			if f.Proto == ICMP {
				f.Port = 0
			}
			opened := false
			for i := range all {
				opened = opened || all[i].rule.Allows() && all[i].rule.scope.matches(f.Proto, f.Port)
			}
			if found(f, p.decide(&f, kind, all, some[:0]), opened) {
				return
			}
			if f.Proto == ICMP {
				break
			}
		}
	}
}

// appendTurns appends the ports, other than 1, at which what the rules say may
// change. Of what begins with a guarded port, that is no example: the next is one.
func appendTurns(turns []uint16, matches []match) []uint16 {
	for i := range matches {
		for _, ranges := range matches[i].rule.scope.ports {
			for _, r := range ranges {
				for _, port := range [...]uint16{r.lo, r.hi + 1} {
					if port > 1 {
						turns = append(turns, port)
					}
					if guarded(TCP, port) {
						turns = append(turns, port+1)
					}
				}
			}
		}
	}
	return turns
}

// HasBelow tells whether some name below n may be resolved. To say that n does
// not exist would then be to say that they do not, either (RFC 8020).
func (p *Policy) HasBelow(n Name) bool {
	if _, ok := p.ancestors.find(n); ok {
		return true
	}
	return p.DecideName("*." + n).Allowed() // a name that no rule has: what holds for all
}

// OpenByDefault tells whether what no rule matches is allowed though no line says
// so.
func (p *Policy) OpenByDefault() bool { return p.fallback && p.fallbackText == "" }

// OpenToAll tells whether clients may come that no rule speaks of.
func (p *Policy) OpenToAll() bool { return p.from.fallback }

// JudgesNames tells whether a name that a flow shows can change the verdict on
// a flow that is allowed for its address.
func (p *Policy) JudgesNames() bool { return p.denyNames }

// carvesOut tells whether x is an allow that overrides the deny d.
func (x *match) carvesOut(d *match) bool {
	return x.rule.Allows() && d.covers(x) && !x.covers(d)
}

// verdict is that of the rule.
func (x *match) verdict() Verdict { return Verdict{Action: x.rule.Action, rule: x.rule, line: x.line} }

// guarded are the ports of resolvers other than appfw's: DNS over TLS and QUIC
// (RFC 7858, RFC 9250), mDNS (RFC 6762), LLMNR (RFC 4795).
func guarded(proto Proto, port uint16) bool {
	return proto != ICMP && (port == 853 || port == 5353 || port == 5355)
}

// isLoopback tells whether all of p is the host's loopback.
func isLoopback(p netip.Prefix) bool {
	return slices.ContainsFunc(loopbacks, func(q netip.Prefix) bool { return covers(q, p) })
}

// matchAddr appends the rules that match an address, those for the narrowest
// prefix first, and of each list the narrowest entry: what carves that out carves
// out the wider.
func (p *Policy) matchAddr(found []match, a netip.Addr) []match {
	whole := netip.PrefixFrom(a, a.BitLen())
	for q := whole; p.prefixes.Size() > 0; {
		prefix, rules, ok := p.prefixes.LookupPrefixLPM(q)
		if !ok {
			break
		}
		for _, r := range rules {
			found = append(found, match{rule: r, kind: addresses, prefix: [1]netip.Prefix{prefix}})
		}
		if prefix.Bits() == 0 {
			break
		}
		q = netip.PrefixFrom(prefix.Addr(), prefix.Bits()-1)
	}
	for _, l := range p.lists {
		if prefix, line, ok := l.prefixes.LookupPrefixLPM(whole); ok {
			found = append(found, match{rule: l.rule, kind: addresses, line: line, prefix: [1]netip.Prefix{prefix}})
		}
	}
	return found
}

// matchAny appends the rules that match every host.
func (p *Policy) matchAny(found []match) []match { return appendRules(found, p.any) }

func appendRules(found []match, rules []*Rule) []match {
	for _, r := range rules {
		found = append(found, match{rule: r, kind: r.host.kind})
	}
	return found
}

// matchName appends the rules that match a name.
func (p *Policy) matchName(found []match, n Name) []match {
	if len(p.names) > 0 {
		if r := p.names[n]; r != nil {
			found = appendRules(found, r.exact)
		}
		for up := n.parent(); up != ""; up = up.parent() {
			if r := p.names[up]; r != nil {
				found = appendRules(found, r.below)
			}
		}
	}
	for _, l := range p.lists {
		if h, line, ok := l.findName(n); ok {
			found = append(found, match{rule: l.rule, kind: h.kind, name: h.name, line: line})
		}
	}
	return found
}
