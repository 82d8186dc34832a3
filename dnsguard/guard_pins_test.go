package dnsguard

import (
	"fmt"
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
	if !has(f.Pins, one, "a.x", f.now.Add(pinLife)) || has(f.Pins, one, "a.x", f.now.Add(pinLife+1)) {
		t.Error("not pinned for pinLife")
	}
}

func has(p *Pins, a netip.Addr, name policy.Name, now time.Time) bool {
	_, ok := p.Find(a, name, now)
	return ok
}

func TestPinsAreBounded(t *testing.T) {
	var p Pins
	now := time.Unix(1e9, 0)
	a := netip.MustParseAddr("192.0.2.1")
	for i := range maxNamesAPinned + 5 {
		p.Give(policy.Name(fmt.Sprint("n", i)), nil, []netip.Addr{a, a}, 0, now)
	}
	names := p.Of(a, now)
	if len(names) != maxNamesAPinned || names[0].Name != policy.Name(fmt.Sprint("n", maxNamesAPinned+4)) || names[len(names)-1].Name != "n5" {
		t.Errorf("%d names, %v to %v", len(names), names[0], names[len(names)-1])
	}
	p.Give("long", nil, []netip.Addr{a}, 1<<62, now)
	if has(&p, a, "long", now.Add(maxTTL+1)) {
		t.Error("pinned for ever")
	}
	next := netip.MustParseAddr("10.0.0.0")
	for range maxPinned + 100 {
		p.Give("many", nil, []netip.Addr{next}, 0, now)
		next = next.Next()
	}
	if len(p.addrs) != maxPinned || !has(&p, next.Prev(), "many", now) {
		t.Errorf("%d addresses", len(p.addrs))
	}
	p.Give("late", nil, []netip.Addr{netip.IPv6Loopback()}, 0, now.Add(pinLife+1))
	if n := len(p.addrs); n != 1 && n != 2 { // a may have stayed: it was pinned for longer
		t.Errorf("%d addresses after the others were out of date", n)
	}
}
