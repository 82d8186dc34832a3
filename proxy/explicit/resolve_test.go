package explicit

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"appfw/dnsguard"
	"appfw/netns/route"
	"appfw/proxy/journal"
)

// An address that stands for a name is no way around what is denied to the name,
// and clients are given no other.
func TestResolveShared(t *testing.T) {
	noLeak(t)
	at, count := counter(t, "127.0.0.1:0")
	text, raw := port(t, at)
	for _, tt := range []struct {
		rules string
		own   bool // appfw itself listens there
		want  string
	}{
		{"allow a.example\nallow " + at, false, granted5},
		{"allow a.example\nallow 127.0.0.1:1", false, refuse5(4)},
		{"allow a.example\nallow " + at, true, refuse5(4)},
		{"allow a.example\nallow 127.0.0.1\ndeny alias.example:1", false, granted5},
		{"allow a.example\nallow 127.0.0.1\ndeny alias.example:" + text, false, refuse5(4)},
	} {
		x := newTenant(t, tt.rules)
		x.dns.Set("a.example.", "alias.example 127.0.0.1")
		if tt.own {
			x.Own = []netip.AddrPort{netip.MustParseAddrPort(at)}
		}
		s := newService(t, x.Proxy, nil)
		c := s.dial(t)
		talk(t, tt.rules, c, []turn{{hello5, open5}, {socksTo(0xf0, "a.example", "\x00\x00"), "\x05\x00\x00\x01"}}, 0)
		var rest [6]byte
		if _, err := io.ReadFull(c, rest[:]); err != nil {
			t.Fatal(err)
		}
		addr := netip.AddrFrom4([4]byte(rest[:4]))
		if !dnsguard.SyntheticV4.Contains(addr) {
			t.Fatalf("%q: resolved to %v", tt.rules, addr)
		}
		before := count.Load()
		c = s.dial(t)
		talk(t, tt.rules, c, []turn{{hello5, open5}, {socksTo(1, addr.String(), raw), tt.want}}, 0)
		if tt.want == granted5 {
			talk(t, tt.rules, c, []turn{{"ping", "ping"}}, 0)
		} else if count.Load() != before {
			t.Errorf("%q: the server was reached", tt.rules)
		}
	}
}

// A name's owner cannot point clients at this host under a policy that only
// denies, be it by a synthetic address.
func TestSyntheticOfThisHost(t *testing.T) {
	noLeak(t)
	all := []string{"127.0.0.1", "127.0.0.9"}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
			all = append(all, p.Addr().String())
		}
	}
	for _, own := range all {
		at, count := counter(t, own+":0")
		_, raw := port(t, at)
		x := newTenant(t, "deny b.example")
		x.routes[netip.MustParseAddr(own)] = route.Local
		x.dns.Set("own.example.", own)
		v4, _, err := x.Guard.Synthetic.For("own.example")
		if err != nil {
			t.Fatal(err)
		}
		s := newService(t, x.Proxy, nil)
		talk(t, own, s.dial(t), []turn{{hello5, open5}, {socksTo(1, v4.String(), raw), refuse5(4)}}, 0)
		talk(t, own, s.dial(t), []turn{{hello5, open5}, {socksTo(1, "own.example", raw), refuse5(2)}}, 0)
		if count.Load() > 0 {
			t.Errorf("%s was reached", own)
		}
		if e := x.ended(t, own); e.End != journal.Failed || e.Failed != "no route to host" {
			t.Errorf("%s: %+v", own, e)
		}
	}
}

// One client alone is given the addresses that there are, and told the name that it
// came to one by.
func TestResolve(t *testing.T) {
	noLeak(t)
	x := newTenant(t, "allow a.example\nallow 127.0.0.1")
	x.Shared = false
	s := newService(t, x.Proxy, nil)
	reverse := socksTo(0xf1, "127.0.0.1", "\x00\x00")
	talk(t, "before", s.dial(t), []turn{{hello5, open5}, {reverse, refuse5(4)}}, 0)
	talk(t, "the name", s.dial(t), []turn{{hello5, open5}, {socksTo(0xf0, "a.example", "\x00\x00"), "\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00"}}, 0)
	talk(t, "after", s.dial(t), []turn{{hello5, open5}, {reverse, "\x05\x00\x00\x03\x09a.example\x00\x00"}}, 0)
}
