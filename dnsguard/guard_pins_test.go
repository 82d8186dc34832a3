package dnsguard

import (
	"net/netip"
	"testing"
	"time"

	"appfw/policy"
)

func TestPinning(t *testing.T) {
	f := newFixture(t, zone(map[string][]string{
		"a.x. A":     {"a.x. 60 IN CNAME b.y.", "b.y. 60 IN A 192.0.2.1", "b.y. 60 IN A 192.0.2.2"},
		"a.x. AAAA":  {"a.x. 60 IN AAAA ::ffff:192.0.2.3"},
		"a.x. HTTPS": {"a.x. 60 IN HTTPS 1 . ipv4hint=192.0.2.4 ipv6hint=2001:db8::4"},
	}), "allow any")
	one := netip.MustParseAddr("192.0.2.1")
	for _, qtype := range []string{"A", "AAAA", "HTTPS"} {
		f.ask("a.x.", qtype)
	}
	for _, s := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "2001:db8::4"} {
		if got := f.Pins.Of(netip.MustParseAddr(s), f.now); len(got) != 1 || got[0].Name != "a.x" {
			t.Errorf("%s: %v", s, got)
		}
	}
	*f.Pins = Pins{}
	if f.ask("a.x.", "A"); len(f.up.asked) != 3 || !has(f.Pins, one, "a.x", f.now) {
		t.Error("an answer out of the cache was not pinned")
	}
	if has(f.Pins, one, "b.y", f.now) {
		t.Error("pinned to a name that was not asked for")
	}
	if !has(f.Pins, one, "a.x", f.now.Add(1000*time.Hour)) {
		t.Error("not pinned for the run")
	}
}

func has(p *Pins, a netip.Addr, name policy.Name, now time.Time) bool {
	_, ok := p.Find(a, name, now)
	return ok
}
