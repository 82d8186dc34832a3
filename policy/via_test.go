package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestViaErrors(t *testing.T) {
	for _, tt := range []struct{ in, err string }{
		{"upstream a=socks5h://h:1\nallow x.example via=a", ""},
		{"allow x.example via=a\nupstream a=socks5h://h:1", ""}, // in any order
		{"allow x.example via=tor", ""},
		{"allow x.example via=direct", ""},
		{"allow x.example\tvia=direct \t# so", ""},
		{"allow-suffix *.com via=direct", ""},
		{"upstream socks5h://u:p=w@h:1", ""},
		{"upstream a-b_1=http://h:1", ""},
		{"allow x.example via=b", `p:1:21: "b": there is no upstream of this name`},
		{"upstream proxy=socks5h://h:1\n  allow  x.example   via=proxi", `p:2:26: "proxi": there is no upstream of this name (did you mean proxy?)`},
		{"allow x.example via=dierct", `p:1:21: "dierct": there is no upstream of this name (did you mean direct?)`},
		{"allow x.example via=", `p:1:7: "x.example via=": via=NAME follows what is allowed`},
		{"deny x.example via=direct", `p:1:6: "x.example via=direct": via=NAME follows what is allowed`},
		{"allow x.example y.example", `p:1:17: "y.example": only one thing may follow the word; give each destination a line`},
		{"allow x.example via=direct via=tor", `p:1:17: "via=direct": only one thing may follow the word; give each destination a line`},
		{"allow x.example VIA=tor", `p:1:17: "VIA=tor": only one thing may follow the word; give each destination a line`},
		{"allow via=tor", `p:1:7: "via=tor": a name cannot have the character '='`},
		{"upstream Proxy=socks5h://h:1", `p:1:10: "Proxy": the name of an upstream is lower-case letters and digits, and not direct`},
		{"upstream direct=socks5h://h:1", `p:1:10: "direct": the name of an upstream is lower-case letters and digits, and not direct`},
		{"upstream =socks5h://h:1", `p:1:10: the name of an upstream is lower-case letters and digits, and not direct`},
		{"upstream socks5h://h:1 via=tor", `p:1:24: "via=tor": only one thing may follow the word; give each destination a line`},
		{"default allow via=tor", `p:1:15: "via=tor": only one thing may follow the word; give each destination a line`},
		{"dns 9.9.9.9 via=tor", `p:1:13: "via=tor": only one thing may follow the word; give each destination a line`},
	} {
		lines, err := ReadLines("p", strings.NewReader(tt.in))
		if err == nil {
			_, err = Compile(Config{Lines: lines})
		}
		if errText(err) != tt.err {
			t.Errorf("%q: %v\nwant %s", tt.in, err, tt.err)
		}
	}
	// On the command line.
	_, err := Compile(Config{Lines: []Line{{Word: "allow", Arg: "x.example via=b", Pos: Pos{File: "--allow", Column: 1}}}})
	if errText(err) != `--allow: column 15: "b": there is no upstream of this name` {
		t.Error(err)
	}
}

// Lines that say how, not what.
func TestUpstreamOptions(t *testing.T) {
	p := compile(t, "isolate process\nisolate process\nsynthetic 10.64.0.0/16\nsynthetic fd00:1::/64")
	if p := p.Settings(); p.Isolate != IsolateProcess || p.SyntheticV4.String() != "10.64.0.0/16" || p.SyntheticV6.String() != "fd00:1::/64" {
		t.Error(p.Isolate, p.SyntheticV4, p.SyntheticV6)
	}
	for in, want := range map[string]string{
		"isolate proces":                              `p:1:9: "proces": connections are isolated by run, destination or process (did you mean process?)`,
		"isolate run\nisolate process":                `p:2:9: "process": isolate was set to run before`,
		"synthetic 10.0.0.1":                          `p:1:11: "10.0.0.1": addresses that stand for names are given as a prefix, such as 198.18.0.0/15`,
		"synthetic 10.0.0.1/8":                        `p:1:11: "10.0.0.1/8": there are bits beyond the prefix; 10.0.0.0/8 is meant?`,
		"synthetic 10.0.0.0/25":                       `p:1:11: "10.0.0.0/25": the prefix has room for fewer than 256 addresses`,
		"synthetic fe80::/64":                         `p:1:11: "fe80::/64": the prefix has addresses that mean something else on every host`,
		"synthetic 0.0.0.0/0":                         `p:1:11: "0.0.0.0/0": the prefix has addresses that mean something else on every host`,
		"synthetic 10.0.0.0/8\nsynthetic 10.0.0.0/16": `p:2:11: "10.0.0.0/16": it was set to 10.0.0.0/8 before`,
	} {
		lines, err := ReadLines("p", strings.NewReader(in))
		if err == nil {
			_, err = Compile(Config{Lines: lines})
		}
		if errText(err) != want {
			t.Errorf("%q: %v\nwant %s", in, err, want)
		}
	}
}

func TestUpstreamLines(t *testing.T) {
	p := compile(t, "upstream socks5h://a:1\nallow x.example via=tor\nupstream b=http://b:1\nupstream socks5h://u:p=w@c:1\nupstream b=https://d:1")
	var got []string
	for _, name := range slices.Sorted(maps.Keys(p.Settings().Upstreams)) {
		for _, l := range p.Settings().Upstreams[name] {
			got = append(got, name+" "+l.Arg)
		}
	}
	if s := strings.Join(got, "; "); s != " socks5h://a:1;  socks5h://u:p=w@c:1; b http://b:1; b https://d:1; tor tor" {
		t.Error(s)
	}
}

// Each case: a policy, and flows with the way that they go, or "-" and why they do
// not.
func TestVia(t *testing.T) {
	const conflict = "- rules of which none is the narrower send it different ways (via)"
	for _, tt := range []struct {
		policy string
		flows  []string
	}{
		{"allow x.example", []string{"tcp x.example 80 => direct"}},
		{"upstream socks5h://h:1\nallow x.example\nallow 192.0.2.0/24\nallow localhost:80", []string{
			"tcp x.example 80 => default", "udp x.example 80 => default", "tcp 192.0.2.1 80 => default", "tcp 127.0.0.1 80 => direct", "tcp y.example 80 => - no rule allows it",
		}},
		{"upstream socks5h://h:1\ndeny y.example", []string{"tcp x.example 80 => default", "tcp y.example 80 => - the rule deny y.example (p:2) denies it"}},
		{"upstream socks5h://h:1\ndefault allow", []string{"tcp x.example 80 => default"}},
		{"default allow\nallow x.example via=tor", []string{"tcp x.example 80 => tor", "tcp y.example 80 => direct"}},
		{"upstream a=http://h:1\nallow x.example via=a\nallow y.example\nallow localhost via=a", []string{
			"tcp x.example 80 => a", "tcp y.example 80 => direct", "tcp 127.0.0.1 80 => a",
		}},
		// The narrowest says the way, whatever the order.
		{"upstream socks5h://h:1\nallow any\nallow .corp.example via=direct\nallow git.corp.example:22 via=tor", []string{
			"tcp x.example 80 => default", "tcp www.corp.example 80 => direct", "tcp git.corp.example 80 => direct", "tcp git.corp.example 22 => tor",
		}},
		{"allow git.corp.example:22 via=tor\nallow .corp.example via=direct\nupstream socks5h://h:1\nallow any", []string{
			"tcp x.example 80 => default", "tcp www.corp.example 80 => direct", "tcp git.corp.example 80 => direct", "tcp git.corp.example 22 => tor",
		}},
		{"allow 192.0.2.0/24 via=tor\nallow 192.0.2.1 via=direct\nallow any:443 via=tor", []string{
			"tcp 192.0.2.2 80 => tor", "tcp 192.0.2.1 80 => direct", "tcp 192.0.2.1 443 => " + conflict,
		}},
		// None is the narrower.
		{"allow x.example:80 via=tor\nallow .example via=direct\nallow x.example:80-90 via=tor", []string{"tcp x.example 80 => tor", "tcp x.example 90 => tor", "tcp x.example 91 => direct"}},
		{"allow x.example via=tor\nallow x.example via=direct", []string{"tcp x.example 80 => " + conflict}},
		{"allow x.example/tcp via=tor\nallow .example:80 via=direct", []string{"tcp x.example 80 => " + conflict, "tcp x.example 81 => tor", "udp x.example 80 => direct"}},
		// The same way said twice, or by no via and the default, is none different.
		{"allow x.example via=direct\nallow .x.example", []string{"tcp x.example 80 => direct"}},
		{"upstream tor\nallow x.example via=direct\nallow x.example", []string{"tcp x.example 80 => " + conflict}},
		// A deny is weighed as ever.
		{"allow .example via=tor\ndeny x.example\nallow x.example:80 via=direct", []string{
			"tcp x.example 80 => direct", "tcp x.example 81 => - the rule deny x.example (p:2) denies it", "tcp y.example 81 => tor",
		}},
	} {
		p := compile(t, tt.policy)
		for _, c := range tt.flows {
			what, want, _ := strings.Cut(c, " => ")
			w := strings.Fields(what)
			proto, _ := ParseProto(w[0])
			f := Flow{Proto: proto}
			if _, err := fmt.Sscan(w[2], &f.Port); err != nil {
				t.Fatal(err)
			}
			if a, err := netip.ParseAddr(w[1]); err == nil {
				f.Addr = a
			} else {
				f.Name, f.Pinned = Name(w[1]), true
			}
			v := p.Decide(f)
			got := v.Via
			if got == Default {
				got = "default"
			}
			if !v.Allowed() {
				got = "- " + v.Reason()
			}
			if got != want {
				t.Errorf("%q: %s => %s, want %s", tt.policy, what, got, want)
			}
		}
	}
}

func TestChained(t *testing.T) {
	for _, tt := range []struct {
		policy     string
		chained    string
		notChained string
	}{
		{"allow any", "", "x.example y.onion"},
		{"upstream tor\nallow any", "x.example y.onion", ""},
		{"upstream tor\nallow x.example\nallow 192.0.2.0/24", "x.example", "y.example"},
		{"upstream tor\nallow any\nallow .corp.example via=direct", "x.example", "corp.example a.corp.example"},
		{"allow .onion via=tor\nallow any", "x.onion onion", "x.example"},
		{"allow x.example\nallow x.example:443 via=tor\nallow y.example:1-2/udp via=tor\nallow z.example/icmp via=tor", "x.example y.example z.example", "a.example"},
		{"upstream tor\nallow .example\ndeny ads.example\nallow ads.example:80 via=direct", "x.example", "ads.example"},
		{"upstream a=http://h:1\nallow x.example", "", "x.example"}, // nothing goes by it
		{"upstream tor\nallow x.example via=direct\nallow x.example", "", "x.example"},
	} {
		p := compile(t, tt.policy)
		for _, n := range strings.Fields(tt.chained) {
			if !p.Chained(Name(n)) {
				t.Errorf("%q: %s is not chained", tt.policy, n)
			}
		}
		for _, n := range strings.Fields(tt.notChained) {
			if p.Chained(Name(n)) {
				t.Errorf("%q: %s is chained", tt.policy, n)
			}
		}
	}
}
