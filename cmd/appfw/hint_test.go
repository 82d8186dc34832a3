package main

import (
	"net/netip"
	"strings"
	"testing"

	"appfw/policy"
)

func TestExplain(t *testing.T) {
	lines, err := policy.ReadLines("p", strings.NewReader("allow a.example\nallow 8.8.8.8:53\ndeny 11.0.0.1\nallow-from 10.0.0.0/8\n"))
	if err != nil {
		t.Fatal(err)
	}
	rules, err := policy.Compile(policy.Config{Lines: lines})
	if err != nil {
		t.Fatal(err)
	}
	to := func(addr string, port uint16) policy.Verdict {
		return rules.Decide(policy.Flow{Proto: policy.TCP, Addr: netip.MustParseAddr(addr), Port: port})
	}
	for _, tt := range []struct {
		verdict policy.Verdict
		want    string
	}{
		{to("8.8.8.8", 53), "the rule allow 8.8.8.8:53 (p:2) allows it"},
		{to("11.0.0.1", 53), "the rule deny 11.0.0.1 (p:3) denies it"},
		{to("8.8.8.8", 443), "no rule allows it (to allow: --allow 8.8.8.8:443)"},
		{rules.DecideAnswer("a.example", nil, netip.MustParseAddr("10.1.2.3")), "the name leads to a private address, which no rule allows (to allow: --allow 10.1.2.3)"},
		{rules.DecideFrom(policy.TCP, netip.MustParseAddr("11.0.0.2"), 80), "no rule allows it (to allow: --allow-from 11.0.0.2:80)"},
		{rules.DecideFrom(policy.TCP, netip.MustParseAddr("10.0.0.2"), 80), "the rule allow-from 10.0.0.0/8 (p:4) allows it"},
		{policy.Denial("there is no port 0"), "there is no port 0"},
	} {
		if got := new(policyFlags).explain(tt.verdict); got != tt.want {
			t.Errorf("%s, want %s", got, tt.want)
		}
	}
}
