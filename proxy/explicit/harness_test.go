package explicit

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"appfw/dnsguard"
	"appfw/policy"
	"appfw/proxy"
	"appfw/proxy/conntest"
	"appfw/proxy/journal"
	"appfw/proxy/upstream"
)

// What tests of connections share.
var (
	pair       = conntest.Pair
	send       = conntest.Send
	receiveEnd = conntest.ReceiveEnd
	serve      = conntest.Serve
	server     = conntest.Server
	echo       = conntest.Echo
	closedPort = conntest.ClosedPort
	noLeak     = conntest.NoLeak
	eventually = conntest.Eventually
	within     = conntest.Within
	udpSocket  = conntest.UDP
	sendTo     = conntest.SendTo
	hears      = conntest.Hear
)

const patience = conntest.Patience

// tenant is a Proxy under a policy, and what it reported.
type tenant struct {
	*proxy.Proxy
	conntest.Events
	rules  atomic.Pointer[policy.Policy]
	dns    *conntest.Resolver
	routes conntest.Routes
}

// newTenant makes a tenant. When the test has ended, so has each of its flows, once.
func newTenant(t testing.TB, rules string) *tenant {
	t.Helper()
	x := &tenant{
		routes: conntest.Routes{},
		dns: conntest.NewResolver(map[string]string{
			"a.example.": "127.0.0.1", "b.example.": "127.0.0.1", "far.example.": "127.0.0.2",
		}),
	}
	x.become(t, rules)
	pins := new(dnsguard.Pins)
	guard := dnsguard.New(dnsguard.Config{
		Policy: x.rules.Load, Upstream: x.dns, Pins: pins, Now: time.Now, Synthetic: new(dnsguard.Synthetic),
		Log: func(q dnsguard.Question) { x.Log(journal.Event{Verdict: q.Verdict, Proto: "dns", Name: q.Name}) },
	})
	x.Proxy = proxy.New(proxy.Config{
		Policy: x.rules.Load, Pins: pins, Guard: guard, Routes: x.routes, Now: time.Now, Shared: true, Log: x.Log,
	})
	t.Cleanup(func() { x.AllEnded(t) })
	return x
}

// Log is Events.Log, and not the field of Proxy.
func (x *tenant) Log(e journal.Event) { x.Events.Log(e) }

// by has the tenant's flows go out by a proxy.
func (x *tenant) by(t testing.TB, url string) {
	t.Helper()
	chain := upstream.New()
	if err := chain.Append(url); err != nil {
		t.Fatal(err)
	}
	x.Chain = func(string) *upstream.Chain { return chain }
}

// become has another policy hold.
func (x *tenant) become(t testing.TB, rules string) {
	t.Helper()
	lines, err := policy.ReadLines("p", strings.NewReader(rules))
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Compile(policy.Config{Lines: lines})
	if err != nil {
		t.Fatal(err)
	}
	x.rules.Store(p)
}

// reported tells whether there was such an event.
func (x *tenant) reported(is func(journal.Event) bool) bool { return x.Count(is) > 0 }

// ended waits for the end of a flow, the only one so far.
func (x *tenant) ended(t testing.TB, what string) journal.Event {
	t.Helper()
	eventually(t, what+": the end is reported", func() bool { return len(x.Ends()) > 0 })
	return x.Ends()[0]
}

// service is a Service that serves, until the test ends.
type service struct {
	*Service
	addr string
	stop func() // ends all clients
}

func newService(t testing.TB, p *proxy.Proxy, admit func(user, password string) *proxy.Proxy) *service {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &service{New(Config{Proxy: p, Admit: admit, Explain: explain}), l.Addr().String(), cancel}
	var work sync.WaitGroup
	work.Go(func() { s.Run(ctx) })
	work.Go(func() { s.ServeListener(ctx, l) })
	t.Cleanup(func() {
		l.Close()
		cancel()
		within(t, "the end", work.Wait)
	})
	return s
}

func explain(v policy.Verdict) string { return v.Reason() + " (to allow: --allow " + v.Hint() + ")" }

func (s *service) dial(t testing.TB) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// half is how many clients have not said yet what they want.
func (s *service) half() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.greeting.Len()
}

// turn is what a client says, and then hears.
type turn struct{ say, hear string }

// talk has the conversation, which is said in pieces of that size; 0 is whole.
func talk(t *testing.T, what string, c net.Conn, turns []turn, size int) {
	t.Helper()
	for i, x := range turns {
		for piece := range slices.Chunk([]byte(x.say), max(1, size)) {
			if size == 0 {
				piece = []byte(x.say)
			}
			if _, err := c.Write(piece); err != nil && x.hear == "" {
				return // it has heard enough
			} else if err != nil {
				t.Fatalf("%s, turn %d: %v", what, i, err)
			}
			if size == 0 {
				break
			}
		}
		b := make([]byte, len(x.hear))
		if n, err := io.ReadFull(c, b); err != nil || string(b) != x.hear {
			t.Fatalf("%s, turn %d: heard %q, %v; want %q", what, i, b[:n], err, x.hear)
		}
	}
}

// counter is a server that counts its clients, and echoes.
func counter(t testing.TB, addr string) (at string, count *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	count = new(atomic.Int32)
	serve(t, l, func(c net.Conn) {
		count.Add(1)
		echo(c)
	})
	return l.Addr().String(), count
}

// port is that of an address, as text and in two bytes.
func port(t testing.TB, addr string) (text, raw string) {
	t.Helper()
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(a.Port()), string([]byte{byte(a.Port() >> 8), byte(a.Port())})
}
