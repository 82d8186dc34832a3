package suggest

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"appfw/policy"
)

// Policy writes a policy that allows what the logs show as allowed, in the order of
// the destinations, each with how often it was met. Where something went out by an
// upstream, it has lines for that which are mistakes until they say where that is.
func (h *History) Policy() string {
	p := outline{allow: make(rules), denied: make(rules), failed: make(rules), looked: make(rules), ways: make(map[string]bool)}
	known := make(map[policy.Name]bool) // by its flows
	for f, n := range h.flows {
		known[f.to.name] = true
		h.sort(&p, f, n)
	}
	for q, n := range h.asked {
		switch d := (destination{name: q.name}); {
		case known[q.name]:
		case q.allowed:
			p.looked.of(d).alone += n
		default:
			p.denied.of(d).alone += n
		}
	}
	p.denied.without(p.allow)
	p.failed.without(p.allow)
	return p.text()
}

// outline is what a policy is to have.
type outline struct {
	allow                  rules
	denied, failed, looked rules           // for comments
	ways                   map[string]bool // the upstreams by which some went out, or tried to
}

// sort takes in a flow that was met n times.
func (h *History) sort(p *outline, f flow, n int) {
	to := p.allow
	switch {
	case !f.allowed:
		to = p.denied
	case h.failed[f] >= n:
		to = p.failed
	case f.to.name == "" && h.denied[f.at]: // a name that it showed, perhaps, which a rule for the address would open
		to = p.denied
	}
	p.ways[f.to.via] = true
	to.add(f.to, f.at.proto, f.at.port, n)
	if f.to.name != "" && f.to.via == "" && h.needsRule(f.at.addr) { // a name does not lead there by itself
		if h.denied[f.at] {
			to = p.denied
		}
		to.add(destination{addr: f.at.addr}, f.at.proto, f.at.port, n)
	}
}

// needsRule tells whether an address is reached by a rule for it alone.
func (h *History) needsRule(a netip.Addr) bool {
	standsForName := h.chained && slices.ContainsFunc(h.host.Synthetic, func(p netip.Prefix) bool { return p.Contains(a) })
	return a.IsValid() && !standsForName && (policy.Special(a) != policy.Ordinary || slices.Contains(h.host.Addrs, a))
}

func (p *outline) text() string {
	var b strings.Builder
	b.WriteString("# Made by appfw suggest of what a program did, good or bad. Read it before you use it.\n")
	delete(p.ways, "")
	delete(p.ways, "tor") // which needs no line
	if len(p.ways) > 0 {
		b.WriteString("# Some of it went out by an upstream. Write its URL here (or take the line away, if a\n# flag has it):\n")
	}
	for _, way := range slices.Sorted(maps.Keys(p.ways)) {
		name := way + "="
		if way == unnamed {
			name = ""
		}
		b.WriteString("upstream " + name + "URL\n")
	}
	if len(p.allow) == 0 {
		b.WriteString("default  deny\n")
	}
	chained := p.ways[unnamed]
	p.allow.write(&b, "allow  ", "", chained)
	p.failed.write(&b, "# allow  ", ", connecting failed", chained)
	p.looked.write(&b, "# allow  ", ", only looked up", false)
	p.denied.write(&b, "# allow  ", ", denied", false)
	return b.String()
}
