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
	rules    []*Rule // all of them, in the order of the lines

	ancestors map[Name]struct{} // of the names that are allowed

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

// Verdict is a decision with its reason.
type Verdict struct {
	Allow  bool
	Rule   *Rule  // that decided; nil if none did
	Reason string // in plain words
	Hint   string // a flag that would allow it; may be empty

	// ByName tells of an allowed flow that it is allowed for its name alone:
	// any other name that the flow shows is to be judged as well. Exact tells
	// that the rule is for that very name, not for many by a wildcard.
	ByName, Exact bool

	// Via is how an allowed flow goes out: Direct, or the name of a chain in
	// Upstreams.
	Via string

	from    bool // it is on a client
	special bool // its name is allowed, but leads to a special address
}

// String is the reason, and what to do about a denial.
func (v Verdict) String() string {
	if v.Allow || v.Hint == "" {
		return v.Reason
	}
	flag := "--allow "
	if v.from {
		flag = "--allow-from "
	}
	return v.Reason + " (to allow: " + flag + v.Hint + ")"
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
	var buffer [8]match // most flows match few rules: no need of the heap
	all := p.matchFlow(buffer[:0], f)
	return p.decide(f, all, all[:0])
}

// DecideFrom says whether a client with the address may come to a published port.
// Without an allow-from for any, all may that no deny-from is for.
func (p *Policy) DecideFrom(proto Proto, client netip.Addr, port uint16) Verdict {
	v := p.from.Decide(Flow{Proto: proto, Addr: client.Unmap().WithZone(""), Port: port})
	v.from = true
	return v
}

// matchFlow appends the rules that match the flow's address and name, whatever
// the protocol and port. Those for the address come first, the narrowest of
// them before all.
func (p *Policy) matchFlow(all []match, f Flow) []match {
	switch {
	case p.ingress: // an address that embeds another is not that one's
		all = append(all, p.matchAddr(f.Addr)...)
	case f.Addr.IsValid():
		addr, outer := Embedded(f.Addr), f.Addr.WithZone("").Unmap()
		all = append(all, p.matchAddr(addr)...)
		if outer != addr { // what denies the address that embeds another denies, too
			all = append(all, denials(p.matchAddr(outer))...)
		}
		if inner, ok := isatap(outer); ok {
			all = append(all, denials(p.matchAddr(inner))...)
		}
	}
	if f.Name != "" {
		all = p.matchName(all, f.Name)
	}
	return p.matchAny(all)
}

// denials are the matches that deny.
func denials(all []match) []match {
	return slices.DeleteFunc(all, func(x match) bool { return x.rule.Allow })
}

// decide is Decide with the rules that match at hand. It keeps those that match
// the protocol and port as well in matches, which may be the start of all.
func (p *Policy) decide(f Flow, all, matches []match) Verdict {
	kind := ""
	if f.Addr.IsValid() && !p.ingress {
		kind = Special(f.Addr)
	}
	switch kind {
	case "multicast", "broadcast", "this host":
		return Verdict{Reason: kind + " addresses are not carried"}
	}
	unpinned := false // an allow rule would match the name if it were pinned
	for _, x := range all {
		switch {
		case !x.rule.scope.matches(f.Proto, f.Port):
		case x.rule.Allow && x.byName() && !f.Pinned:
			unpinned = true
		default:
			matches = append(matches, x)
		}
	}
	v := p.judge(f, kind, matches, unpinned)
	if v.Allow && p.denyNames {
		for _, alias := range f.Aliases {
			if d := p.denier(f, alias); d != nil {
				v = d.verdict()
				v.Reason = fmt.Sprintf("its name leads to %s, and %s", alias, v.Reason)
				return v
			}
		}
	}
	return v
}

// denier is the rule for names that denies the flow if it goes by way of the
// alias; nil if none does. Rules for any host do not count: they speak of the
// name that was asked for.
func (p *Policy) denier(f Flow, alias Name) *match {
	all := slices.DeleteFunc(p.matchName(nil, alias), func(x match) bool { return !x.rule.scope.matches(f.Proto, f.Port) })
	for i := range all {
		if d := &all[i]; !d.rule.Allow && !slices.ContainsFunc(all, func(a match) bool { return a.carvesOut(d) }) {
			return d
		}
	}
	return nil
}

// judge weighs the rules that match.
func (p *Policy) judge(f Flow, kind string, matches []match, unpinned bool) Verdict {
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
		case !p.ingress && guarded(f.Proto, f.Port) && !x.rule.ports:
		default:
			valid = append(valid, x)
		}
	}

	var best *match // of what allows; rather by address than by name
	ways := false   // there are several
	for i := range valid {
		x := &valid[i]
		if !x.rule.Allow && !slices.ContainsFunc(valid, func(a match) bool { return a.carvesOut(x) }) {
			return x.verdict()
		}
		if x.rule.Allow {
			ways = ways || best != nil && p.way(best.rule.via) != p.way(x.rule.via)
			if best == nil || best.byName() && !x.byName() {
				best = x
			}
		}
	}
	if ways {
		if best = p.narrowest(valid); best == nil {
			return Verdict{Reason: "rules of which none is the narrower send it different ways (via)"}
		}
	}
	if best != nil {
		v := best.verdict()
		v.ByName, v.Exact = best.byName(), best.host.kind == exactName
		if v.Via = p.way(best.rule.via); kind == "loopback" && best.rule.via == Default {
			v.Via = Direct // this host's own is meant
		}
		return v
	}

	v := Verdict{}
	switch {
	case namedSpecial:
		v.Reason, v.special = fmt.Sprintf("the name leads to a %s address, which no rule allows", kind), true
	case unpinned:
		return Verdict{Reason: fmt.Sprintf("the name %s was not resolved to this address", f.Name)}
	case kind == "loopback":
		v.Reason = "the host's loopback is reached only if a rule names it"
	case !p.ingress && guarded(f.Proto, f.Port):
		v.Reason = fmt.Sprintf("port %d is for resolvers, which only a rule with that port allows", f.Port)
	case p.fallbackText != "":
		v = Verdict{Allow: p.fallback, Reason: p.fallbackText, Via: p.way(Default)}
	case p.fallback:
		v = Verdict{Allow: true, Reason: "no rule denies it", Via: p.way(Default)}
	case p.count == 0:
		v.Reason = "the policy has no rules"
	default:
		v.Reason = "no rule allows it"
	}
	switch {
	case v.Allow:
	case p.ingress:
		v.Hint = written(f)
	default:
		v.Hint = Destination(hinted(f))
	}
	return v
}

// narrowest is the allow that says which way to go: all that go another way
// cover what it covers, and more. Nil if there is none.
func (p *Policy) narrowest(matches []match) *match {
	for i := range matches {
		x := &matches[i]
		if x.rule.Allow && !slices.ContainsFunc(matches, func(y match) bool {
			return y.rule.Allow && p.way(y.rule.via) != p.way(x.rule.via) && !(y.covers(x) && !x.covers(&y))
		}) {
			return x
		}
	}
	return nil
}

// covers tells whether x covers everything that y covers.
func (x *match) covers(y *match) bool {
	return x.host.contains(y.host) && x.rule.scope.contains(&y.rule.scope)
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
		chained = chained || v.Allow && v.Via != Direct
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
func (p *Policy) decideSome(f Flow) Verdict {
	var v Verdict
	p.eachFlow(f, func(_ Flow, d Verdict, opened bool) bool {
		// Rather the rule that shuts what another one opens.
		if d.Allow || v.Reason == "" || v.Rule == nil && !v.special && d.Rule != nil && opened {
			v = d
		}
		return d.Allow
	})
	if v.Hint != "" {
		f.Proto, f.Port = protoCount, 0
		v.Hint = Destination(hinted(f))
	}
	return v
}

// eachFlow decides on the flow for every protocol, and for every port at which
// the verdict may change, until found is true. opened tells that some rule allows
// the port.
func (p *Policy) eachFlow(f Flow, found func(f Flow, v Verdict, opened bool) bool) {
	all := p.matchFlow(nil, f)
	// Between two ports at which a rule begins or ends the verdict is the same.
	turns := []uint16{1, 854, 5354, 5356} // 1, and after the guarded ones
	turn := func(list []match) {
		for _, x := range list {
			for _, r := range slices.Concat(x.rule.scope.ports[:]...) {
				turns = append(turns, max(r.lo, 1), max(r.hi+1, 1))
			}
		}
	}
	turn(all)
	for _, alias := range f.Aliases {
		turn(p.matchName(nil, alias))
	}
	slices.Sort(turns)
	turns = slices.Compact(turns)

	matches := make([]match, 0, len(all))
	for _, f.Proto = range []Proto{TCP, UDP, ICMP} {
		for _, f.Port = range turns {
			if f.Proto == ICMP {
				f.Port = 0
			}
			opened := slices.ContainsFunc(all, func(x match) bool { return x.rule.Allow && x.rule.scope.matches(f.Proto, f.Port) })
			if found(f, p.decide(f, all, matches), opened) {
				return
			}
			if f.Proto == ICMP {
				break
			}
		}
	}
}

// hinted is the flow as a rule would have to name it: by its address if that is
// one no name leads to.
func hinted(f Flow) Flow {
	if f.Addr.IsValid() && Special(f.Addr) != "" {
		f.Name = ""
	}
	return f
}

// HasBelow tells whether some name below n may be resolved. To say that n does
// not exist would then be to say that they do not, either (RFC 8020).
func (p *Policy) HasBelow(n Name) bool {
	if _, ok := p.ancestors[n]; ok {
		return true
	}
	return p.DecideName("*." + n).Allow // a name that no rule has: what holds for all
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
	return x.rule.Allow && d.covers(x) && !x.covers(d)
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
	f.Addr = Embedded(f.Addr) // what rules see
	return written(f)
}

// written is Destination for an address that is what it is.
func written(f Flow) string {
	to := string(f.Name)
	switch {
	case to != "" && likeKeyword(to) != "":
		to += "."
	case to != "":
	case f.Port != 0 && f.Addr.Is6():
		to = "[" + f.Addr.String() + "]"
	default:
		to = f.Addr.String()
	}
	if f.Port != 0 {
		to = fmt.Sprintf("%s:%d", to, f.Port)
	}
	if f.Proto == UDP || f.Proto == ICMP {
		to += "/" + f.Proto.String()
	}
	return to
}
