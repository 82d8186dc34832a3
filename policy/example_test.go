package policy_test

import (
	"fmt"
	"net/netip"
	"strings"

	"appfw/policy"
)

func Example() {
	const text = `
allow registry.example.org:443
deny  any/udp
`
	lines, err := policy.ReadLines("app.policy", strings.NewReader(text))
	if err != nil {
		fmt.Println(err)
		return
	}
	p, err := policy.Compile(policy.Config{Lines: lines})
	if err != nil {
		fmt.Println(err)
		return
	}
	flow := policy.Flow{Addr: netip.MustParseAddr("93.184.216.34"), Port: 443, Name: "registry.example.org", Pinned: true}
	for _, flow.Proto = range []policy.Proto{policy.TCP, policy.UDP} {
		v := p.Decide(flow)
		fmt.Printf("%v %v: %v, %v\n", flow.Proto, flow.Name, v.Action, v.Reason())
	}
	flow.Proto, flow.Port = policy.TCP, 80
	v := p.Decide(flow)
	fmt.Printf("%v; it lacks %v\n", v.Reason(), v.Hint())
	// Output:
	// tcp registry.example.org: allow, the rule allow registry.example.org:443 (app.policy:2) allows it
	// udp registry.example.org: deny, the rule deny any/udp (app.policy:3) denies it
	// no rule allows it; it lacks registry.example.org:80
}

func ExampleSplitHostPort() {
	host, port, err := policy.SplitHostPort("[2001:db8::1]:443")
	fmt.Println(host, port, err)
	_, _, err = policy.SplitHostPort("example.com")
	fmt.Println(err)
	// Output:
	// 2001:db8::1 443 <nil>
	// "example.com" is no host and port
}

func ExamplePrintable() {
	fmt.Println(policy.Printable("a name\x1b[2J of \u202ea certificate", 0))
	fmt.Println(policy.Printable("a long one", 6))
	// Output:
	// a name\x1b[2J of \u202ea certificate
	// a long…
}
