package proxy

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/policy"
	"appfw/proxy/conntest"
)

// opening waits until as many flows of TCP of an intake are counted as not open.
func (in *GateIntake) opening(t *testing.T, want int) {
	t.Helper()
	eventually(t, "flows that open", func() bool {
		in.Proxy.mu.Lock()
		defer in.Proxy.mu.Unlock()
		return in.scope.opening[policy.TCP] == want
	})
}

// A SYN waits while its destination is dialled: the app is connected only when there
// is a connection.
func TestSYNWaitsForTheDial(t *testing.T) {
	w := newWorld(t, "allow 192.0.2.1\nupstream up=http://192.0.2.1:1\nallow 192.0.2.2 via=up")
	up := newFakeUpstream(t)
	w.via("up", up.URL)
	g := newFakeGate(t)
	in, stop := w.served(g, nil)
	dst := addrPort("192.0.2.2:443")
	first := g.show(synPacket(app4, dst))
	receive(t, "the dial", up.Asked)
	g.waits(first)
	if got := story(w.recorded(), 1); got != "allow" {
		t.Errorf("recorded %q", got)
	}
	for range 3 { // it is sent again
		again := g.show(synPacket(app4, dst))
		g.wantSettled(again, false)
	}
	g.waits(first)
	up.answer <- http.StatusOK
	g.wantSettled(first, true)
	app := receive(t, "the connection", g.apps).(*net.TCPConn)
	pings(t, app)
	in.opening(t, 0)
	ends(t, app)
	w.waitStory(1, "allow; done 4/4")
	if e := w.recorded()[0]; len(w.recorded()) != 2 || e.Proto != "tcp" || e.Dst != dst {
		t.Errorf("recorded:\n%s", tell(w.recorded()))
	}
	stop()
	g.silent()
}

// What a refused SYN is answered.
func TestSYNRefused(t *testing.T) {
	nowhere := addrPort(conntest.ClosedPort(t))
	for _, c := range []struct {
		name, rules string
		src, dst    netip.AddrPort
		story       string
		reply       string // "": none
	}{
		{"denied", "allow 192.0.2.1", app4, addrPort("192.0.2.2:443"), "deny: no rule allows it", "reset"},
		{"denied, IPv6", "allow 192.0.2.1", app6, addrPort("[2001:db8::2]:443"), "deny: no rule allows it", "reset"},
		{"no such port", "allow 192.0.2.9", app4, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), 0), "deny: no rule allows it", "prohibited"},
		{"its own gateway", "default allow", app4, netip.AddrPortFrom(netns.Gateway4, 80), "deny: it is an address of appfw's own", "reset"},
		{"its own gateway, IPv6", "default allow", app6, netip.AddrPortFrom(netns.Gateway6, ExplicitPort), "deny: it is an address of appfw's own", "reset"},
		{"closed", "allow 127.0.0.1", app4, nowhere, "allow; failed: connection refused", "reset"},
		{"no way", "allow any\nupstream http://127.0.0.1:1", app4, addrPort("192.0.2.1:80"),
			"allow; allowed, deny: the upstream failed: there is none: network is unreachable; failed: there is none: network is unreachable", "no network"},
		{"spoofed", "allow any", addrPort("192.0.2.77:1"), addrPort("192.0.2.1:80"), "deny: its source address 192.0.2.77 is not the app's", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.rules)
			g := newFakeGate(t)
			_, stop := w.served(g, nil)
			n := g.show(synPacket(c.src, c.dst))
			g.wantSettled(n, false)
			if c.reply != "" {
				reply := g.reply()
				if got := kindOf(reply); got != c.reply {
					t.Errorf("answered by %s, not %s", got, c.reply)
				}
				if reply.Proto == unix.IPPROTO_TCP && (reply.Src != c.dst || reply.Dst != c.src) {
					t.Errorf("the reset is from %s to %s", reply.Src, reply.Dst)
				}
			}
			stop()
			w.waitStory(1, c.story)
			g.silent()
		})
	}
}

// The app's namespace has a loopback of its own, whose connections to nobody come
// here.
func TestSYNOfLoopback(t *testing.T) {
	here := addrPort(conntest.Server(t, conntest.Echo))
	w := newWorld(t, "allow 127.0.0.1")
	g := newFakeGate(t)
	_, stop := w.served(g, nil)
	g.show(synPacket(addrPort("127.0.0.1:40000"), here))
	app := receive(t, "the connection", g.apps).(*net.TCPConn)
	pings(t, app)
	ends(t, app)
	w.waitStory(1, "allow; done 4/4")
	n := g.show(synPacket(addrPort("127.0.0.1:40000"), addrPort("192.0.2.1:80")))
	g.wantSettled(n, false)
	stop()
	w.waitStory(2, "deny: its source address 127.0.0.1 is not the app's")
}

// The policy changes, the app leaves, appfw ends, while a SYN waits or was let in.
func TestSYNGivenUp(t *testing.T) {
	rules := "upstream up=http://192.0.2.1:1\nallow 192.0.2.2 via=up"
	dst := addrPort("192.0.2.2:443")
	begin := func(t *testing.T) (*world, *fakeGate, *fakeUpstream, func()) {
		w := newWorld(t, rules)
		up := newFakeUpstream(t)
		w.via("up", up.URL)
		g := newFakeGate(t)
		g.onSYN = func(pair) {} // the app has left
		_, stop := w.served(g, nil)
		return w, g, up, stop
	}
	const cut = "allow; allowed, deny: the rule deny any (p:1) denies it; cut: it was not wanted any more"
	t.Run("denied while it waits", func(t *testing.T) {
		w, g, up, stop := begin(t)
		n := g.show(synPacket(app4, dst))
		receive(t, "the dial", up.Asked)
		w.reload("deny any")
		g.wantSettled(n, false)
		if got := kindOf(g.reply()); got != "reset" {
			t.Errorf("answered by %s", got)
		}
		w.waitStory(1, cut)
		stop()
		g.silent()
	})
	t.Run("denied when it is let in", func(t *testing.T) {
		w, g, up, stop := begin(t)
		n := g.show(synPacket(app4, dst))
		up.answer <- http.StatusOK
		g.wantSettled(n, true)
		w.reload("deny any")
		w.waitStory(1, cut)
		stop()
	})
	t.Run("appfw ends while it waits", func(t *testing.T) {
		w, g, up, stop := begin(t)
		n := g.show(synPacket(app4, dst))
		receive(t, "the dial", up.Asked)
		stop()
		g.wantSettled(n, false)
		w.wantStory(1, "allow; left: it was not wanted any more")
		g.silent()
	})
	t.Run("appfw ends when it is let in", func(t *testing.T) {
		w, g, up, stop := begin(t)
		n := g.show(synPacket(app4, dst))
		up.answer <- http.StatusOK
		g.wantSettled(n, true)
		stop()
		w.wantStory(1, "allow; left: it was not wanted any more")
		g.silent()
	})
}

// A connection that nothing was decided on is reset.
func TestUndecidedConnection(t *testing.T) {
	w := newWorld(t, "allow any")
	g := newFakeGate(t)
	_, stop := w.served(g, nil)
	g.connect(pair{app4, addrPort("192.0.2.1:80")})
	conntest.ReceiveEnd(t, receive(t, "the connection", g.apps), unix.ECONNRESET)
	stop()
	if len(w.recorded()) > 0 {
		t.Errorf("recorded:\n%s", tell(w.recorded()))
	}
}

// heldOwner has dials wait for whom they are of: no descriptor is needed for them.
type heldOwner struct {
	mu    sync.Mutex
	free  chan struct{}
	calls int
}

func (h *heldOwner) owner(proto uint8, src, dst netip.AddrPort) string {
	h.mu.Lock()
	h.calls++
	free := h.free
	h.mu.Unlock()
	<-free
	return "owner"
}

func (h *heldOwner) waits(t *testing.T, calls int) {
	t.Helper()
	eventually(t, "the dials", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.calls == calls
	})
}

// Of SYNs, as many wait as there is room for. For more, those are given up whose app
// has left; if there is none, they are dropped, and sent again.
func TestSYNFlood(t *testing.T) {
	h := &heldOwner{free: make(chan struct{})}
	w := newWorld(t, "isolate process\nupstream http://127.0.0.1:1\nallow 192.0.2.0/24", func(c *Config) { c.Owner = h.owner })
	w.stop()
	g := newFakeGate(t)
	in, stop := w.served(g, nil)
	dst := func(i int) netip.AddrPort { // of each host, as many as there may be
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i / maxToward)}), 443)
	}
	from := func(i int) netip.AddrPort { return netip.AddrPortFrom(netns.App4, uint16(1000+i)) }
	numbers := make([]uint16, maxOpening)
	for i := range maxOpening {
		numbers[i] = g.show(synPacket(from(i), dst(i)))
	}
	h.waits(t, maxOpening)
	in.opening(t, maxOpening)
	more := g.show(synPacket(from(maxOpening), dst(maxOpening)))
	g.wantSettled(more, false)
	other := g.show(udpPacket(app4, addrPort("198.51.100.99:99"), "x")) // of another protocol there is room
	g.wantSettled(other, false)
	w.waitStory(maxOpening+1, "deny: no rule allows it")

	// All but one are not sent again in time.
	w.pass(1500 * time.Millisecond)
	g.wantSettled(g.show(synPacket(from(3), dst(3))), false)
	w.pass(1500 * time.Millisecond)
	late := g.show(synPacket(from(maxOpening), dst(maxOpening)))
	h.waits(t, maxOpening+1)
	g.waits(late)
	in.opening(t, 2)
	close(h.free)
	for i := range maxOpening {
		g.wantSettled(numbers[i], false)
	}
	const failed = "allow; allowed, deny: the upstream failed: there is none: network is unreachable; failed: there is none: network is unreachable"
	w.waitStory(4, failed)
	w.waitStory(maxOpening+2, failed)
	stop()
	left := 0
	for _, e := range w.recorded() {
		if e.Closed && describe(e) == "left: the app has given up" {
			left++
		}
	}
	if left != maxOpening-1 {
		t.Errorf("%d were given up", left)
	}
}

// One destination that does not answer leaves room for others.
func TestSYNFloodOfOne(t *testing.T) {
	h := &heldOwner{free: make(chan struct{})}
	w := newWorld(t, "isolate process\nupstream http://127.0.0.1:1\nallow 192.0.2.0/24", func(c *Config) { c.Owner = h.owner })
	g := newFakeGate(t)
	_, stop := w.served(g, nil)
	from := func(i int) netip.AddrPort { return netip.AddrPortFrom(netns.App4, uint16(1000+i)) }
	for i := range maxToward {
		g.show(synPacket(from(i), addrPort("192.0.2.1:443")))
	}
	h.waits(t, maxToward)
	g.wantSettled(g.show(synPacket(from(maxToward), addrPort("192.0.2.1:80"))), false)
	other := g.show(synPacket(from(maxToward), addrPort("192.0.2.2:443")))
	h.waits(t, maxToward+1)
	g.waits(other)
	close(h.free)
	stop()
}

// An app that does not answer when its SYN was let in has left a second later.
func TestLetInAndLeft(t *testing.T) {
	here := addrPort(conntest.Server(t, conntest.Echo))
	w := newWorld(t, "allow 127.0.0.1")
	w.stop()
	g := newFakeGate(t)
	g.onSYN = func(pair) {}
	in, stop := w.served(g, nil)
	n := g.show(synPacket(app4, here))
	g.wantSettled(n, true)
	s := in.scope.Find(Key{Proto: policy.TCP, Src: app4, Dst: here}).(*syn)
	if s.Left() {
		t.Error("it has left at once")
	}
	w.pass(1100 * time.Millisecond)
	if !s.Left() {
		t.Error("it is still there")
	}
	w.Proxy.mu.Lock()
	gone := in.scope.giveUp(policy.TCP)
	w.Proxy.mu.Unlock()
	if !gone {
		t.Error("nothing was given up")
	}
	w.waitStory(1, "allow; left: the app has given up")
	stop()
	g.silent()
}
