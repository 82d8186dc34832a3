package proxy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"appfw/netns/route"
	"appfw/policy"
	"appfw/proxy/decide"
	"appfw/proxy/relay"
)

// kinds are the addresses of random flows, and what the routes call them.
var kinds = map[string]route.Kind{
	"198.51.100.1": route.Unicast, "198.51.100.2": route.Unicast, "198.51.100.7": route.Local,
	"198.51.100.255": route.Broadcast, "224.0.0.9": route.Multicast, "192.0.0.1": route.Local,
	"2001:db8::1": route.Unicast, "2001:db8::": route.Anycast, "127.0.0.1": route.Local, "198.51.100.9": route.Unreachable,
	"198.51.100.10": route.Unknown,
}

// randomRules is a policy of a few lines of those that say something of kinds.
func randomRules(r *rand.Rand) string {
	lines := []string{
		"allow any", "deny any", "allow 198.51.100.0/24", "deny 198.51.100.1", "allow 198.51.100.7:80", "allow 198.51.100.7",
		"allow a.example", "deny a.example", "allow *.b.example:443", "deny b.example", "allow any/udp", "deny any:80",
		"allow a.example via=up", "allow 198.51.100.0/24 via=up", "allow any via=up", "default allow", "allow any/icmp",
		"allow [2001:db8::/32]:443", "allow 127.0.0.1", "deny 224.0.0.0/4", "allow 224.0.0.9/udp", "allow 192.0.0.1",
	}
	b := new(strings.Builder)
	fmt.Fprintln(b, "upstream up=http://192.0.2.1:1")
	for range 1 + r.IntN(5) {
		fmt.Fprintln(b, lines[r.IntN(len(lines))])
	}
	return b.String()
}

// What why says of a flow is what becomes of it: the same verdict by the same rule, for
// the same reason and name, and by the same way out.
func TestWhyIsWhatHappens(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	var addrs []netip.Addr
	for a := range kinds {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	allowed, denied := 0, 0
	for range 300 {
		text := randomRules(r)
		w := newWorld(t, text, func(c *Config) { c.Own = []netip.AddrPort{addrPort("198.51.100.7:53"), addrPort("0.0.0.0:80")} })
		w.routes.set(func(a netip.Addr) route.Kind { return kinds[a.String()] })
		for _, name := range []policy.Name{"a.example", "www.b.example"} {
			for range r.IntN(3) {
				w.Pins.Give(name, nil, addrs[:1+r.IntN(3)], w.now())
			}
		}
		v4, v6, err := w.Guard.Synthetic.For("a.example")
		if err != nil {
			t.Fatal(err)
		}
		addrs := append(addrs, v4, v6, netip.MustParseAddr("198.18.0.0")) // the last stands for none
		for range 20 {
			dst := netip.AddrPortFrom(addrs[r.IntN(len(addrs))], []uint16{53, 80, 443}[r.IntN(3)])
			proto := []policy.Proto{policy.TCP, policy.UDP, policy.ICMP}[r.IntN(3)]
			if proto == policy.ICMP {
				dst = netip.AddrPortFrom(dst.Addr(), 0)
			}
			want := w.Decide(w.rules.Load(), proto, dst)
			a := &nowhere{attempt: newAttempt(t, Facts{Facts: decide.Facts{Proto: proto, Dst: dst}, Scope: w.NewScope()}, nil)}
			a.accept = func(context.Context) (Endpoint, error) { a.tried = true; return Endpoint{}, unix.ECONNREFUSED } // of ICMP
			before := len(w.recorded())
			w.Admit(t.Context(), a)
			e := w.recorded()[before]
			if v := e.Verdict; v.Via != want.Verdict.Via || fmt.Sprint(v.Rule()) != fmt.Sprint(want.Verdict.Rule()) || v.Hint() != want.Verdict.Hint() ||
				v.Needs != want.Verdict.Needs || v.Allowed() && e.Name != string(want.Name) || e.Dst != dst {
				t.Fatalf("%s\n%s %s: why says %+v %s; recorded is %+v", text, proto, dst, want, want.Verdict.Reason(), e)
			}
			got, isDenied := errors.AsType[*Denied](receive(t, "a refusal", a.refused))
			switch {
			case isDenied == want.Verdict.Allowed(), a.tried == isDenied:
				t.Fatalf("%s\n%s %s: why says %s; tried: %v, denied: %v", text, proto, dst, want.Verdict.Reason(), a.tried, got)
			case isDenied && got.Verdict.Reason() != want.Verdict.Reason():
				t.Fatalf("%s\n%s %s: why says %s; run says %s", text, proto, dst, want.Verdict.Reason(), got.Reason())
			case isDenied:
				denied++
			default:
				allowed++
			}
		}
	}
	if allowed < 100 || denied < 100 {
		t.Errorf("%d are allowed, %d denied", allowed, denied)
	}
}

// nowhere is an attempt whose destination refuses it.
type nowhere struct {
	*attempt
	tried bool
}

func (n *nowhere) DialTCP(context.Context) (relay.Stream, error) {
	n.tried = true
	return nil, unix.ECONNREFUSED
}

func (n *nowhere) DialUDP() (*net.UDPConn, error) {
	n.tried = true
	return nil, unix.ECONNREFUSED
}
