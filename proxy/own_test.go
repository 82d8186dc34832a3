package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/proxy/conntest"
	"appfw/proxy/relay"
)

// fakeAsks is an explicit proxy that echoes.
type fakeAsks struct {
	from    chan Subject
	running chan struct{} // closed by Run
	ended   chan struct{} // likewise when it ends
}

func newAsks() *fakeAsks {
	return &fakeAsks{from: make(chan Subject, 10), running: make(chan struct{}), ended: make(chan struct{})}
}

func (a *fakeAsks) Run(ctx context.Context) {
	close(a.running)
	<-ctx.Done()
	close(a.ended)
}

func (a *fakeAsks) Serve(ctx context.Context, conn relay.Stream, from Subject, listen func(netip.Addr) (*net.UDPConn, error)) {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	if c, err := listen(netns.Gateway4); err == nil {
		c.Close()
		a.from <- from
	}
	_, _ = io.Copy(conn, conn)
}

// question is a DNS question as a message.
func question(t *testing.T, name string) []byte {
	t.Helper()
	b, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// answers fails the test if a message is not an answer with an address.
func answers(t *testing.T, b []byte, want string) {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	if len(m.Answer) != 1 || m.Answer[0].Header().Rrtype != dns.TypeA || m.Answer[0].(*dns.A).A.String() != want {
		t.Errorf("answered %v", m)
	}
}

// Port 53 is the resolver's, whatever the address, and no flow.
func TestOwnResolver(t *testing.T) {
	w := newWorld(t, "allow a.example")
	w.names.set("a.example", "11.0.0.7")
	g := newFakeGate(t)
	_, stop := w.served(g, nil)
	t.Run("tcp", func(t *testing.T) {
		n := g.show(synPacket(app4, addrPort("192.0.2.99:53")))
		g.wantSettled(n, true)
		app := receive(t, "the connection", g.apps)
		q := question(t, "a.example.")
		conntest.Send(t, app, string(binary.BigEndian.AppendUint16(nil, uint16(len(q))))+string(q))
		size := make([]byte, 2)
		if _, err := io.ReadFull(app, size); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, binary.BigEndian.Uint16(size))
		if _, err := io.ReadFull(app, b); err != nil {
			t.Fatal(err)
		}
		answers(t, b, "11.0.0.7")
	})
	t.Run("udp", func(t *testing.T) {
		for _, dst := range []string{"192.0.2.99:53", "[2001:db8::99]:53"} {
			at, src := addrPort(dst), app4
			if at.Addr().Is6() {
				src = app6
			}
			n := g.show(udpPacket(src, at, string(question(t, "a.example."))))
			g.wantSettled(n, false)
			p := g.reply()
			if kindOf(p) != "datagram" || p.Src != at || p.Dst != src {
				t.Errorf("answered by %s from %s to %s", kindOf(p), p.Src, p.Dst)
			}
			answers(t, p.Payload, "11.0.0.7")
		}
		reply := question(t, "a.example.")
		reply[2] |= 0x80 // it is an answer itself, which is answered by nothing
		g.wantSettled(g.show(udpPacket(app4, addrPort("192.0.2.99:53"), string(reply))), false)
	})
	stop()
	g.silent()
	if len(w.recorded()) > 0 {
		t.Errorf("recorded:\n%s", tell(w.recorded()))
	}
}

// ExplicitPort of the gateway's addresses is the explicit proxy's, and no flow.
func TestOwnExplicit(t *testing.T) {
	w := newWorld(t, "deny any", func(c *Config) {
		c.Owner = func(proto uint8, src, dst netip.AddrPort) string { return src.String() + " " + dst.String() }
	})
	g := newFakeGate(t)
	asks := newAsks()
	_, stop := w.served(g, asks)
	receive(t, "its start", asks.running)
	for _, c := range []struct{ src, dst netip.AddrPort }{
		{app4, netip.AddrPortFrom(netns.Gateway4, ExplicitPort)}, {app6, netip.AddrPortFrom(netns.Gateway6, ExplicitPort)},
	} {
		g.wantSettled(g.show(synPacket(c.src, c.dst)), true)
		pings(t, receive(t, "the connection", g.apps))
		if from := receive(t, "who it is", asks.from); from.Owner() != c.src.String()+" "+c.dst.String() {
			t.Errorf("it is of %s", from.Owner())
		}
	}
	// Elsewhere the port is as any other.
	g.wantSettled(g.show(synPacket(app4, addrPort("192.0.2.1:1080"))), false)
	w.waitStory(1, "deny: the rule deny any (p:1) denies it")
	stop()
	receive(t, "its end", asks.ended)
	if len(w.recorded()) > 1 {
		t.Errorf("recorded:\n%s", tell(w.recorded()))
	}
}

// A SYN to appfw's own ports that is sent again, or comes anew from the same port
// before the first has been let in, is let in once: no descriptor is left, and appfw
// can end.
func TestOwnTwice(t *testing.T) {
	w := newWorld(t, "deny any")
	g := newFakeGate(t)
	let := make(chan pair, 100)
	g.onSYN = func(k pair) { let <- k }
	_, stop := w.served(g, nil)
	for range 50 {
		k := pair{app4, addrPort("192.0.2.99:53")}
		numbers := []uint16{g.show(synPacket(k.src, k.dst)), g.show(synPacket(k.src, k.dst))}
		for _, n := range numbers {
			eventually(t, "a verdict", func() bool { g.mu.Lock(); defer g.mu.Unlock(); _, ok := g.settled[n]; return ok })
		}
		if <-let; len(let) > 0 {
			t.Fatal("both were let in")
		}
		g.connect(k)
		app := receive(t, "the connection", g.apps)
		q := question(t, "a.example.")
		conntest.Send(t, app, string(binary.BigEndian.AppendUint16(nil, uint16(len(q))))+string(q))
		_, _ = app.Read(make([]byte, 1)) // it has been taken in
	}
	within(t, "the end", stop)
}

// shortOnce has the listener be short of a descriptor, once or more.
func (g *fakeGate) short(times int) {
	for range times {
		g.conns <- accepted{err: unix.EMFILE}
	}
}

// For each SYN that is let in a descriptor is kept, which is given away when there is
// none for its acceptance. Until it was taken back, no other is let in.
func TestSpareDescriptors(t *testing.T) {
	here := addrPort(conntest.Server(t, conntest.Echo))
	w := newWorld(t, "allow 127.0.0.1")
	g := newFakeGate(t)
	first := make(chan pair, 1)
	g.onSYN = func(k pair) { first <- k }
	in, stop := w.served(g, nil)
	n := g.show(synPacket(app4, here))
	g.wantSettled(n, true)
	k := receive(t, "the SYN", first)
	g.short(3)
	eventually(t, "the descriptor", func() bool { in.mu.Lock(); defer in.mu.Unlock(); return in.owed == 1 })

	const why = "appfw has no file descriptor left for it (ulimit -n raises the limit)"
	second := netip.AddrPortFrom(netns.App4, 40001)
	g.wantSettled(g.show(synPacket(second, here)), false)
	w.waitStory(2, "allow; allowed, deny: "+why+"; failed: too many open files")
	if got := kindOf(g.reply()); got != "reset" {
		t.Errorf("answered by %s", got)
	}
	g.wantSettled(g.show(synPacket(second, addrPort("192.0.2.99:53"))), false) // nor to the resolver
	w.waitStory(3, "deny: "+why)
	if got := kindOf(g.reply()); got != "reset" {
		t.Errorf("answered by %s", got)
	}

	g.connect(k)
	app := receive(t, "the connection", g.apps)
	pings(t, app)
	if in.mu.Lock(); in.owed != 0 {
		t.Errorf("%d descriptors are owed", in.owed)
	}
	in.mu.Unlock()
	g.mu.Lock()
	g.onSYN = nil
	g.mu.Unlock()
	g.wantSettled(g.show(synPacket(second, here)), true)
	pings(t, receive(t, "the connection", g.apps))
	stop()
	w.wantStory(1, "allow; stopped 4/4")
	w.wantStory(4, "allow; stopped 4/4")
	g.silent()
}

// A listener that fails for another reason is tried again until the end.
func TestListenerFails(t *testing.T) {
	here := addrPort(conntest.Server(t, conntest.Echo))
	w := newWorld(t, "allow 127.0.0.1")
	g := newFakeGate(t)
	g.conns <- accepted{err: errors.New("it fails")}
	_, stop := w.served(g, nil)
	g.show(synPacket(app4, here))
	pings(t, receive(t, "the connection", g.apps))
	for range 20 {
		g.conns <- accepted{err: errors.New("it fails")}
	}
	begun := time.Now()
	stop()
	if took := time.Since(begun); took > patience {
		t.Errorf("it took %s", took)
	}
}
