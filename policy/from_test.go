package policy

import (
	"io"
	"net/netip"
	"strings"
	"testing"
)

func TestDecideFrom(t *testing.T) {
	for _, c := range []struct {
		policy, client string
		proto          Proto
		port           uint16
		want           string // reason of a denial, with its hint; "": allowed
	}{
		// Without an allow-from, whom the port itself admits.
		{"", "10.0.0.7", TCP, 80, ""},
		{"allow example.com", "10.0.0.7", TCP, 80, ""},
		{"default deny", "127.0.0.1", UDP, 5353, ""},
		{"deny-from 10.0.0.0/8", "11.0.0.1", TCP, 80, ""},
		{"deny-from 10.0.0.0/8", "10.0.0.7", TCP, 80, "the rule deny-from 10.0.0.0/8 (p:1) denies it"},
		// With one, nobody else.
		{"allow-from 10.0.0.0/24:80/tcp", "10.0.0.7", TCP, 80, ""},
		{"allow-from 10.0.0.0/24:80/tcp", "10.0.1.7", TCP, 80, "no rule allows it (to allow: 10.0.1.7:80)"},
		{"allow-from 10.0.0.0/24:80/tcp", "10.0.0.7", TCP, 81, "no rule allows it (to allow: 10.0.0.7:81)"},
		{"allow-from 10.0.0.0/24:80/tcp", "10.0.0.7", UDP, 80, "no rule allows it (to allow: 10.0.0.7:80/udp)"},
		{"allow-from 10.0.0.0/24\ndeny-from 10.0.0.13", "10.0.0.13", TCP, 80, "the rule deny-from 10.0.0.13 (p:2) denies it"},
		{"deny-from any\nallow-from 10.0.0.13", "10.0.0.13", TCP, 80, ""},
		{"allow-from private\nallow-from localhost", "192.168.1.1", TCP, 80, ""},
		{"allow-from private\nallow-from localhost", "::1", TCP, 80, ""},
		{"allow-from private", "127.0.0.1", TCP, 80, "no rule allows it (to allow: 127.0.0.1:80)"},
		{"allow-from any", "fe80::1%eth0", TCP, 853, ""},
		// An address is what it is: of 6to4 and NAT64, the sender has chosen what they embed.
		{"allow-from 10.0.0.0/8", "::ffff:10.0.0.1", TCP, 80, ""},
		{"allow-from 10.0.0.0/8", "2002:a00:1::", TCP, 80, "no rule allows it (to allow: [2002:a00:1::]:80)"},
		{"allow-from 10.0.0.0/8", "64:ff9b::a00:1", TCP, 80, "no rule allows it (to allow: [64:ff9b::a00:1]:80)"},
		// Rules for destinations are no rules for clients.
		{"allow 10.0.0.0/8\nallow-from 11.0.0.0/8", "10.0.0.1", TCP, 80, "no rule allows it (to allow: 10.0.0.1:80)"},
	} {
		p := compile(t, c.policy)
		v := p.DecideFrom(c.proto, netip.MustParseAddr(c.client), c.port)
		if v.Allowed() != (c.want == "") || !v.Allowed() && withHint(v) != c.want || !v.Client {
			t.Errorf("%q, %s: %v %q, client %t, want %q", c.policy, c.client, v.Action, withHint(v), v.Client, c.want)
		}
	}
	listed, err := Compile(Config{Lines: []Line{{Word: "allow-from", Arg: "@list"}}, Open: func(string) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("2001:db8::/32\n")), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	for client, want := range map[string]bool{"2001:db8::1": true, "2001:db9::1": false} {
		if v := listed.DecideFrom(TCP, netip.MustParseAddr(client), 1); v.Allowed() != want {
			t.Errorf("of a list, %s: %s", client, v.Reason())
		}
	}
	if v := compile(t, "allow-from 10.0.0.0/8").Decide(Flow{Addr: netip.MustParseAddr("10.0.0.1"), Port: 80}); v.Allowed() || v.Client {
		t.Error("a rule for clients opens a destination")
	}
}

// withHint is the reason of a verdict, and what a rule would have to allow.
func withHint(v Verdict) string {
	if hint := v.Hint(); hint != "" {
		return v.Reason() + " (to allow: " + hint + ")"
	}
	return v.Reason()
}

func TestFromErrors(t *testing.T) {
	for line, want := range map[string]string{
		"allow-from example.com":     `p:1:12: "example.com": a client is known by its address alone`,
		"deny-from *.example.com:80": `p:1:11: "*.example.com:80": a client is known by its address alone`,
		"allow-from any/icmp":        `p:1:12: "any/icmp": only TCP and UDP ports are published`,
		"allow-from 10.0.0.1/8":      `p:1:12: "10.0.0.1/8": prefix has host bits set (did you mean 10.0.0.0/8 or 10.0.0.1?)`,
		"allow-from any via=tor":     `p:1:16: "via=tor": only one thing may follow the word; give each destination a line`,
		"allow-from @names":          `names:1:1: "example.com": a client is known by its address alone`,
		"allow-form any":             `p:1:1: "allow-form": unknown word (did you mean allow-from?)`,
	} {
		lines, err := ReadLines("p", strings.NewReader(line))
		if err == nil {
			_, err = Compile(Config{Lines: lines, Open: func(string) (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader("example.com\n")), nil
			}})
		}
		if errText(err) != want {
			t.Errorf("%q: %v, want %s", line, err, want)
		}
	}
}
