package policy

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// shutAlways are addresses that no policy opens to a filter of addresses, but for
// the loopback, which rules can name.
const shutAlways = "0.0.0.0/8 224.0.0.0/4 255.255.255.255/32 ::/96 ::ffff:0:0:0/96 64:ff9b::/96 64:ff9b:1::/48 2001::/32 2002::/16 ff00::/8"

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		policy     string
		open, shut string // "": not compared
		some       bool
	}{
		{policy: "", shut: "0.0.0.0/0 ::/0"},
		{policy: "allow 10.0.0.0/24", open: "10.0.0.0/24"},
		{policy: "allow 10.0.0.0/25\nallow 10.0.0.128/25\nallow 2a00::1", open: "10.0.0.0/24 2a00::1/128"},
		{policy: "allow 10.0.0.0/29\ndeny 10.0.0.5", open: "10.0.0.0/30 10.0.0.4/32 10.0.0.6/31"},
		{policy: "allow 10.0.0.0/29\ndeny 10.0.0.0/30\nallow 10.0.0.2", open: "10.0.0.2/32 10.0.0.4/30"},
		{policy: "deny any\nallow 10.0.0.2", open: "10.0.0.2/32"},
		{policy: "allow localhost", open: "127.0.0.0/8 ::1/128"},
		{policy: "deny 8.8.8.8\nallow localhost\ndefault allow", shut: "0.0.0.0/8 8.8.8.8/32 224.0.0.0/4 255.255.255.255/32 ::/128 ::2/127 ::4/126 ::8/125 ::10/124"},
		{policy: "deny 8.8.8.8", shut: "0.0.0.0/8 8.8.8.8/32 127.0.0.0/8 224.0.0.0/4 255.255.255.255/32 " + shutAlways[strings.Index(shutAlways, "::/96"):]},
		{policy: "allow any\ndeny 8.8.8.8", shut: "0.0.0.0/8 8.8.8.8/32 127.0.0.0/8 224.0.0.0/4 255.255.255.255/32 " + shutAlways[strings.Index(shutAlways, "::/96"):]},
		// What a filter of addresses cannot tell is shut, unless asked otherwise.
		{policy: "allow 10.0.0.0/24:443", open: ""},
		{policy: "allow 10.0.0.0/24:443", open: "10.0.0.0/24", some: true},
		{policy: "allow 10.0.0.0/24\ndeny any/udp", open: ""},
		{policy: "allow 10.0.0.0/24\ndeny any/udp", open: "10.0.0.0/24", some: true},
		{policy: "allow 10.0.0.0/24\ndeny 10.0.0.0/25:25", open: "10.0.0.128/25"},
		{policy: "allow 10.0.0.0/24:1-65535\nallow 10.0.0.0/25/icmp", open: "10.0.0.0/25"},
		{policy: "allow example.com\nallow 10.0.0.1", open: "10.0.0.1/32"},
		{policy: "allow 64:ff9b::/96\nallow 2a00::/16", open: "2a00::/16"},
		{policy: "allow 2a00::5efe:0:0/95", open: "2a00::5efe:0:0/95"}, // its first address is one of ISATAP's
		// What goes out by a proxy does not go to the address.
		{policy: "upstream http://10.0.0.1\nallow 10.0.0.0/24\nallow 10.0.1.0/24 via=direct", open: "10.0.1.0/24"},
		// Both directions.
		{policy: "allow 10.0.0.0/24\ndeny-from 10.0.0.0/25", open: "10.0.0.128/25"},
		{policy: "allow 10.0.0.0/24\nallow-from 10.0.0.0/30", open: "10.0.0.0/30"},
		{policy: "allow 10.0.0.0/24\nallow-from 10.0.0.0/30:80", open: ""},
		{policy: "allow 10.0.0.0/24\nallow-from 10.0.0.0/30:80", open: "10.0.0.0/30", some: true},
	} {
		open, shut := compile(t, c.policy).Split(c.some)
		if got := joined(open); c.shut == "" && got != c.open {
			t.Errorf("%q, some=%v: open %s, want %s", c.policy, c.some, got, c.open)
		}
		if got := joined(shut); !strings.HasPrefix(got, c.shut) {
			t.Errorf("%q, some=%v: shut %s, want %s", c.policy, c.some, got, c.shut)
		}
	}
}

func joined(list []netip.Prefix) string {
	var out []string
	for _, p := range list {
		out = append(out, p.String())
	}
	return strings.Join(out, " ")
}

// Open and shut are every address once, and open has none that Decide denies.
func TestSplitModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	hosts := strings.Fields("any 8.8.8.8 8.8.8.8/31 8.8.8.0/24 8.8.0.0/16 0.0.0.0/0 ::/0 10.0.0.0/8 private localhost 127.0.0.1 2606:4700::/32 2606:4700::1 64:ff9b::/96 fd00::/8 any/tcp any:443 any:853 8.8.8.0/24:80")
	always := prefixes(strings.Fields(shutAlways)...)
	for range 500 {
		var text strings.Builder
		for range 1 + r.IntN(6) {
			text.WriteString([]string{"allow ", "deny ", "allow-from ", "deny-from "}[r.IntN(4)])
			text.WriteString(hosts[r.IntN(len(hosts))] + "\n")
		}
		text.WriteString([]string{"", "default allow\n", "default deny\n"}[r.IntN(3)])
		p := compile(t, text.String())
		open, shut := p.Split(false)
		if merged := Merge(open); !slices.Equal(merged, open) {
			t.Fatalf("seed %d: %q: %v can be merged", seed, text.String(), open)
		}
		for range 30 {
			where := worldAddrs[r.IntN(len(worldAddrs))]
			a := netip.MustParseAddr(where.addr)
			in := func(list []netip.Prefix) bool {
				return slices.ContainsFunc(list, func(q netip.Prefix) bool { return q.Contains(a) })
			}
			if in(open) == in(shut) {
				t.Fatalf("seed %d: %q: %s is in both or none", seed, text.String(), a)
			}
			if strings.Contains(where.addr, "5efe") {
				continue // ISATAP
			}
			want := !in(always) || a == netip.MustParseAddr("::1")
			for _, proto := range []Proto{TCP, UDP, ICMP} {
				for _, port := range []uint16{1, 80, 443, 853, 65535} {
					want = want && (port == 853 || p.Decide(Flow{Proto: proto, Addr: a, Port: port}).Allowed())
					want = want && (proto == ICMP || p.DecideFrom(proto, a, port).Allowed())
				}
			}
			if in(open) != want {
				t.Fatalf("seed %d: %q: %s: open is %v, want %v", seed, text.String(), a, in(open), want)
			}
		}
	}
}

func TestMerge(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "0.0.0.0/1 128.0.0.0/1 ::/0": "0.0.0.0/0 ::/0",
		"10.0.0.0/32 10.0.0.1/32 10.0.0.2/31 10.0.0.4/30 10.0.0.8/32": "10.0.0.0/29 10.0.0.8/32",
		"10.0.0.1/32 10.0.0.2/32":                                     "10.0.0.1/32 10.0.0.2/32",
	} {
		if got := joined(Merge(prefixes(strings.Fields(in)...))); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func BenchmarkSplit(b *testing.B) {
	var text strings.Builder
	for i := range 10000 {
		text.WriteString("deny " + netip.AddrFrom4([4]byte{byte(11 + i%100), byte(i >> 8), byte(i), 1}).String() + "\n")
	}
	lines, _ := ReadLines("p", strings.NewReader(text.String()))
	p, err := Compile(Config{Lines: lines})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		p.Split(false)
	}
}
