package proxy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"appfw/dnsguard"
	"appfw/policy"
)

// The whole of 127.0.0.0/8 is this host, though the kernel connects from 127.0.0.1.
func TestOnThisHost(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1": true, "127.0.0.2": true, "127.255.255.254": true, "::1": true,
		"192.0.2.200": false, "11.0.0.1": false, "224.0.0.1": false, "255.255.255.255": false, "2001:db8::200": false, "fe80::1": false,
	} {
		if got := onThisHost(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
}

// After another policy, a flow is judged by its address and by every name that it
// has shown.
func TestAgain(t *testing.T) {
	dst := netip.MustParseAddrPort("11.0.0.1:443")
	now := time.Unix(1e9, 0)
	compile := func(lines string) *policy.Policy {
		parsed, err := policy.ReadLines("p", strings.NewReader(lines))
		if err != nil {
			t.Fatal(err)
		}
		p, err := policy.Compile(policy.Config{Lines: parsed})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, c := range []struct {
		before, after string
		shown         []policy.Name
		want          string // "": goes on
	}{
		{"allow a.example\nallow b.example", "allow a.example", []policy.Name{"a.example"}, ""},
		{"allow a.example\nallow b.example", "allow b.example", []policy.Name{"a.example", "b.example"}, "no rule allows it"},
		{"allow a.example", "allow 11.0.0.0/8", []policy.Name{"a.example"}, ""},
		{"allow a.example", "allow a.example\ndeny 11.0.0.1", []policy.Name{"a.example"}, "the rule deny 11.0.0.1 (p:2) denies it"},
		{"allow a.example", "allow c.example", nil, "no rule allows it"},
		{"allow a.example", "allow a.example:443", nil, ""},
		{"allow 11.0.0.1", "allow 11.0.0.0/8", nil, ""},
		{"allow 11.0.0.1", "allow 11.0.0.1\ndeny c.example", nil, "the policy has changed, and not every name that the flow has shown is known"},
		{"allow *.example", "allow *.example\ndeny c.example", make([]policy.Name, maxShown+1), "the policy has changed, and not every name that the flow has shown is known"},
	} {
		rules := compile(c.before)
		pins := new(dnsguard.Pins)
		p := New(Config{Policy: func() *policy.Policy { return rules }, Pins: pins, Now: func() time.Time { return now }})
		for i := range c.shown {
			if c.shown[i] == "" {
				c.shown[i] = policy.Name(fmt.Sprintf("n%d.example", i))
			}
		}
		for _, n := range append(c.shown, "a.example", "b.example") {
			pins.Give(n, nil, []netip.Addr{dst.Addr()}, time.Minute, now)
		}
		d := p.decide(origin{}, policy.TCP, dst, nil)
		if !d.verdict.Allowed() {
			t.Fatalf("%q: %+v", c.before, d.verdict)
		}
		for _, n := range c.shown {
			if v := p.judge(&d, n); !v.Allowed() {
				t.Fatalf("%q: %s: %+v", c.before, n, v)
			}
		}
		if v := p.again(&d); !v.Allowed() {
			t.Errorf("%q: denied under its own policy: %+v", c.before, v)
		}
		rules = compile(c.after)
		if v := p.again(&d); v.Allowed() != (c.want == "") || !v.Allowed() && v.Reason() != c.want {
			t.Errorf("%q, then %q: %+v, want %q", c.before, c.after, v, c.want)
		}
	}
}
