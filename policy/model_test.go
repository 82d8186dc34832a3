package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// The model knows a small world, in which every two hosts and scopes that
// rules can name are told apart by what they cover.
var (
	worldNames = []Name{"x", "a.x", "b.x", "c.a.x", "d.c.a.x", "y", "ax", "z.y"}
	worldAddrs = []struct{ addr, embeds, kind string }{
		{"8.8.8.8", "", ""}, {"8.8.8.9", "", ""}, {"8.8.8.200", "", ""}, {"8.8.9.1", "", ""}, {"9.9.9.9", "", ""},
		{"10.0.0.1", "", "private"}, {"10.0.0.2", "", "private"}, {"172.16.0.1", "", "private"}, {"fd00::1", "", "private"},
		{"127.0.0.1", "", "loopback"}, {"127.0.0.2", "", "loopback"}, {"::1", "", "loopback"},
		{"2606:4700::1", "", ""}, {"2606:4701::1", "", ""},
		{"64:ff9b::808:808", "8.8.8.8", ""}, {"64:ff9b::a00:1", "10.0.0.1", "private"}, {"2002:7f00:1::", "127.0.0.1", "loopback"},
		{"2606:4700::5efe:a00:1", "10.0.0.1", "private"}, {"fd00::5efe:808:808", "8.8.8.8", "private"},
		{"224.0.0.1", "", "multicast"},
	}
	worldPorts = []uint16{0, 1, 80, 81, 443, 853, 65535}

	worldHosts  = strings.Fields("any any x a.x b.x c.a.x *.x .x *.a.x .a.x .y ax 8.8.8.8 8.8.8.8/31 8.8.8.0/24 8.8.0.0/16 0.0.0.0/0 ::/0 10.0.0.1 10.0.0.0/8 private localhost 127.0.0.1 127.0.0.0/8 2606:4700::1 2606:4700::/32 64:ff9b::/96 fd00::/8")
	worldScopes = strings.Fields("- - - :443 :80,443 :80-443 :443/tcp :853 :1-65535/udp :80/udp /tcp /udp /icmp")
)

type modelRule struct {
	allow       bool
	host, scope string
}

// coversHost says in the plainest way whether the rule speaks of a host, an element
// of worldNames or worldAddrs.
func (r modelRule) coversHost(h string) bool {
	addr, err := netip.ParseAddr(h)
	isName := err != nil
	switch prefix, err := netip.ParsePrefix(r.host); {
	case r.host == "any":
		return true
	case r.host == "private" || r.host == "localhost":
		kinds := map[string]string{"127.0.0.1": "localhost", "127.0.0.2": "localhost", "::1": "localhost",
			"10.0.0.1": "private", "10.0.0.2": "private", "172.16.0.1": "private", "fd00::1": "private", "fd00::5efe:808:808": "private"}
		return kinds[h] == r.host
	case err == nil:
		return !isName && prefix.Contains(addr)
	case strings.HasPrefix(r.host, "*"):
		return isName && strings.HasSuffix(h, r.host[1:])
	case strings.HasPrefix(r.host, "."):
		return isName && strings.HasSuffix("."+h, r.host)
	}
	return r.host == h
}

func (r modelRule) coversScope(proto Proto, port uint16) bool {
	ports, onlyProto, _ := strings.Cut(strings.Trim(r.scope, ":-"), "/")
	if onlyProto != "" && onlyProto != proto.String() {
		return false
	}
	in := map[string][]uint16{"": worldPorts, "443": {443}, "80,443": {80, 443}, "80-443": {80, 81, 443}, "853": {853}, "1-65535": worldPorts[1:], "80": {80}}[ports]
	return proto == ICMP && ports == "" || proto != ICMP && slices.Contains(in, port)
}

func (r modelRule) namesPorts() bool { return strings.HasPrefix(r.scope, ":") }

// set is everything the rule covers: host by host, flow by flow.
func (r modelRule) set() (out []bool) {
	hosts := []string{}
	for _, n := range worldNames {
		hosts = append(hosts, string(n))
	}
	for _, a := range worldAddrs {
		hosts = append(hosts, a.addr)
	}
	for _, h := range hosts {
		in := r.coversHost(h)
		for _, port := range worldPorts {
			out = append(out, in && r.coversScope(TCP, port), in && r.coversScope(UDP, port))
		}
		out = append(out, in && r.coversScope(ICMP, 0))
	}
	return out
}

// carveOut: everything the allow covers, the deny covers too, and more.
func carveOut(allow, deny []bool) bool {
	more := false
	for i := range allow {
		if allow[i] && !deny[i] {
			return false
		}
		more = more || deny[i] && !allow[i]
	}
	return more
}

type model struct {
	rules    []modelRule
	sets     [][]bool
	fallback bool
}

func (m *model) decide(f Flow, embeds, kind string) (allow, byRule, byName bool) {
	var allows, denies [][]bool
	byName = true
	fallback := m.fallback && kind != "loopback" && (f.Port != 853 || f.Proto == ICMP)
	for i, r := range m.rules {
		inner := kind != "nowhere" && r.coversHost(embeds)
		name := f.Name != "" && r.host != "any" && r.coversHost(string(f.Name))
		outer := kind != "nowhere" && r.coversHost(f.Addr.String())
		anyOrAddr := r.host == "any" || inner
		if strings.Contains(f.Addr.String(), "5efe") { // ISATAP: only perhaps it goes to the inner one
			anyOrAddr = r.host == "any" || outer
		}
		switch {
		case !r.coversScope(f.Proto, f.Port):
		case !r.allow && (anyOrAddr || name || inner || outer):
			denies = append(denies, m.sets[i])
		case !r.allow:
		case kind == "loopback" && !strings.HasPrefix(r.host, "127.") && r.host != "localhost":
		case f.Proto != ICMP && f.Port == 853 && !r.namesPorts():
		case anyOrAddr:
			byName = false
			allows = append(allows, m.sets[i])
		case name && f.Pinned && (kind == "" || kind == "nowhere"):
			allows = append(allows, m.sets[i])
		case name && (!f.Pinned || kind != ""):
			fallback = false // an allowed name, but not here
		}
	}
	for _, d := range denies {
		if !slices.ContainsFunc(allows, func(a []bool) bool { return carveOut(a, d) }) {
			return false, true, false
		}
	}
	if len(allows) > 0 {
		return true, true, byName
	}
	return fallback, false, false
}

// aliasDenied: a rule for names denies the flow under the alias, and no rule for
// names is a carve-out of that one for it.
func (m *model) aliasDenied(f Flow, alias Name) bool {
	var allows, denies [][]bool
	for i, r := range m.rules {
		switch {
		case r.host == "any" || !r.coversHost(string(alias)) || !r.coversScope(f.Proto, f.Port):
		case r.allow:
			allows = append(allows, m.sets[i])
		default:
			denies = append(denies, m.sets[i])
		}
	}
	return slices.ContainsFunc(denies, func(d []bool) bool {
		return !slices.ContainsFunc(allows, func(a []bool) bool { return carveOut(a, d) })
	})
}

// some tells whether a flow of some protocol and port is allowed.
func (m *model) some(f Flow, embeds, kind string) bool {
	for _, f.Port = range worldPorts[1:] {
		for _, f.Proto = range []Proto{TCP, UDP, ICMP} {
			allow, _, _ := m.decide(f, embeds, kind)
			if allow && !slices.ContainsFunc(f.Aliases, func(alias Name) bool { return m.aliasDenied(f, alias) }) && kind != "multicast" {
				return true
			}
		}
	}
	return false
}

func TestModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	pick := func(list []string) string { return list[r.IntN(len(list))] }
	sets := map[modelRule][]bool{}
	for range 2000 {
		m := model{}
		lists := files{}
		var text strings.Builder
		var allows bool
		for range r.IntN(7) {
			mr := modelRule{allow: r.IntN(2) == 0, host: pick(worldHosts), scope: pick(worldScopes)}
			word := map[bool]string{true: "allow", false: "deny"}[mr.allow]
			if mr.scope == "-" && mr.host != "any" && mr.host != "private" && mr.host != "localhost" && r.IntN(2) == 0 {
				lists[word] += mr.host + "\n"
			} else {
				host := mr.host
				if len(host) == 1 || strings.Contains(host, ":") && mr.namesPorts() {
					host = map[bool]string{true: host + ".", false: "[" + host + "]"}[len(host) == 1]
				}
				fmt.Fprintf(&text, "%s %s%s\n", word, host, strings.Trim(mr.scope, "-"))
			}
			if sets[mr] == nil {
				sets[mr] = mr.set()
			}
			m.rules, m.sets = append(m.rules, mr), append(m.sets, sets[mr])
			allows = allows || mr.allow
		}
		for word := range lists {
			fmt.Fprintf(&text, "%s @%s\n", word, word)
		}
		m.fallback = len(m.rules) > 0 && !allows
		switch r.IntN(4) {
		case 0:
			m.fallback = true
			text.WriteString("default allow")
		case 1:
			m.fallback = false
			text.WriteString("default deny")
		}
		build := func(text string) *Policy {
			lines, _ := ReadLines("p", strings.NewReader(text))
			p, err := Compile(Config{Lines: lines, Open: lists.open})
			if err != nil {
				t.Fatalf("%s\n%v", text, err)
			}
			return p
		}
		p := build(text.String())
		for range 20 {
			where := worldAddrs[r.IntN(len(worldAddrs))]
			f := Flow{Proto: Proto(r.IntN(int(protoCount))), Addr: netip.MustParseAddr(where.addr), Pinned: r.IntN(3) > 0}
			if f.Proto != ICMP {
				f.Port = worldPorts[1+r.IntN(len(worldPorts)-1)]
			}
			if r.IntN(3) > 0 {
				f.Name = worldNames[r.IntN(len(worldNames))]
			}
			for range r.IntN(3) {
				f.Aliases = append(f.Aliases, worldNames[r.IntN(len(worldNames))])
			}
			if where.embeds == "" {
				where.embeds = where.addr
			}
			allow, byRule, byName := m.decide(f, where.embeds, where.kind)
			if where.kind == "multicast" {
				allow, byRule, byName = false, false, false
			}
			if allow && slices.ContainsFunc(f.Aliases, func(alias Name) bool { return m.aliasDenied(f, alias) }) {
				allow, byRule = false, true
			}
			v := p.Decide(f)
			if v.Allowed() != allow || (v.Rule() != nil) != byRule || v.ByName != (allow && byName) {
				t.Fatalf("seed %d:\n%s\nlists %q\n%+v\n got %+v\nwant allow=%v rule=%v name=%v", seed, text.String(), lists, f, v, allow, byRule, byName)
			}
			if f.Name != "" {
				some := f
				some.Pinned = true
				if v, want := p.DecideAnswer(f.Name, f.Aliases, f.Addr), m.some(some, where.embeds, where.kind); v.Allowed() != want {
					t.Fatalf("seed %d:\n%s\nlists %q\n%+v\nanswer: got %+v, want %v", seed, text.String(), lists, f, v, want)
				}
			}
			if v.Hint() != "" {
				f.Aliases = nil
				f.Pinned = true // as the name is, once it may be resolved
				if w := build(text.String() + "\nallow " + v.Hint()).Decide(f); !w.Allowed() {
					t.Fatalf("seed %d:\n%s\nlists %q\n%+v\nhint %s: %+v", seed, text.String(), lists, f, v.Hint(), w)
				}
			}
		}
		for _, n := range worldNames {
			want := m.some(Flow{Name: n, Pinned: true}, "", "nowhere")
			if v := p.DecideName(n); v.Allowed() != want {
				t.Fatalf("seed %d:\n%s\nlists %q\n%s: got %+v, want %v", seed, text.String(), lists, n, v, want)
			}
			below := slices.ContainsFunc(worldNames, func(o Name) bool { return o.within(n) && p.DecideName(o).Allowed() })
			if below && !p.HasBelow(n) {
				t.Fatalf("seed %d:\n%s\nlists %q\n%s: nothing below", seed, text.String(), lists, n)
			}
		}
	}
}
