package dnsguard

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"appfw/policy"
)

// nth is the n-th of many addresses.
func nth(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{11, byte(n >> 16), byte(n >> 8), byte(n)})
}

// check counts all anew.
func (p *Pins) check(t *testing.T) {
	t.Helper()
	size, pins, origins := 0, 0, map[*origin]int{}
	for a, list := range p.addrs {
		size += addrSize
		for _, x := range list {
			if x.addr != a || x.gone.Load() {
				t.Fatalf("%s has a pin of %s", a, x.addr)
			}
			size += pinSize
			pins++
			origins[x.origin]++
		}
	}
	for o, n := range origins {
		size += o.size()
		if o.pins != n {
			t.Fatalf("%s has %d pins, and counts %d", o.Name, n, o.pins)
		}
	}
	if len(p.pins) != pins {
		t.Fatalf("%d pins, of which %d are found", pins, len(p.pins))
	}
	for x := p.ends.next; x != nil && x != &p.ends; x = x.next {
		pins--
	}
	if size != p.size || p.size > maxPins || pins != 0 || len(p.origins) > len(origins) {
		t.Fatalf("%d bytes, counted as %d; %d pins too many; %d origins of %d", size, p.size, pins, len(p.origins), len(origins))
	}
}

// Pins do what a list of all that was given does.
func TestPinsModel(t *testing.T) {
	type given struct {
		Pin
		gift int
	}
	var p Pins
	model := map[netip.Addr][]given{}
	now := time.Unix(1e9, 0)
	for i := range 20000 {
		a := nth(rand.N(20))
		name := policy.Name(fmt.Sprint("n", rand.N(30)))
		switch rand.N(4) {
		case 0:
			var aliases []policy.Name
			if rand.N(4) == 0 {
				aliases = []policy.Name{policy.Name(fmt.Sprint("alias", rand.N(2)))}
			}
			addrs := []netip.Addr{a, nth(rand.N(20))}
			p.Give(name, aliases, addrs, now)
			for _, a := range addrs {
				list := slices.DeleteFunc(model[a], func(g given) bool { return g.Name == name })
				model[a] = append(list, given{Pin{name, aliases}, i})
			}
		case 1:
			p.Keep(a, name, now)
		case 2:
			got, ok := p.Find(a, name, now)
			at := slices.IndexFunc(model[a], func(g given) bool { return g.Name == name })
			if ok != (at >= 0) || ok && !slices.Equal(got.Aliases, model[a][at].Aliases) {
				t.Fatalf("%s %s: %v %t", a, name, got, ok)
			}
		case 3:
			want := slices.Clone(model[a])
			slices.SortFunc(want, func(a, b given) int { return cmp.Compare(b.gift, a.gift) })
			same := func(a Pin, b given) bool { return a.Name == b.Name && slices.Equal(a.Aliases, b.Aliases) }
			if got := p.Of(a, now); !slices.EqualFunc(got, want, same) {
				t.Fatalf("%s: %v, want %v", a, got, want)
			}
		}
		now = now.Add(time.Hour)
	}
	p.check(t)
}

// Many names on one address all work; there may be too many.
func TestManyNamesOnOneAddress(t *testing.T) {
	var p Pins
	now := time.Unix(1e9, 0)
	a := nth(1)
	for i := range maxNamesAPinned {
		p.Give(policy.Name(fmt.Sprint("n", i)), nil, []netip.Addr{a, a}, now)
		now = now.Add(time.Second)
	}
	names := p.Of(a, now)
	if len(names) != maxNamesAPinned || names[0].Name != policy.Name(fmt.Sprint("n", maxNamesAPinned-1)) {
		t.Errorf("%d names, the last %s", len(names), names[0].Name)
	}
	p.Keep(a, "n0", now)
	p.Give("more", nil, []netip.Addr{a}, now)
	if !has(&p, a, "n0", now) || has(&p, a, "n1", now) || !has(&p, a, "more", now) {
		t.Error("not the one used longest ago went")
	}
	p.check(t)
}

// A pin ends by time only where it has a life, counted from its last use, of which
// there are several kinds.
func TestPinsLife(t *testing.T) {
	const week = 7 * 24 * time.Hour
	begin := time.Unix(1e9, 0)
	var p Pins
	p.Give("n", nil, []netip.Addr{nth(1)}, begin)
	if !has(&p, nth(1), "n", begin.Add(1000*week)) {
		t.Error("a pin without a life ended")
	}
	for what, use := range map[string]func(p *Pins, now time.Time){
		"nothing": func(*Pins, time.Time) {},
		"given":   func(p *Pins, now time.Time) { p.Give("n", nil, []netip.Addr{nth(1)}, now) },
		"found":   func(p *Pins, now time.Time) { p.Find(nth(1), "n", now) },
		"kept":    func(p *Pins, now time.Time) { p.Keep(nth(1), "n", now) },
		"living":  func(p *Pins, now time.Time) { p.keepLiving(now) },
	} {
		p := Pins{Life: week, Living: func(yield func(netip.Addr, policy.Name) bool) { yield(nth(1), "n") }}
		p.Give("n", nil, []netip.Addr{nth(1)}, begin)
		now := begin.Add(week)
		use(&p, now)
		now = now.Add(time.Second)
		if got, want := len(p.Of(nth(1), now)) == 1, what != "nothing"; got != want {
			t.Errorf("%s: pinned after a week: %t", what, got)
		}
		now = now.Add(week)
		if has(&p, nth(1), "n", now) || len(p.Of(nth(1), now)) != 0 {
			t.Errorf("%s: pinned after a week without a use", what)
		}
	}
}
