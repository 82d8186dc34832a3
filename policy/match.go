package policy

import (
	"net/netip"
	"slices"
)

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
		return x.rule.dest.host
	}
	return host{kind: x.kind, name: x.name, prefixes: x.prefix[:]}
}

// base is the name that the rule or the entry speaks of. It is host without what would
// have flows that are decided on use the heap.
func (x *match) base() Name {
	if x.line == 0 {
		return x.rule.dest.host.name
	}
	return x.name
}

// byName tells whether the rule matches for the name alone.
func (x *match) byName() bool { return x.kind.named() }

// covers tells whether x covers everything that y covers.
func (x *match) covers(y *match) bool {
	return x.host().contains(y.host()) && x.rule.dest.scope.contains(&y.rule.dest.scope)
}

// carvesOut tells whether x is an allow that overrides the deny d.
func (x *match) carvesOut(d *match) bool {
	return x.rule.Allows() && d.covers(x) && !x.covers(d)
}

// verdict is that of the rule.
func (x *match) verdict() Verdict { return Verdict{Action: x.rule.Action, rule: x.rule, line: x.line} }

// carvedOut tells whether one of the matches overrides the deny d.
func carvedOut(d *match, all []match) bool {
	for i := range all {
		if all[i].carvesOut(d) {
			return true
		}
	}
	return false
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
		found = append(found, match{rule: r, kind: r.dest.host.kind})
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
