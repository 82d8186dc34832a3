package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

func compile(tb testing.TB, text string) *Policy {
	tb.Helper()
	lines, err := ReadLines("p", strings.NewReader(text))
	if err != nil {
		tb.Fatal(err)
	}
	p, err := Compile(Config{Lines: lines})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// parseFlow reads "tcp 93.184.216.34 443 example.com", "icmp 10.0.0.1"; a name
// is pinned unless it is written "?name".
func parseFlow(tb testing.TB, s string) Flow {
	tb.Helper()
	w := strings.Fields(s)
	proto, err := ParseProto(w[0])
	if err != nil {
		tb.Fatal(err)
	}
	f := Flow{Proto: proto, Addr: netip.MustParseAddr(w[1])}
	if proto != ICMP {
		port, err := strconv.ParseUint(w[2], 10, 16)
		if err != nil {
			tb.Fatal(err)
		}
		f.Port, w = uint16(port), w[1:]
	}
	if len(w) > 2 {
		name, shown := strings.CutPrefix(w[2], "?")
		f.Name, f.Pinned = Name(name), !shown
	}
	return f
}

const (
	noRule   = "- no rule allows it"
	byRule   = "+ no rule denies it"
	private  = "- the name leads to a private address, which no rule allows"
	resolver = " is for resolvers, which only a rule with that port allows"
	loopback = "- the host's loopback is reached only if a rule names it"
)

// Each case: a policy, and flows with what is said of them: "+3" and "-3" mean
// that the rule in line 3 allows or denies it, "+3n" that it allows the name.
var decisions = []struct {
	about, policy string
	flows         []string // flow => verdict
}{
	// 1. Order never matters; the narrower rule wins.
	{"deny any and an allow open one name", "deny any\nallow example.com", []string{
		"tcp 93.184.216.34 443 example.com => +2n",
		"udp 93.184.216.34 443 example.com => +2n",
		"icmp 93.184.216.34 example.com => +2n",
		"tcp 93.184.216.34 443 www.example.com => -1",
		"tcp 93.184.216.34 443 => -1",
	}},
	{"the same, turned round", "allow example.com\ndeny any", []string{
		"tcp 93.184.216.34 443 example.com => +1n",
		"tcp 93.184.216.34 443 other.example => -2",
	}},
	{"an allow wider in protocol is no carve-out", "deny any/udp\nallow example.com", []string{
		"tcp 93.184.216.34 443 example.com => +2n",
		"udp 93.184.216.34 443 example.com => -1",
		"icmp 93.184.216.34 example.com => +2n",
		"tcp 93.184.216.34 443 other.example => " + noRule,
	}},
	{"an allow within the protocol is one", "deny any/udp\nallow example.com:443/udp\nallow example.com/tcp", []string{
		"udp 93.184.216.34 443 example.com => +2n",
		"udp 93.184.216.34 444 example.com => -1",
		"tcp 93.184.216.34 444 example.com => +3n",
	}},
	{"a deny below a wildcard shuts", "allow *.example.com:443\ndeny ads.example.com", []string{
		"tcp 93.184.216.34 443 ads.example.com => -2",
		"tcp 93.184.216.34 443 a.b.example.com => +1n",
		"tcp 93.184.216.34 443 example.com => " + noRule,
		"tcp 93.184.216.34 443 badexample.com => " + noRule,
		"tcp 93.184.216.34 80 a.example.com => " + noRule,
		"tcp 93.184.216.34 443 x.ads.example.com => +1n",
	}},
	{"equal is not more: deny wins", "allow x.example:443\ndeny x.example:443\nallow any\ndeny any", []string{
		"tcp 93.184.216.34 443 x.example => -2",
		"tcp 93.184.216.34 80 x.example => -4",
	}},
	{"more ports or more hosts, but not both ways", "deny *.x.example:443\nallow a.x.example:80,443\nallow b.x.example:443/tcp", []string{
		"tcp 93.184.216.34 443 a.x.example => -1",
		"tcp 93.184.216.34 80 a.x.example => +2n",
		"tcp 93.184.216.34 443 b.x.example => +3n",
		"udp 93.184.216.34 443 b.x.example => -1",
	}},
	{"the same host with fewer ports is a carve-out", "deny x.example\nallow x.example:443/tcp", []string{
		"tcp 93.184.216.34 443 x.example => +2n",
		"tcp 93.184.216.34 80 x.example => -1",
		"udp 93.184.216.34 443 x.example => -1",
	}},
	{"port ranges", "deny x.example:8000-8999\nallow x.example:8080-8089\nallow x.example:8990-9000", []string{
		"tcp 93.184.216.34 8080 x.example => +2n",
		"tcp 93.184.216.34 8995 x.example => -1",
		"tcp 93.184.216.34 9000 x.example => +3n",
	}},
	{"*.name lies within .name, not the other way", "deny .x.example\nallow *.x.example\ndeny *.y.example\nallow .y.example", []string{
		"tcp 93.184.216.34 443 a.x.example => +2n",
		"tcp 93.184.216.34 443 x.example => -1",
		"tcp 93.184.216.34 443 a.y.example => -3",
		"tcp 93.184.216.34 443 y.example => +4n",
	}},
	{"each deny wants a carve-out, any allow may be it", "deny *.example.com\ndeny any/tcp\nallow a.example.com\nallow a.example.com:443/tcp\nallow b.example.com", []string{
		"tcp 93.184.216.34 443 a.example.com => +3n",
		"tcp 93.184.216.34 443 b.example.com => -2",
		"udp 93.184.216.34 443 b.example.com => +5n",
	}},
	{"a prefix lies within shorter ones", "allow 10.0.0.0/24\ndeny 10.0.0.13\nallow 10.0.0.13:22/tcp\ndeny private", []string{
		"tcp 10.0.0.12 80 => +1",
		"tcp 10.0.0.13 80 => -2",
		"tcp 10.0.0.13 22 => +3",
		"tcp 10.0.1.1 80 => -4",
		"icmp 10.0.0.12 => +1",
		"tcp fd00::1 80 => -4",
	}},
	{"a name and a prefix never contain each other", "deny 93.184.216.0/24\nallow example.com\nallow 93.184.217.0/24\ndeny bad.example\nallow any", []string{
		"tcp 93.184.216.34 443 example.com => -1",
		"tcp 93.184.217.34 443 bad.example => -4",
		"tcp 93.184.217.34 443 good.example => +3",
		"tcp 93.184.218.34 443 example.com => +5",
	}},
	{"the families are apart", "allow ::/0\nallow 0.0.0.0/1", []string{
		"tcp 2606:4700::1 443 => +1",
		"tcp 93.184.216.34 443 => +2",
		"tcp 193.0.0.1 443 => " + noRule,
	}},

	// 2. What no rule matches.
	{"no rules", "", []string{"tcp 93.184.216.34 443 => - the policy has no rules"}},
	{"only deny rules", "deny *.ads.example", []string{
		"tcp 93.184.216.34 443 => " + byRule,
		"tcp 93.184.216.34 443 x.ads.example => -1",
		"tcp 10.0.0.1 443 => " + byRule,
		"tcp 127.0.0.1 443 => " + loopback,
		"tcp ::1 443 => " + loopback,
		"udp ::ffff:127.0.0.1 443 => " + loopback,
	}},
	{"any allow rule", "allow x.example\ndeny y.example", []string{"tcp 93.184.216.34 443 => " + noRule}},
	{"default deny", "default deny\ndeny x.example", []string{
		"tcp 93.184.216.34 443 x.example => -2",
		"tcp 93.184.216.34 443 => - default deny (p:1)",
	}},
	{"default allow", "allow x.example:443\ndeny x.example\ndefault allow", []string{
		"tcp 93.184.216.34 443 x.example => +1n",
		"tcp 93.184.216.34 80 x.example => -2",
		"tcp 93.184.216.34 80 => + default allow (p:3)",
		"tcp 127.0.0.1 80 => " + loopback,
	}},
	{"any does not name the loopback", "allow any\nallow 0.0.0.0/0\nallow ::/0", []string{
		"tcp 93.184.216.34 443 => +2",
		"tcp fd00::1 443 => +3",
		"tcp 127.0.0.1 443 => " + loopback,
		"tcp ::1 443 => " + loopback,
		"tcp 2002:7f00:1:: 443 => " + loopback,
	}},
	{"a rule names it", "allow localhost:5432\nallow 127.0.0.53:53/udp\ndeny any", []string{
		"tcp 127.0.0.1 5432 => +1",
		"tcp ::1 5432 => +1",
		"tcp ::ffff:127.0.0.1 5432 => +1",
		"tcp 127.0.0.1 5433 => -3",
		"udp 127.0.0.53 53 => +2",
		"tcp 127.0.0.1 5432 rebound.example => +1",
	}},
	{"a name does not name it", "allow x.example", []string{
		"tcp 127.0.0.1 80 x.example => - the name leads to a loopback address, which no rule allows",
	}},

	// 3. Special addresses.
	{"an allowed name stays outside", "allow x.example\nallow .x.example:443", []string{
		"tcp 93.184.216.34 443 x.example => +1n",
		"tcp 10.0.0.1 443 x.example => " + private,
		"tcp fd00:ec2::254 80 x.example => " + private,
		"tcp 169.254.169.254 80 x.example => - the name leads to a link-local address, which no rule allows",
		"tcp 192.0.0.1 80 x.example => - the name leads to a reserved address, which no rule allows",
		"tcp ::ffff:10.0.0.1 443 x.example => " + private,
		"tcp 64:ff9b::10.0.0.1 443 x.example => " + private,
		"tcp 2002:a00:1:: 443 x.example => " + private,
		"tcp 2001:0:4136:e378:8000:63bf:f5ff:fffe 443 x.example => " + private,
		"tcp 2606:4700::5efe:10.0.0.1 443 x.example => " + private,
		"tcp fd00::5efe:8.8.8.8 443 x.example => " + private,
		"tcp 64:ff9b::8.8.8.8 443 x.example => +1n",
		"tcp 2002:808:808:: 443 x.example => +1n",
	}},
	{"unless a rule allows the prefix", "allow x.example\nallow 10.0.0.0/8:443", []string{
		"tcp 10.0.0.1 443 x.example => +2",
		"tcp 10.0.0.1 80 x.example => " + private,
		"tcp ::ffff:10.0.0.1 443 => +2",
		"tcp 64:ff9b::10.0.0.1 443 => +2",
		"tcp 2002:a00:1:: 443 => +2",
		"tcp 2606:4700::5efe:10.0.0.1 443 => " + noRule,
		"tcp 2001:0:4136:e378:8000:63bf:f5ff:fffe 443 => +2",
	}},
	{"a name's carve-out does not hold there either", "deny any\nallow x.example", []string{
		"tcp 10.0.0.1 443 x.example => -1",
	}},
	{"deny of what is embedded, and of what embeds", "deny 10.0.0.0/8\ndeny 2002::/16\nallow any\nallow 8.8.8.8", []string{
		"tcp 64:ff9b::10.0.0.1 443 => -1",
		"tcp ::ffff:10.0.0.1 443 => -1",
		"tcp 2001:0:4136:e378:8000:63bf:f5ff:fffe 443 => -1",
		"tcp 2606:4700::5efe:10.0.0.1 443 => -1",
		"tcp 2002:808:808:: 443 => -2",
		"tcp 64:ff9b::8.8.8.8 443 => +4",
	}},
	{"an allow is for what is embedded alone", "allow 64:ff9b::/96\nallow fd00::/8", []string{
		"tcp 64:ff9b::8.8.8.8 443 => " + noRule,
		"tcp fd00::5efe:8.8.8.8 443 => +2", // anybody can make such an address: it is what it is
		"tcp fd00::1 443 => +2",
	}},
	{"not carried, whatever the rules", "allow any\nallow multicast\nallow x.example\nallow 0.0.0.0/8", []string{
		"udp 239.1.2.3 1900 => - multicast addresses are not carried",
		"udp ff02::1 1900 x.example => - multicast addresses are not carried",
		"udp 255.255.255.255 67 => - broadcast addresses are not carried",
		"tcp 0.0.0.0 80 => - this host addresses are not carried",
		"tcp :: 80 => - this host addresses are not carried",
	}},

	// 4. Pins.
	{"a name that is only shown", "allow x.example\nallow 93.184.216.0/24:443\ndeny bad.example", []string{
		"tcp 8.8.8.8 443 ?x.example => - the name x.example was not resolved to this address",
		"tcp 93.184.216.34 443 ?x.example => +2",
		"tcp 93.184.216.34 443 x.example => +2",
		"tcp 93.184.216.34 443 ?other.example => +2",
		"tcp 93.184.216.34 443 ?bad.example => -3",
		"tcp 8.8.8.8 443 ?bad.example => -3",
		"tcp 8.8.8.8 443 ?other.example => " + noRule,
	}},
	{"a carve-out holds for a pinned name alone", "deny *.x.example\nallow a.x.example\nallow any", []string{
		"tcp 8.8.8.8 443 a.x.example => +3",
		"tcp 8.8.8.8 443 ?a.x.example => -1",
	}},

	// DESIGN, section 3: resolvers other than ours.
	{"guarded ports", "allow any\nallow 9.9.9.9:853/tcp\nallow x.example\nallow y.example:5353", []string{
		"tcp 9.9.9.9 853 => +2",
		"udp 9.9.9.9 853 => - port 853" + resolver,
		"tcp 8.8.8.8 853 => - port 853" + resolver,
		"udp 8.8.8.8 5353 x.example => - port 5353" + resolver,
		"udp 8.8.8.8 5353 y.example => +4n",
		"udp 8.8.8.8 5355 => - port 5355" + resolver,
	}},
	{"guarded ports by default", "default allow", []string{
		"tcp 8.8.8.8 853 => - port 853" + resolver,
		"tcp 8.8.8.8 854 => + default allow (p:1)",
	}},
}

func TestDecide(t *testing.T) {
	for _, tt := range decisions {
		p := compile(t, tt.policy)
		for _, row := range tt.flows {
			flow, want, _ := strings.Cut(row, " => ")
			v := p.Decide(parseFlow(t, flow))
			got := "- " + v.Reason()
			if v.Allowed() {
				got = "+ " + v.Reason()
			}
			if v.Rule() != nil {
				got = fmt.Sprintf("%.1s%d", got, v.Rule().Pos.Line)
				how := map[bool]string{true: "allows", false: "denies"}[v.Allowed()]
				if reason := fmt.Sprintf("the rule %s (p:%d) %s it", v.Rule().Text, v.Rule().Pos.Line, how); v.Reason() != reason {
					t.Errorf("%s: reason %q, want %q", flow, v.Reason(), reason)
				}
			}
			if v.ByName {
				got += "n"
			}
			if got != want {
				t.Errorf("%s: %s:\n got %s\nwant %s", tt.about, flow, got, want)
			}
		}
	}
}

// A hint is a flag that would allow the flow, and is safe to paste.
func TestHint(t *testing.T) {
	for _, tt := range []struct{ policy, flow, want string }{
		{"allow a.example", "tcp 8.8.8.8 443 evil.example", "evil.example:443"},
		{"allow a.example", "udp 8.8.8.8 443 evil.example", "evil.example:443/udp"},
		{"allow a.example", "tcp 8.8.8.8 443 ?evil.example", "evil.example:443"}, // then it resolves, and is pinned
		{"allow a.example", "tcp 8.8.8.8 443 ?a.example", "8.8.8.8:443"},
		{"allow a.example", "tcp 8.8.8.8 443 ?web", "8.8.8.8:443"}, // nobody resolves it
		{"allow a.example", "tcp 10.0.0.1 443 a.example", "10.0.0.1:443"},
		{"allow a.example", "tcp 10.0.0.1 443 b.example", "10.0.0.1:443"},
		{"allow a.example", "tcp 8.8.8.8 443 any", "any.:443"}, // not the keyword
		{"", "icmp fe80::1%eth0", "fe80::1/icmp"},
		{"", "tcp 2606:4700::1 443", "[2606:4700::1]:443"},
		{"", "tcp 64:ff9b::8.8.8.8 443", "8.8.8.8:443"},
		{"deny a.example", "tcp ::1 5432 b.example", "[::1]:5432"},
		{"allow any", "udp 9.9.9.9 853 dns.example", "dns.example:853/udp"},
		{"deny any", "tcp 8.8.8.8 443", ""},
		{"allow any", "udp 224.0.0.1 443", ""},
	} {
		f := parseFlow(t, tt.flow)
		v := compile(t, tt.policy).Decide(f)
		if v.Allowed() || v.Hint() != tt.want {
			t.Errorf("%s: %s: %+v, want hint %q", tt.policy, tt.flow, v, tt.want)
		}
		if v.Hint() != "" {
			f.Pinned = true
			if v := compile(t, tt.policy+"\nallow "+v.Hint()).Decide(f); !v.Allowed() {
				t.Errorf("%s: %s: not allowed as hinted: %+v", tt.policy, tt.flow, v)
			}
		}
	}
}

func TestDecideName(t *testing.T) {
	for _, tt := range []struct{ policy, name, want string }{
		{"", "x.example", "- the policy has no rules"},
		{"allow x.example", "x.example", "+1"},
		{"allow x.example", "y.example", noRule},
		{"allow *.x.example", "x.example", noRule},
		{"allow 10.0.0.0/8", "x.example", noRule},
		{"allow any", "x.example", "+1"},
		{"allow any/icmp", "x.example", "+1"},
		{"deny any", "x.example", "-1"},
		{"deny any\nallow x.example:443", "x.example", "+2"},
		{"deny any\nallow x.example:443", "y.example", "-1"},
		{"deny any:443\nallow x.example:443", "x.example", "+2"},
		{"deny x.example:443\nallow x.example:443", "x.example", "-1"},
		{"deny x.example:443\nallow x.example:443,444", "x.example", "+2"},
		{"deny x.example:443\ndeny x.example:444\nallow x.example:443,444", "x.example", "-1"},
		{"deny x.example:443\ndeny x.example:444/udp\nallow x.example:443,444", "x.example", "+3"},
		{"deny y.example", "x.example", byRule},
		{"deny y.example:443", "y.example", byRule},
		{"deny y.example/tcp\ndeny y.example/udp", "y.example", byRule}, // ICMP is left
		{"deny y.example/tcp\ndeny y.example/udp\ndeny y.example/icmp", "y.example", "-1"},
		{"deny y.example:1-65535\ndeny y.example/icmp", "y.example", "-1"},
		{"default allow\ndeny y.example:443\nallow y.example:443", "y.example", "+ default allow (p:1)"},
		{"default deny\ndeny x.example:443", "x.example", "- default deny (p:1)"},
		{"allow x.example\ndeny x.example:1-852\ndeny x.example:856-65535\ndeny x.example/icmp", "x.example", "+1"},
		{"allow x.example\ndeny x.example:1-852\ndeny x.example:854-5352\ndeny x.example:5354-65535\ndeny x.example/icmp", "x.example", "-2"},
	} {
		v := compile(t, tt.policy).DecideName(Name(tt.name))
		got := map[bool]string{true: "+", false: "-"}[v.Allowed()]
		if v.Rule() != nil {
			got += strconv.Itoa(v.Rule().Pos.Line)
		} else {
			got += " " + v.Reason()
		}
		if got != tt.want {
			t.Errorf("%q: %s: got %s, want %s", tt.policy, tt.name, got, tt.want)
		}
		if got == noRule && v.Hint() != tt.name {
			t.Errorf("%q: %s: hint %q", tt.policy, tt.name, v.Hint())
		}
	}
}

// looksAtNames tells whether the policy needs the names that a flow shows which it
// allows for its address.
func looksAtNames(p *Policy) bool {
	v := p.Decide(Flow{Proto: TCP, Addr: netip.MustParseAddr("8.8.8.8"), Port: 443})
	return v.Allowed() && v.Needs == NeedsName
}

func TestPolicyFacts(t *testing.T) {
	for policy, want := range map[string]bool{
		"deny x.example": true, "deny *.x.example": true, "allow x.example\nallow 8.8.8.8": false, "deny 10.0.0.0/8": false, "deny any\ndeny 10.0.0.0/8\nallow 8.8.8.8": false,
	} {
		if got := looksAtNames(compile(t, policy)); got != want {
			t.Errorf("%q judges names: %v", policy, got)
		}
	}
	if !looksAtNames(fromFile(t, "deny", []byte("x.example"))) || looksAtNames(fromFile(t, "deny", []byte("10.0.0.0/8"))) {
		t.Error("lists judge names")
	}
	if p := compile(t, "allow-unix /run/x"); len(p.Settings().Shown) != 1 || p.Decide(parseFlow(t, "tcp 8.8.8.8 80")).Allowed() {
		t.Error("allow-unix opens more than a socket")
	}
	line := Line{"deny", "any/udp", Pos{"--deny", 0, 1}, 1}
	p, _ := Compile(Config{Lines: []Line{line}})
	const want = "the rule --deny any/udp (command line) denies it"
	if v := p.Decide(parseFlow(t, "udp 8.8.8.8 53")); v.Reason() != want {
		t.Errorf("reason %q, want %q", v.Reason(), want)
	}
}

// What is for others than the policy itself, and what an author has to say twice.
func TestOtherLines(t *testing.T) {
	fsys := files{"etc/p": "hosts h\nhosts /abs\ndns tls://x\ndns-budget 0\nallow-suffix *.com\nallow-suffix @l\nallow *.corp\ndeny *.net\nallow com", "etc/l": "*.github.io"}
	p, err := Compile(Config{Lines: []Line{{"policy", "etc/p", Pos{"--policy", 0, 1}, 1}}, Open: fsys.open})
	if err != nil {
		t.Fatal(err)
	}
	if p := p.Settings(); len(p.Hosts) != 2 || p.Hosts[0].Arg != "etc/h" || p.Hosts[1].Arg != "/abs" || len(p.DNS) != 1 || p.DNS[0].Pos.Line != 3 || p.Budget == nil || *p.Budget != 0 {
		t.Errorf("%+v %+v %v", p.Hosts, p.DNS, p.Budget)
	}
	for name, want := range map[Name]bool{"a.com": true, "a.github.io": true, "a.net": false, "a.corp": true} {
		if v := p.DecideName(name); v.Allowed() != want || v.Exact {
			t.Errorf("%s: %+v", name, v)
		}
	}
	if v := p.DecideName("com"); !v.Exact {
		t.Errorf("com: %+v", v)
	}
	fsys["etc/p"] = "allow @l"
	if _, err := Compile(Config{Lines: []Line{{"policy", "etc/p", Pos{"--policy", 0, 1}, 1}}, Open: fsys.open}); errText(err) != `etc/l:1:1: "*.github.io": anybody can have a name below github.io, a public suffix; if all of them are meant, write allow-suffix for allow` {
		t.Error(err)
	}
}

func TestHasBelow(t *testing.T) {
	list := files{"l": "a.deep.list.example\n"}
	for _, tt := range []struct {
		lines string
		yes   string
		no    string
	}{
		{"allow a.b.example", "b.example example", "a.b.example x.a.b.example c.example"},
		{"allow *.b.example", "b.example example x.b.example", "c.example"},
		{"allow @l", "deep.list.example list.example example", "a.deep.list.example"},
		{"default allow\ndeny .b.example", "example c.example", "b.example x.b.example"},
		{"default allow\ndeny b.example", "b.example", ""},
		{"allow any\ndeny .b.example\nallow x.b.example", "b.example", "y.b.example"},
	} {
		lines, _ := ReadLines("p", strings.NewReader(tt.lines))
		p, err := Compile(Config{Lines: lines, Open: list.open})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range strings.Fields(tt.yes) {
			if !p.HasBelow(Name(n)) {
				t.Errorf("%q: nothing below %s", tt.lines, n)
			}
		}
		for _, n := range strings.Fields(tt.no) {
			if p.HasBelow(Name(n)) {
				t.Errorf("%q: something below %s", tt.lines, n)
			}
		}
	}
}

// Whoever has some IPv6 prefix can give a host the address of another's as ISATAP
// has it: that opens nothing.
func TestISATAP(t *testing.T) {
	p := compile(t, "allow 8.8.8.8")
	if v := p.Decide(Flow{Addr: netip.MustParseAddr("2606:4700::5efe:808:808"), Port: 443}); v.Allowed() || v.Hint() != "[2606:4700::5efe:808:808]:443" {
		t.Errorf("%v: %s", v.Action, withHint(v))
	}
}

// Of a name that leads to a special address, that is what is said, whatever denies
// another protocol.
func TestSpecialReason(t *testing.T) {
	want := "the name leads to a private address, which no rule allows (to allow: 10.1.2.3)"
	for _, allow := range []string{"x.example", "x.example:443", "x.example:443/tcp", "*.example:8000-9000"} {
		for _, deny := range []string{"any/udp", "any:1-25"} {
			p := compile(t, "allow "+allow+"\ndeny "+deny)
			if v := p.DecideAnswer("x.example", nil, netip.MustParseAddr("10.1.2.3")); withHint(v) != want {
				t.Errorf("allow %s, deny %s: %s", allow, deny, withHint(v))
			}
		}
	}
}

// A verdict by a wildcard says which one it is, and how far its names reach.
func TestBase(t *testing.T) {
	fsys := files{"p": "allow *.a.example\nallow .corp\nallow exact.a.example\nallow @l\nallow-suffix *.github.io\nallow *.b.a.example:443\nallow any:22/udp", "l": "*.list.example\nfull.list.example\n"}
	p, err := Compile(Config{Lines: []Line{{Word: "policy", Arg: "p"}}, Open: fsys.open})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[Name]Name{
		"x.a.example": "a.example", "y.x.a.example": "a.example", "exact.a.example": "", "x.exact.a.example": "a.example",
		"corp": "corp", "x.y.corp": "corp", "x.y.github.io": "github.io", "x.list.example": "list.example", "full.list.example": "",
		"x.b.a.example": "a.example", "other.example": "", // by any
	} {
		if v := p.DecideName(name); !v.Allowed() || v.Base != want {
			t.Errorf("%s: base %q, want %q", name, v.Base, want)
		}
	}
}
