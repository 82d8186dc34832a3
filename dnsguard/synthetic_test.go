package dnsguard

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"appfw/policy"
)

func TestSynthetic(t *testing.T) {
	var s, other Synthetic
	seen := map[netip.Addr]policy.Name{}
	same := 0
	for i := range 5000 {
		name := policy.Name(fmt.Sprintf("n%d.example", i))
		v4, v6, err := s.For(name)
		if err != nil || !SyntheticV4.Contains(v4) || !SyntheticV6.Contains(v6) || !v4.Is4() || !v6.Is6() {
			t.Fatal(v4, v6, err)
		}
		for _, a := range []netip.Addr{v4, v6} {
			if seen[a] != "" {
				t.Fatalf("%s is that of %s and of %s", a, seen[a], name)
			}
			seen[a] = name
			if got, ours := s.Name(a); got != name || !ours {
				t.Fatal(a, got, ours)
			}
		}
		if again4, again6, _ := s.For(name); again4 != v4 || again6 != v6 {
			t.Fatalf("%s: %s %s, and then %s %s", name, v4, v6, again4, again6)
		}
		if o4, o6, _ := other.For(name); o4 == v4 || o6 == v6 {
			same++ // one in 2^17
		}
	}
	if same > 5 {
		t.Errorf("%d addresses are the same in another run", same)
	}
	for text, ours := range map[string]bool{"198.17.255.255": false, "198.18.0.0": true, "198.20.0.0": false, "fd61:7070:6677:ff00::": true, "fd61:7070:6677::1": false, "::ffff:198.18.0.1": false} {
		if name, got := s.Name(netip.MustParseAddr(text)); name != "" && seen[netip.MustParseAddr(text)] == "" || got != ours {
			t.Errorf("%s: %q, %v", text, name, got)
		}
	}
}

// When all are given out there are no more, and those that are stay whose they were.
func TestSyntheticFull(t *testing.T) {
	s := Synthetic{V4: netip.MustParsePrefix("192.0.2.192/26"), V6: netip.MustParsePrefix("2001:db8::/121")}
	given := map[netip.Addr]policy.Name{}
	full := 0
	for i := range 1000 {
		name := policy.Name(fmt.Sprintf("n%d.example", i))
		v4, v6, err := s.For(name)
		if err != nil {
			if !errors.Is(err, errFull) {
				t.Fatal(err)
			}
			full++
			continue
		}
		for i, a := range []netip.Addr{v4, v6} {
			if prefix := []netip.Prefix{s.V4, s.V6}[i]; a.IsValid() && (!prefix.Contains(a) || a == prefix.Addr() || given[a] != "") {
				t.Fatal(v4, v6, given[a])
			}
		}
		given[v4], given[v6] = name, name
		delete(given, netip.Addr{})
	}
	if len(given) > 63+127 || len(given) < 55+120 || full < 870 { // the first of a prefix is none
		t.Errorf("%d given out", len(given))
	}
	for a, name := range given {
		if got, _ := s.Name(a); got != name {
			t.Errorf("%s is of %q, not of %s", a, got, name)
		}
	}
}

// Names that go by a chain get synthetic addresses, and are asked of nobody, of
// whatever type; the others are as ever.
func TestChainedNames(t *testing.T) {
	f := newFixture(t, zone(map[string][]string{"near.example.": {"near.example. 60 IN A 11.22.0.1"}, "www.near.example.": {"www.near.example. 60 IN A 11.22.0.2"}}),
		"upstream socks5h://127.0.0.1:9050", "allow far.example", "allow .onion via=tor", "allow .near.example via=direct", "deny ads.far.example", "allow far.example:25 via=direct", "dns-budget 4", "allow *.wild.example")
	f.Synthetic = new(Synthetic)
	address := func(name, qtype string) netip.Addr {
		t.Helper()
		m := f.ask(name, qtype)
		if m.Rcode != dns.RcodeSuccess || len(m.Answer) != 1 || m.Answer[0].Header().Name != name {
			t.Fatalf("%s %s: %s", name, qtype, text(m))
		}
		switch rr := m.Answer[0].(type) {
		case *dns.A:
			a, _ := netip.AddrFromSlice(rr.A.To4())
			return a
		case *dns.AAAA:
			a, _ := netip.AddrFromSlice(rr.AAAA)
			return a
		}
		t.Fatal(text(m))
		return netip.Addr{}
	}
	for _, name := range []string{"far.example.", "abcdefghij.onion.", "www.abcdefghij.onion.", "FAR.example."} {
		v4, v6 := address(name, "A"), address(name, "AAAA")
		want := policy.Name(strings.ToLower(strings.TrimSuffix(name, ".")))
		for _, a := range []netip.Addr{v4, v6} {
			if got, _ := f.Synthetic.Name(a); got != want {
				t.Errorf("%s: %s is of %q", name, a, got)
			}
			reverse, _ := dns.ReverseAddr(a.String())
			if m := f.ask(reverse, "PTR"); !strings.Contains(text(m), "PTR "+dns.Fqdn(string(want))) {
				t.Errorf("%s: %s", reverse, text(m))
			}
		}
		for _, qtype := range []string{"TXT", "MX", "HTTPS", "SVCB", "SRV", "CAA", "NS", "SOA", "CNAME"} {
			if m := f.ask(name, qtype); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 0 {
				t.Errorf("%s %s: %s", name, qtype, text(m))
			}
		}
	}
	for _, name := range []string{"ads.far.example.", "x.far.example.", "other.example."} {
		if m := f.ask(name, "A"); m.Rcode != dns.RcodeNameError || len(m.Answer) != 0 {
			t.Errorf("%s: %s", name, text(m))
		}
	}
	if m := f.ask("1.0.18.198.in-addr.arpa.", "PTR"); m.Rcode != dns.RcodeNameError {
		t.Error(text(m))
	}
	if n := len(f.up.asked); n != 0 {
		t.Fatalf("%d questions were asked: %v", n, f.up.asked)
	}
	if a := address("near.example.", "A"); a.String() != "11.22.0.1" {
		t.Error(a)
	}

	// What a program makes up is bounded there as well: the chain's end asks for it.
	denied := 0
	for i := range 8 {
		if f.ask(fmt.Sprintf("secret%d.wild.example.", i), "A").Rcode == dns.RcodeNameError {
			denied++
		}
	}
	if denied != 4 {
		t.Errorf("%d of 8 made-up names were denied", denied)
	}

	// A name of which some ports go directly is asked for when one of them is dialled,
	// but no name that means nothing to resolvers.
	rules := f.Policy()
	asked := len(f.up.asked)
	if _, _, err := f.Lookup(context.Background(), rules, "abcdefghij.onion"); err == nil || len(f.up.asked) != asked {
		t.Errorf("an onion was asked for: %v", err)
	}
	if addrs, _, err := f.Lookup(context.Background(), rules, "www.near.example"); err != nil || fmt.Sprint(addrs) != "[11.22.0.2]" {
		t.Error(addrs, err)
	}
}

// Addresses are taken back when there is little room: those used longest ago, none that
// a flow goes to, and none stands for another name soon.
func TestSyntheticTakenBack(t *testing.T) {
	now := time.Unix(1e9, 0)
	var living []netip.Addr
	s := Synthetic{
		V4: netip.MustParsePrefix("192.0.2.0/24"), Now: func() time.Time { return now },
		Living: func(yield func(netip.Addr, policy.Name) bool) {
			for _, a := range living {
				if !yield(a, "") {
					return
				}
			}
		},
	}
	type period struct {
		name policy.Name
		last time.Time // when it was seen to be the name's
	}
	was := map[netip.Addr]period{}
	kept := map[policy.Name][2]netip.Addr{}
	give := func(name policy.Name) (v4, v6 netip.Addr) {
		t.Helper()
		v4, v6, err := s.For(name)
		if err != nil || !v6.IsValid() {
			t.Fatal(name, v4, v6, err)
		}
		for _, a := range []netip.Addr{v4, v6} {
			old, known := was[a]
			if a.IsValid() && known && old.name != name && now.Sub(old.last) < restFor {
				t.Fatalf("%s stood for %s until %s ago, and stands for %s", a, old.name, now.Sub(old.last), name)
			}
			was[a] = period{name, now}
		}
		return v4, v6
	}
	for i := range 10 { // of these, flows live all the time
		name := policy.Name(fmt.Sprintf("living%d.example", i))
		v4, v6 := give(name)
		kept[name] = [2]netip.Addr{v4, v6}
		living = append(living, [2]netip.Addr{v4, v6}[i%2])
	}
	both := 0
	const hours = 6
	for i := range hours * 60 * 6 { // a new name each ten seconds
		if v4, _ := give(policy.Name(fmt.Sprintf("n%d.example", i))); v4.IsValid() {
			both++
		}
		now = now.Add(10 * time.Second)
		for _, a := range living {
			was[a] = period{was[a].name, now}
		}
	}
	for name, addrs := range kept {
		for _, a := range addrs {
			if got, _ := s.Name(a); slices.Contains(living, a) && got != name {
				t.Errorf("%s, of %s, in use, stands for %q", a, name, got)
			}
		}
	}
	// 255 addresses, each for some minutes and then at rest for an hour.
	if both < hours*150 || both > hours*260 {
		t.Errorf("%d names had addresses of both families", both)
	}
}
