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
//	if !v.Allow { log.Print(v.Reason) }
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

	fallback     bool   // what no rule matches is allowed
	fallbackText string // the line that says so; "" if it follows from the rules
	denyNames    bool   // some deny rule speaks of names
	count        int

	// Shown are the paths of sockets that allow-unix lines name.
	Shown []string
}

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
}

// Verdict is a decision with its reason.
type Verdict struct {
	Allow  bool
	Rule   *Rule  // that decided; nil if none did
	Reason string // in plain words
	Hint   string // a flag that would allow it; may be empty

	// ByName tells of an allowed flow that it is allowed for its name alone:
	// any other name that the flow shows is to be judged as well.
	ByName bool
}

// match is a rule that matches a flow, and the host by which it does: the
// rule's own, or one entry of its list.
type match struct {
	rule     *Rule
	host     host
	loopback bool  // it names the host's loopback
	list     *list // nil: the rule is none
	line     int   // of the entry in the list
}

// byName tells whether the rule matches for the name alone.
func (x *match) byName() bool { return x.host.kind != anyHost && x.host.kind != addresses }

// Decide says whether the flow may be.
func (p *Policy) Decide(f Flow) Verdict {
	addr := Embedded(f.Addr)
	kind := Special(f.Addr)
	switch kind {
	case "multicast", "broadcast", "this host":
		return Verdict{Reason: kind + " addresses are not carried"}
	}

	var buffer [8]match                             // most flows match few rules: no need of the heap
	all := append(buffer[:0], p.matchAddr(addr)...) // the narrowest first
	if outer := f.Addr.WithZone("").Unmap(); outer != addr {
		// What denies the address that embeds another denies, too.
		for _, x := range p.matchAddr(outer) {
			if !x.rule.Allow {
				all = append(all, x)
			}
		}
	}
	if f.Name != "" {
		all = p.matchName(all, f.Name)
	}
	all = p.matchAny(all)
	unpinned := false // an allow rule would match the name if it were pinned
	matches := all[:0]
	for _, x := range all {
		switch {
		case !x.rule.scope.matches(f.Proto, f.Port):
		case x.rule.Allow && x.byName() && !f.Pinned:
			unpinned = true
		default:
			matches = append(matches, x)
		}
	}
	return p.judge(f, addr, kind, matches, unpinned)
}

// judge weighs the rules that match.
func (p *Policy) judge(f Flow, addr netip.Addr, kind string, matches []match, unpinned bool) Verdict {
	namedSpecial := false
	valid := matches[:0]
	for _, x := range matches {
		switch {
		case !x.rule.Allow:
			valid = append(valid, x)
		case kind != "" && x.byName():
			// A name's owner must not be able to point the app at the LAN.
			namedSpecial = true
		case kind == "loopback" && !x.loopback:
			// opened only by a rule that names it
		case guarded(f.Proto, f.Port) && !x.rule.ports:
		default:
			valid = append(valid, x)
		}
	}

	var best *match // of what allows; rather by address than by name
	for i := range valid {
		x := &valid[i]
		if !x.rule.Allow && !slices.ContainsFunc(valid, func(a match) bool { return a.carvesOut(x) }) {
			return x.verdict()
		}
		if x.rule.Allow && (best == nil || best.byName() && !x.byName()) {
			best = x
		}
	}
	if best != nil {
		v := best.verdict()
		v.ByName = best.byName()
		return v
	}

	v := Verdict{}
	switch {
	case namedSpecial:
		v.Reason = fmt.Sprintf("the name leads to a %s address, which no rule allows", kind)
	case unpinned:
		return Verdict{Reason: fmt.Sprintf("the name %s was not resolved to this address", f.Name)}
	case kind == "loopback":
		v.Reason = "the host's loopback is reached only if a rule names it"
	case guarded(f.Proto, f.Port):
		v.Reason = fmt.Sprintf("port %d is for resolvers, which only a rule with that port allows", f.Port)
	case p.fallbackText != "":
		v = Verdict{Allow: p.fallback, Reason: p.fallbackText}
	case p.fallback:
		v = Verdict{Allow: true, Reason: "no rule denies it"}
	case p.count == 0:
		v.Reason = "the policy has no rules"
	default:
		v.Reason = "no rule allows it"
	}
	if !v.Allow {
		if kind != "" {
			f.Name = "" // a rule for the name would not allow it
		}
		v.Hint = Destination(f)
	}
	return v
}

// DecideName says whether the name may be resolved: whether some flow to it
// could be allowed. Nothing is asked upstream for a name that is denied here.
func (p *Policy) DecideName(n Name) Verdict {
	all := p.matchAny(p.matchName(nil, n))

	// Between two ports at which a rule begins or ends the verdict is the same.
	turns := []uint16{1, 854, 5354, 5356} // 1, and after the guarded ones
	for _, x := range all {
		for _, r := range slices.Concat(x.rule.scope.ports[:]...) {
			turns = append(turns, max(r.lo, 1), max(r.hi+1, 1))
		}
	}
	var v Verdict
	for _, proto := range []Proto{TCP, UDP, ICMP} {
		for _, port := range turns {
			if proto == ICMP {
				port = 0
			}
			var matches []match
			opened := false
			for _, x := range all {
				if x.rule.scope.matches(proto, port) {
					matches = append(matches, x)
					opened = opened || x.rule.Allow
				}
			}
			d := p.judge(Flow{Proto: proto, Port: port, Name: n, Pinned: true}, netip.Addr{}, "", matches, false)
			if d.Allow {
				return d
			}
			if v.Reason == "" || v.Rule == nil && d.Rule != nil && opened {
				v = d // rather the rule that shuts what another one opens
			}
		}
	}
	if v.Hint != "" {
		v.Hint = Destination(Flow{Name: n, Proto: protoCount})
	}
	return v
}

// JudgesNames tells whether a name that a flow shows can change the verdict on
// a flow that is allowed for its address.
func (p *Policy) JudgesNames() bool { return p.denyNames }

// carvesOut tells whether x is an allow that overrides the deny d.
func (x *match) carvesOut(d *match) bool {
	if !x.rule.Allow || !d.host.contains(x.host) || !d.rule.scope.contains(&x.rule.scope) {
		return false
	}
	return !x.host.contains(d.host) || !x.rule.scope.contains(&d.rule.scope)
}

// verdict is that of the rule.
func (x *match) verdict() Verdict {
	r := x.rule
	if x.list == nil {
		return Verdict{Allow: r.Allow, Rule: r, Reason: r.reason}
	}
	entry := &Rule{Allow: r.Allow, Text: r.Text, Pos: Pos{File: x.list.name, Line: x.line}}
	entry.reason = entry.why()
	return Verdict{Allow: r.Allow, Rule: entry, Reason: entry.reason}
}

// guarded are the ports of resolvers other than appfw's: DNS over TLS and QUIC
// (RFC 7858, RFC 9250), mDNS (RFC 6762), LLMNR (RFC 4795).
func guarded(proto Proto, port uint16) bool {
	return proto != ICMP && (port == 853 || port == 5353 || port == 5355)
}

func isLoopback(p netip.Prefix) bool {
	return slices.ContainsFunc(keywords["localhost"], func(q netip.Prefix) bool { return covers(q, p) })
}

// matchAddr finds the rules that match an address.
func (p *Policy) matchAddr(a netip.Addr) (found []match) {
	whole := netip.PrefixFrom(a, a.BitLen())
	if p.prefixes.Size() > 0 {
		for prefix, rules := range p.prefixes.Supernets(whole) {
			for _, r := range rules {
				found = append(found, match{rule: r, host: r.host, loopback: isLoopback(prefix)})
			}
		}
	}
	for _, l := range p.lists {
		// The narrowest entry decides: what carves it out carves out the wider.
		if prefix, line, ok := l.prefixes.LookupPrefixLPM(whole); ok {
			h := host{kind: addresses, prefixes: []netip.Prefix{prefix}}
			found = append(found, match{rule: l.rule, host: h, loopback: isLoopback(prefix), list: l, line: int(line)})
		}
	}
	return found
}

// matchAny appends the rules that match every host.
func (p *Policy) matchAny(found []match) []match {
	for _, r := range p.any {
		found = append(found, match{rule: r, host: r.host})
	}
	return found
}

// matchName appends the rules that match a name.
func (p *Policy) matchName(found []match, n Name) []match {
	if r := p.names[n]; r != nil {
		for _, r := range r.exact {
			found = append(found, match{rule: r, host: r.host})
		}
	}
	for up := n.parent(); up != "" && len(p.names) > 0; up = up.parent() {
		if r := p.names[up]; r != nil {
			for _, r := range r.below {
				found = append(found, match{rule: r, host: r.host})
			}
		}
	}
	for _, l := range p.lists {
		if h, line, ok := l.findName(n); ok {
			found = append(found, match{rule: l.rule, host: h, list: l, line: line})
		}
	}
	return found
}

// Destination writes a flow as a rule that allows it would name it.
func Destination(f Flow) string {
	addr := Embedded(f.Addr) // what rules see
	to := string(f.Name)
	switch {
	case to != "" && likeKeyword(to) != "":
		to += "."
	case to != "":
	case f.Port != 0 && addr.Is6():
		to = "[" + addr.String() + "]"
	default:
		to = addr.String()
	}
	if f.Port != 0 {
		to = fmt.Sprintf("%s:%d", to, f.Port)
	}
	if f.Proto == UDP || f.Proto == ICMP {
		to += "/" + f.Proto.String()
	}
	return to
}
