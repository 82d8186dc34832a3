package decide_test

import (
	"net/netip"
	"testing"

	"appfw/dnsguard"
	"appfw/netns"
	"appfw/netns/route"
	"appfw/policy"
	"appfw/proxy/decide"
)

// What facts say of a destination beside the policy.
func TestFacts(t *testing.T) {
	rules := compile("default allow\nallow 127.0.0.1:8080\nallow 10.0.0.1\nupstream up=http://192.0.2.1:1\nallow 10.0.0.2 via=up\nallow a.example via=up")
	const local = "it is an address of this host, and no rule names that"
	for _, c := range []struct {
		facts decide.Facts
		want  string // "": allowed
		asks  bool
	}{
		{decide.Facts{Refused: "it is none", Dst: netip.MustParseAddrPort("10.0.0.1:80"), Route: route.Unicast}, "it is none", false},
		{decide.Facts{Dst: netip.MustParseAddrPort("11.0.0.1:80")}, "what the host's routes say of it cannot be told", true},
		{decide.Facts{Dst: netip.MustParseAddrPort("11.0.0.1:80"), Route: route.Unicast}, "", false},
		{decide.Facts{Dst: netip.MustParseAddrPort("11.0.0.1:80"), Route: route.Unreachable}, "", false}, // a socket says why
		{decide.Facts{Dst: netip.MustParseAddrPort("11.0.0.1:80"), Route: route.Local}, local, false},
		{decide.Facts{Dst: netip.MustParseAddrPort("10.0.0.1:80"), Route: route.Local}, "", false}, // a rule names it
		{decide.Facts{Dst: netip.MustParseAddrPort("11.0.0.1:80"), Route: route.Broadcast}, "broadcast addresses are not carried", false},
		{decide.Facts{Dst: netip.MustParseAddrPort("10.0.0.1:80"), Route: route.Broadcast}, "broadcast addresses are not carried", false},
		{decide.Facts{Dst: netip.MustParseAddrPort("10.0.0.1:80"), Route: route.Anycast}, "anycast addresses are not carried", false},
		{decide.Facts{Dst: netip.MustParseAddrPort("10.0.0.1:80"), Route: route.Multicast}, "multicast addresses are not carried", false},
		{decide.Facts{Dst: netip.MustParseAddrPort("10.0.0.2:80")}, "", false}, // what it is beyond the upstream is not known here
		{decide.Facts{Dst: netip.MustParseAddrPort("10.0.0.2:80"), Route: route.Broadcast}, "", false},
		{decide.Facts{Dst: netip.MustParseAddrPort("10.0.0.2:80"), Proto: policy.ICMP}, "upstreams carry no ICMP", false},
		{decide.Facts{Dst: netip.MustParseAddrPort("127.0.0.1:8080"), Own: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:8080")}, Route: route.Local}, "it is a port of appfw's own", false},
		{decide.Facts{Dst: netip.MustParseAddrPort("127.0.0.1:8080"), Own: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:8080")}, Route: route.Local}, "it is a port of appfw's own", false},
		{decide.Facts{Dst: netip.MustParseAddrPort("127.0.0.1:8080"), Own: []netip.AddrPort{netip.MustParseAddrPort("[::]:8080")}}, "what the host's routes say of it cannot be told", true},
		{decide.Facts{Dst: netip.MustParseAddrPort("10.0.0.1:8080"), Own: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:8080")}, Route: route.Unicast}, "", false},
		{decide.Facts{Dst: netip.MustParseAddrPort("127.0.0.1:8080"), Own: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:8081")}, Route: route.Local}, "", false},
		{decide.Facts{Dst: netip.AddrPortFrom(netns.App4, 80), Route: route.Unicast}, "it is an address of appfw's own", false},
		{decide.Facts{Dst: netip.AddrPortFrom(netns.Gateway6, 80), Route: route.Unicast}, "it is an address of appfw's own", false},
		{decide.Facts{Dst: netip.MustParseAddrPort("198.18.0.1:80"), Stands: true}, "it is an address that stands for a name, and was given out for none (synthetic PREFIX has others for that)", false},
		{decide.Facts{Dst: netip.MustParseAddrPort("198.18.0.1:80"), Stands: true, Name: "a.example"}, "", false},
		{decide.Facts{Dst: netip.MustParseAddrPort("198.18.0.1:0"), Stands: true, Name: "a.example", Proto: policy.ICMP}, "upstreams carry no ICMP", false},
		{decide.Facts{Asked: "a.example", Dst: netip.AddrPortFrom(netip.Addr{}, 80)}, "", false},
		{decide.Facts{In: true, Src: netip.MustParseAddrPort("192.0.2.1:9"), Dst: netip.MustParseAddrPort("10.0.0.1:80")}, "", false},
		{decide.Facts{In: true, Src: netip.AddrPortFrom(netns.App4, 9), Dst: netip.MustParseAddrPort("10.0.0.1:80")}, "it is an address of appfw's own", false},
		{decide.Facts{In: true, Src: netip.MustParseAddrPort("198.18.0.1:9"), Dst: netip.MustParseAddrPort("10.0.0.1:80"), Stands: true}, "it is an address that stands for a name", false},
	} {
		d := decide.Flow(rules, &c.facts)
		if d.Verdict.Allowed() != (c.want == "") || c.want != "" && d.Verdict.Reason() != c.want || d.AsksRoute != c.asks {
			t.Errorf("%+v:\n got %+v, %s\nwant %q", c.facts, d, d.Verdict.Reason(), c.want)
		}
	}
	if d := decide.Flow(rules, &decide.Facts{Dst: netip.MustParseAddrPort("11.0.0.1:80"), Route: route.Local}); d.Verdict.Hint() != "11.0.0.1:80" {
		t.Errorf("the hint is %q", d.Verdict.Hint())
	}
}

// Of an address with several names, any that is allowed will do; else it is best known
// by the one given last, and denied as that.
func TestPins(t *testing.T) {
	rules := compile("allow c.example\ndeny a.example\ndeny b.example")
	pins := func(names ...policy.Name) (pins []dnsguard.Pin) {
		for _, n := range names {
			pins = append(pins, dnsguard.Pin{Name: n})
		}
		return pins
	}
	for _, c := range []struct {
		facts decide.Facts
		name  policy.Name
		want  string
	}{
		{decide.Facts{Pins: pins("a.example", "b.example")}, "a.example", "the rule deny a.example (p:2) denies it"},
		{decide.Facts{Pins: pins("b.example", "a.example")}, "b.example", "the rule deny b.example (p:3) denies it"},
		{decide.Facts{Pins: pins("a.example", "c.example")}, "c.example", ""},
		{decide.Facts{Pins: pins("c.example"), Pin: &pins("a.example")[0]}, "a.example", "the rule deny a.example (p:2) denies it"},
	} {
		c.facts.Dst, c.facts.Route = netip.MustParseAddrPort("11.0.0.1:80"), route.Unicast
		d := decide.Flow(rules, &c.facts)
		if d.Name != c.name || d.Verdict.Allowed() != (c.want == "") || c.want != "" && d.Verdict.Reason() != c.want || d.Pinned != (c.want == "") {
			t.Errorf("%+v: %+v, %s", c.facts, d, d.Verdict.Reason())
		}
	}
}
