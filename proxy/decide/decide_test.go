package decide_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"appfw/dnsguard"
	"appfw/netns"
	"appfw/netns/route"
	"appfw/policy"
	"appfw/proxy/decide"
)

func compile(lines string) *policy.Policy {
	parsed, err := policy.ReadLines("p", strings.NewReader(lines))
	if err != nil {
		panic(err)
	}
	p, err := policy.Compile(policy.Config{Lines: parsed})
	if err != nil {
		panic(err)
	}
	return p
}

func Example() {
	rules := compile("allow any\ndeny any:25")
	f := &decide.Facts{Proto: policy.TCP, Dst: netip.MustParseAddrPort("198.51.100.7:25")}
	fmt.Println(decide.Flow(rules, f).Verdict.Reason())
	f.Dst = netip.MustParseAddrPort("198.51.100.7:22")
	d := decide.Flow(rules, f)
	fmt.Println(d.Verdict.Allowed(), d.AsksRoute)
	f.Route = route.Unicast
	fmt.Println(decide.Flow(rules, f).Verdict.Allowed())
	// Output:
	// the rule deny any:25 (p:2) denies it
	// false true
	// true
}

// What holds of every verdict, whatever the policy says.
func TestFlowLaws(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	lines := []string{
		"allow any", "deny any", "allow 198.51.100.0/24", "allow 198.51.100.7:80", "deny 198.51.100.1", "allow a.example",
		"deny a.example", "allow *.b.example:443", "deny b.example", "allow any/udp", "allow 192.0.0.0/24", "allow 224.0.0.0/4",
		"allow 127.0.0.1", "allow any via=up", "allow 198.51.100.0/24 via=up",
	}
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	allowed := 0
	for range 10000 {
		b := new(strings.Builder)
		b.WriteString("upstream up=socks5://192.0.2.1:1\n")
		for range 1 + r.IntN(4) {
			fmt.Fprintln(b, pick(lines...))
		}
		rules := compile(b.String())
		f := decide.Facts{
			Proto: []policy.Proto{policy.TCP, policy.UDP, policy.ICMP}[r.IntN(3)],
			Dst:   netip.MustParseAddrPort(pick("198.51.100.1", "198.51.100.7", "192.0.0.1", "224.0.0.9", "127.0.0.1") + pick(":80", ":443", ":1080")),
			Route: []route.Kind{route.Unknown, route.Unicast, route.Local, route.Broadcast, route.Multicast, route.Unreachable}[r.IntN(6)],
			Own:   []netip.AddrPort{netip.MustParseAddrPort("198.51.100.7:443"), netip.MustParseAddrPort("0.0.0.0:1080")},
		}
		for range r.IntN(3) {
			f.Pins = append(f.Pins, dnsguard.Pin{Name: policy.Name(pick("a.example", "b.example", "www.b.example"))})
		}
		before := f
		d := decide.Flow(rules, &f)
		v := d.Verdict
		wrong := func(what string) { t.Fatalf("%s%+v: %s: %s", b, f, what, v.Reason()) }
		if !reflect.DeepEqual(f, before) || !reflect.DeepEqual(d, decide.Flow(rules, &f)) {
			wrong("it is not pure")
		}
		if d.AsksRoute && (v.Allowed() || f.Route != route.Unknown) {
			wrong("it asks what it knows, or for what is allowed")
		}
		for _, pin := range f.Pins { // a name more never takes anything away
			if only := decide.Flow(rules, &decide.Facts{Proto: f.Proto, Dst: f.Dst, Route: f.Route, Own: f.Own, Pin: &pin}); only.Verdict.Allowed() && !v.Allowed() {
				wrong("it is denied, and would be allowed as " + string(pin.Name))
			}
		}
		if !v.Allowed() {
			continue
		}
		allowed++
		a := f.Dst.Addr()
		switch direct := v.Via == policy.Direct; {
		case a == netns.Gateway4:
			wrong("an address of appfw's own is allowed")
		case f.Dst == f.Own[0], f.Dst.Port() == 1080 && f.Route == route.Local:
			wrong("a port of appfw's own is allowed")
		case direct && f.Route == route.Unknown:
			wrong("it is allowed without knowing what the address is")
		case f.Route == route.Local && (v.ByName || v.Rule() == nil):
			wrong("a name opens the host itself")
		case direct && (f.Route == route.Broadcast || f.Route == route.Multicast):
			wrong("it goes to many")
		case f.Proto == policy.ICMP && !direct:
			wrong("an upstream carries ICMP")
		}
	}
	if allowed < 500 {
		t.Errorf("only %d are allowed", allowed)
	}
}

// A name that a flow shows is judged as the name that its address stands for, if that is
// the same, or else by the pin of its address to that name.
func TestShown(t *testing.T) {
	rules := compile("allow a.example\ndeny b.example\nallow 198.51.100.1")
	at := netip.MustParseAddrPort("198.51.100.1:443")
	for _, c := range []struct {
		stands, shown policy.Name
		pin           *dnsguard.Pin
		want          bool
	}{
		{"a.example", "a.example", nil, true},
		{"a.example", "b.example", nil, false},
		{"", "b.example", nil, false},
		{"", "b.example", &dnsguard.Pin{Name: "b.example"}, false},
		{"", "a.example", &dnsguard.Pin{Name: "a.example"}, true},
	} {
		f := decide.Facts{Proto: policy.TCP, Dst: at, Name: c.stands, Stands: c.stands != ""}
		if v := decide.Shown(rules, &f, c.shown, c.pin); v.Allowed() != c.want {
			t.Errorf("%+v: %s", c, v.Reason())
		}
	}
}

// The clients whose denial is remembered are bounded, and of the rules of now.
func TestDenials(t *testing.T) {
	one, other := compile("deny-from any"), compile("deny-from any")
	d := new(decide.Denials)
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	for i := range 1024 + 1 {
		d.Add(addr(i), one)
	}
	last := addr(1024)
	if !d.Has(last, one) || d.Has(last, other) || d.Has(addr(0), one) {
		t.Error("others are remembered")
	}
}
