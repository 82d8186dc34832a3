package policy

import (
	"net/netip"
	"slices"
)

// Chained tells whether some flow to the name is allowed that goes out by a chain
// of proxies. Such a name is resolved at its end.
func (p *Policy) Chained(n Name) bool {
	if !p.chained {
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
				opened = opened || all[i].rule.Allows() && all[i].rule.dest.scope.matches(f.Proto, f.Port)
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
		for _, ranges := range matches[i].rule.dest.scope.ports {
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
