package decide_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"appfw/dnsguard"
	"appfw/netns"
	"appfw/netns/route"
	"appfw/policy"
	"appfw/proxy/decide"
)

// The model knows a small world, in which every two hosts and scopes that rules can
// name are told apart by what they cover, element by element.
var (
	modelNames = []policy.Name{"x.example", "a.x.example", "b.x.example", "y.example"}
	modelAddrs = []string{"11.0.0.1", "11.0.0.2", "11.9.0.1", "12.0.0.1", "10.0.0.1", "fd00::1", "127.0.0.1", "127.0.0.2", "::1", "2600::1", "224.0.0.1", "192.0.0.2"}
	modelPorts = []uint16{80, 443, 853}

	modelHosts  = strings.Fields("any any x.example *.x.example .x.example a.x.example y.example 11.0.0.1 11.0.0.0/24 11.0.0.0/8 0.0.0.0/0 10.0.0.0/8 private localhost 127.0.0.1 2600::/16")
	modelScopes = []string{"", "", "", ":443", ":80,443", ":853", ":443/udp", "/tcp", "/udp", "/icmp"}
	modelVias   = []string{"", "", "", " via=up", " via=direct"}
)

// special is what kind of address an element of modelAddrs is; "" for an ordinary one.
func special(host string) string {
	return map[string]string{"10.0.0.1": "private", "fd00::1": "private", "127.0.0.1": "loopback", "127.0.0.2": "loopback", "::1": "loopback", "224.0.0.1": "multicast", "192.0.0.2": "reserved"}[host]
}

// modelRule is a line: allow or deny HOST SCOPE.
type modelRule struct {
	allow       bool
	host, scope string
	via         string
}

func (r modelRule) line() string {
	host := r.host
	if strings.Contains(host, "::") && strings.HasPrefix(r.scope, ":") {
		host = "[" + host + "]"
	}
	return map[bool]string{true: "allow ", false: "deny "}[r.allow] + host + r.scope + r.via
}

// speaksOf tells whether the rule's HOST covers one host: a name or an address.
func (r modelRule) speaksOf(host string) bool {
	addr, err := netip.ParseAddr(host)
	isName := err != nil
	prefix, err := netip.ParsePrefix(r.host)
	switch {
	case r.host == "any":
		return true
	case r.host == "private":
		return special(host) == "private"
	case r.host == "localhost":
		return special(host) == "loopback"
	case err == nil:
		return !isName && prefix.Contains(addr)
	case strings.HasPrefix(r.host, "*"):
		return isName && strings.HasSuffix(host, r.host[1:])
	case strings.HasPrefix(r.host, "."):
		return isName && strings.HasSuffix("."+host, r.host)
	}
	return r.host == host
}

// speaksOfNames tells whether the rule's HOST is one or more names.
func (r modelRule) speaksOfNames() bool { return strings.HasSuffix(r.host, "example") }

func (r modelRule) inScope(proto policy.Proto, port uint16) bool {
	ports, only, _ := strings.Cut(r.scope, "/")
	if only != "" && only != proto.String() {
		return false
	}
	if proto == policy.ICMP {
		return ports == ""
	}
	return ports == "" || slices.Contains(strings.Split(ports[1:], ","), fmt.Sprint(port))
}

// covered is everything that the rule covers, host by host and flow by flow.
func (r modelRule) covered() map[string]bool {
	all := make(map[string]bool)
	hosts := slices.Clone(modelAddrs)
	for _, n := range modelNames {
		hosts = append(hosts, string(n))
	}
	for _, h := range hosts {
		for _, proto := range []policy.Proto{policy.TCP, policy.UDP, policy.ICMP} {
			for _, port := range modelPorts {
				if r.speaksOf(h) && r.inScope(proto, port) {
					all[fmt.Sprint(h, proto, port)] = true
				}
			}
		}
	}
	return all
}

// lies tells whether everything in a is in b, and b has more.
func lies(a, b map[string]bool) bool {
	for x := range a {
		if !b[x] {
			return false
		}
	}
	return len(b) > len(a)
}

// modelPolicy is a policy: its lines, and what they mean.
type modelPolicy struct {
	rules    []modelRule
	sets     []map[string]bool
	deflt    string // "allow", "deny" or ""
	up       bool   // there is an upstream without a name
	named    bool   // there is one with a name
	fromDeny []string
}

// answer is a verdict, as the model has it.
type answer struct {
	allow, byRule, byName bool
	via                   string
}

// flow decides on a flow (DESIGN.md, 4, 1 to 3). host is an address, "" if there is
// none; name is what it is called, which is known for sure if pinned.
func (m *modelPolicy) flow(proto policy.Proto, port uint16, host string, name policy.Name, pinned bool) answer {
	kind := special(host)
	if kind == "multicast" {
		return answer{}
	}
	var allows, denies []int
	unpinned, namedSpecial := false, false
	for i, r := range m.rules {
		byAddr := r.host == "any" || host != "" && r.speaksOf(host)
		byName := r.host != "any" && name != "" && r.speaksOf(string(name))
		resolvers := proto != policy.ICMP && port == 853 // such ports are opened only by rules that name them
		switch {
		case !r.inScope(proto, port) || !byAddr && !byName:
		case !r.allow:
			denies = append(denies, i)
		case byName && !pinned:
			unpinned = true
		case byName && kind != "":
			namedSpecial = true // a name's owner must not point the app at the LAN
		case kind == "loopback" && r.host != "localhost" && r.host != "127.0.0.1":
		case resolvers && !strings.HasPrefix(r.scope, ":"):
		default:
			allows = append(allows, i)
		}
	}
	for _, d := range denies { // the strictest wins, but for carve-outs
		if !slices.ContainsFunc(allows, func(a int) bool { return lies(m.sets[a], m.sets[d]) }) {
			return answer{byRule: true}
		}
	}
	if len(allows) > 0 {
		return m.allowed(allows, kind)
	}
	fallback := m.deflt == "allow" || m.deflt == "" && len(m.rules) > 0 && !slices.ContainsFunc(m.rules, func(r modelRule) bool { return r.allow })
	if unpinned || namedSpecial || kind == "loopback" || proto != policy.ICMP && port == 853 || !fallback {
		return answer{}
	}
	return answer{allow: true, via: m.way("")}
}

// way is where a via leads.
func (m *modelPolicy) way(via string) string {
	via = strings.TrimPrefix(via, " via=")
	if via == "" && !m.up {
		return "direct"
	}
	return via
}

// allowed is what some rules allow together: rather by address than by name or by any;
// if they differ in the way, that of the narrowest.
func (m *modelPolicy) allowed(allows []int, kind string) answer {
	rank := func(i int) int { // of the narrower host first
		switch r := m.rules[i]; {
		case r.host == "any":
			return 2
		case r.speaksOfNames():
			return 1
		}
		return 0
	}
	ordered := slices.Clone(allows)
	slices.SortStableFunc(ordered, func(i, j int) int { return rank(i) - rank(j) })
	way := func(i int) string { return m.way(m.rules[i].via) }
	best := ordered[0]
	if i := slices.IndexFunc(ordered, func(i int) bool { return rank(i) != 1 }); i >= 0 {
		best = ordered[i] // not by name alone
	}
	if slices.ContainsFunc(ordered, func(i int) bool { return way(i) != way(best) }) {
		i := slices.IndexFunc(ordered, func(i int) bool {
			return !slices.ContainsFunc(ordered, func(j int) bool { return way(j) != way(i) && !lies(m.sets[i], m.sets[j]) })
		})
		if i < 0 {
			return answer{}
		}
		best = ordered[i]
	}
	via := way(best)
	if kind == "loopback" && m.rules[best].via == "" {
		via = "direct" // this host's own is meant
	}
	return answer{allow: true, byRule: true, byName: rank(best) == 1, via: via}
}

// decide decides on facts: the policy, by whatever name the address has, and then what
// the host's routes say.
func (m *modelPolicy) decide(f *decide.Facts) (a answer, asks bool) {
	upstreams := m.up || m.named
	if f.In {
		from := f.Src.Addr().String()
		a.allow = !slices.Contains(m.fromDeny, from) && from != "192.0.0.2" && !(f.Stands && upstreams)
		return a, false
	}
	switch {
	case f.Name != "":
		a = m.flow(f.Proto, f.Dst.Port(), "", f.Name, true)
		if a.allow && f.Proto == policy.ICMP {
			return answer{}, false
		}
		return a, false
	case f.Stands && upstreams, f.Dst.Addr() == netns.App4:
		return answer{}, false
	case len(f.Pins) == 0:
		a = m.flow(f.Proto, f.Dst.Port(), f.Dst.Addr().String(), "", false)
	}
	for i, p := range f.Pins { // of its names, the one given last first; any that is allowed will do
		if by := m.flow(f.Proto, f.Dst.Port(), f.Dst.Addr().String(), p.Name, true); by.allow || i == 0 {
			if a = by; a.allow {
				break
			}
		}
	}
	own := a.byName || !a.byRule // such a flow does not go to this host's own addresses
	switch {
	case !a.allow:
	case f.Route == route.Unknown && (own || a.via == "direct"):
		return answer{}, true
	case f.Route == route.Local && own:
		return answer{}, false
	case a.via == "direct" && (f.Route == route.Broadcast || f.Route == route.Anycast || f.Route == route.Multicast):
		return answer{}, false
	case a.via != "direct" && f.Proto == policy.ICMP:
		return answer{}, false
	}
	return a, false
}

// needsName tells whether the names that an allowed flow shows are judged (3).
func (m *modelPolicy) needsName(a answer) bool {
	return a.allow && (a.byName || slices.ContainsFunc(m.rules, func(r modelRule) bool { return !r.allow && r.speaksOfNames() }))
}

func (m *modelPolicy) String() string {
	b := new(strings.Builder)
	if m.named {
		b.WriteString("upstream up=http://192.0.2.1:1\n")
	}
	if m.up {
		b.WriteString("upstream http://192.0.2.1:2\n")
	}
	for _, r := range m.rules {
		b.WriteString(r.line() + "\n")
	}
	if m.deflt != "" {
		b.WriteString("default " + m.deflt + "\n")
	}
	for _, a := range m.fromDeny {
		b.WriteString("deny-from " + a + "\n")
	}
	return b.String()
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func randomPolicy(r *rand.Rand, sets map[modelRule]map[string]bool) *modelPolicy {
	m := &modelPolicy{up: r.IntN(3) == 0, named: r.IntN(2) == 0, deflt: pick(r, []string{"", "", "allow", "deny"})}
	for range r.IntN(6) {
		rule := modelRule{allow: r.IntN(3) > 0, host: pick(r, modelHosts), scope: pick(r, modelScopes)}
		key := rule
		if rule.allow {
			if rule.via = pick(r, modelVias); !m.named && rule.via == " via=up" {
				rule.via = ""
			}
		}
		if sets[key] == nil {
			sets[key] = rule.covered()
		}
		m.rules, m.sets = append(m.rules, rule), append(m.sets, sets[key])
	}
	if r.IntN(3) == 0 {
		m.fromDeny = []string{pick(r, modelAddrs[:4])}
	}
	return m
}

// Decide is what the model says, for thousands of policies and facts.
func TestModel(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	sets := make(map[modelRule]map[string]bool)
	kinds := []route.Kind{route.Unknown, route.Unicast, route.Unicast, route.Unicast, route.Local, route.Broadcast, route.Anycast, route.Multicast, route.Unreachable}
	outcomes := make(map[string]int)
	for range 2000 {
		m := randomPolicy(r, sets)
		rules := compile(m.String())
		for range 20 {
			f := decide.Facts{Proto: pick(r, []policy.Proto{policy.TCP, policy.TCP, policy.UDP, policy.ICMP}), Route: pick(r, kinds)}
			port := pick(r, modelPorts)
			if f.Proto == policy.ICMP {
				port = 0
			}
			f.Dst = netip.AddrPortFrom(netip.MustParseAddr(pick(r, modelAddrs)), port)
			switch r.IntN(6) {
			case 0:
				f.Name, f.Stands = pick(r, modelNames), true
			case 1:
				f.Stands = r.IntN(2) == 0
			case 2:
				f.In, f.Src = true, netip.AddrPortFrom(f.Dst.Addr(), 9)
			default:
				for range r.IntN(3) {
					f.Pins = append(f.Pins, dnsguard.Pin{Name: pick(r, modelNames)})
				}
			}
			want, asks := m.decide(&f)
			d := decide.Flow(rules, &f)
			v := d.Verdict
			got := answer{allow: v.Allowed()}
			switch {
			case !v.Allowed():
				want = answer{} // by which rule does not matter
			case !f.In:
				got.byRule, got.byName, got.via = v.Rule() != nil, v.ByName, v.Via
			}
			if got != want || d.AsksRoute != asks || (v.Needs == policy.NeedsName) != (m.needsName(want) && !f.In) {
				t.Fatalf("seed %d:\n%s\n%+v\n got %+v: %s, needs %d, asks %t\nwant %+v, needs the name %t, asks %t",
					seed, m, f, d, v.Reason(), v.Needs, d.AsksRoute, want, m.needsName(want), asks)
			}
			outcomes[fmt.Sprint(v.Allowed(), v.ByName, v.Via, d.AsksRoute)]++
		}
	}
	if len(outcomes) < 7 {
		t.Errorf("hardly anything happened: %v", outcomes)
	}
}
