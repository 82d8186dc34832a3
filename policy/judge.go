package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// special is what kind of special-purpose address a is for the policy.
func (p *Policy) special(a netip.Addr) Kind {
	if !a.IsValid() || p.ingress {
		return Ordinary
	}
	return Special(a)
}

// decide is Decide with the kind of the address and the rules that match at hand.
// It keeps those that match the protocol and port as well in matches, which may be
// the start of all.
func (p *Policy) decide(f *Flow, kind Kind, all, matches []match) Verdict {
	if !kind.carried() {
		return Denial(kind.String() + " addresses are not carried")
	}
	unpinned := false // an allow rule would match the name if it were pinned
	for i := range all {
		switch x := &all[i]; {
		case !x.rule.dest.scope.matches(f.Proto, f.Port):
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
	all := slices.DeleteFunc(p.matchName(buffer[:0], alias), func(x match) bool { return !x.rule.dest.scope.matches(f.Proto, f.Port) })
	for i := range all {
		if d := &all[i]; !d.rule.Allows() && !carvedOut(d, all) {
			v = d.verdict()
			v.alias = alias
			return v, true
		}
	}
	return v, false
}

// judge weighs the rules that match. unpinned tells that more would if the name were
// pinned.
func (p *Policy) judge(f *Flow, kind Kind, matches []match, unpinned bool) Verdict {
	valid, misled := p.valid(f, kind, matches)
	for i := range valid {
		if x := &valid[i]; !x.rule.Allows() && !carvedOut(x, valid) {
			return x.verdict()
		}
	}
	best, ok := p.best(valid)
	switch {
	case !ok:
		return Denial("rules of which none is the narrower send it different ways (via)")
	case best == nil:
		return p.unmatched(f, kind, misled, unpinned)
	}
	v := best.verdict()
	v.ByName, v.Exact = best.byName(), best.kind == exactName
	if v.ByName && !v.Exact {
		v.Base = best.base()
	}
	if v.Via = p.wayOf(best.rule.via); kind == Loopback && best.rule.via == Default {
		v.Via = Direct // this host's own is meant
	}
	return v
}

// valid are the matches without the allows that such an address, or such a port, is
// not opened by. They are kept at the start of matches. misled tells that one for a
// name was among those.
func (p *Policy) valid(f *Flow, kind Kind, matches []match) (valid []match, misled bool) {
	valid = matches[:0]
	for i := range matches {
		switch x := &matches[i]; {
		case !x.rule.Allows():
			valid = append(valid, *x)
		case kind != Ordinary && x.byName():
			// A name's owner must not be able to point the app at the LAN.
			misled = true
		case kind == Loopback && !isLoopback(x.prefix[0]):
			// opened only by a rule that names it
		case !p.ingress && guarded(f.Proto, f.Port) && !x.rule.dest.ports:
		default:
			valid = append(valid, *x)
		}
	}
	return valid, misled
}

// best is the allow that decides, rather one by address than by name; nil if none
// allows. If they send the flow different ways it is the narrowest, and ok is false if
// there is none.
func (p *Policy) best(matches []match) (best *match, ok bool) {
	ways := false // there are several
	for i := range matches {
		x := &matches[i]
		if !x.rule.Allows() {
			continue
		}
		ways = ways || best != nil && p.wayOf(best.rule.via) != p.wayOf(x.rule.via)
		if best == nil || best.byName() && !x.byName() {
			best = x
		}
	}
	if ways {
		best = p.narrowest(matches)
	}
	return best, best != nil || !ways
}

// unmatched is the verdict on a flow that no rule decides on.
func (p *Policy) unmatched(f *Flow, kind Kind, misled, unpinned bool) Verdict {
	v := Verdict{Lacks: Target{Proto: f.Proto, Addr: f.Addr, Name: f.Name, Port: f.Port}}
	if f.Addr.IsValid() && !f.Pinned && (unpinned || !strings.Contains(string(f.Name), ".")) {
		v.Lacks.Name = "" // a rule for the name opens no address that it was not resolved to
	}
	switch {
	case misled:
		v.reason, v.special = "the name leads to a "+kind.String()+" address, which no rule allows", true
	case unpinned && !f.Addr.IsValid():
		return Denial("the name " + string(f.Name) + " was not resolved to this address") // and no rule for an address is for it
	case unpinned:
		v.reason = "the name " + string(f.Name) + " was not resolved to this address"
	case kind == Loopback:
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
		v.Via, v.Lacks = p.wayOf(Default), Target{}
	}
	return v
}

// narrowest is the allow that says which way to go: all that go another way
// cover what it covers, and more. Nil if there is none.
func (p *Policy) narrowest(matches []match) *match {
	for i := range matches {
		x := &matches[i]
		if x.rule.Allows() && !slices.ContainsFunc(matches, func(y match) bool {
			return y.rule.Allows() && p.wayOf(y.rule.via) != p.wayOf(x.rule.via) && !(y.covers(x) && !x.covers(&y))
		}) {
			return x
		}
	}
	return nil
}

// wayOf is the name of the chain that via means.
func (p *Policy) wayOf(via string) string {
	if via == Default {
		return p.way
	}
	return via
}

// guarded are the ports of resolvers other than appfw's: DNS over TLS and QUIC
// (RFC 7858, RFC 9250), mDNS (RFC 6762), LLMNR (RFC 4795).
func guarded(proto Proto, port uint16) bool {
	return proto != ICMP && (port == 853 || port == 5353 || port == 5355)
}
