package proxy

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"appfw/netns"
	"appfw/netns/route"
	"appfw/policy"
	"appfw/proxy/conntest"
	"appfw/proxy/decide"
)

func nothingClosed() map[netns.Connection]bool { return nil }

// lingers starts to linger, and returns what is closed when that has ended.
func (w *world) lingers(ctx context.Context, closing func() map[netns.Connection]bool) <-chan struct{} {
	begun, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		w.Linger(ctx, func() {}, func() map[netns.Connection]bool { close(begun); return closing() })
	}()
	receive(w.t, "the wait", begun)
	return ended
}

// still fails the test if something has ended. It cannot be waited for that it does
// not: a test that would not see it is not wrong.
func still(t *testing.T, ended <-chan struct{}) {
	t.Helper()
	select {
	case <-ended:
		t.Error("it did not wait")
	case <-time.After(5 * time.Millisecond):
	}
}

// Without flows there is nothing to wait for, nor to find out.
func TestLingerForNothing(t *testing.T) {
	w := newWorld(t, "allow any")
	within(t, "nothing", func() {
		w.Linger(t.Context(), func() {}, func() map[netns.Connection]bool { t.Error("it is asked what is closed"); return nil })
	})
}

// What is being decided, a SYN that was just let in, and a flow of datagrams that is
// being opened are waited for; a name that is resolved, and a SYN that is dialled or
// not taken up, are not.
func TestLingerForBeginnings(t *testing.T) {
	here, hereUDP := addrPort(conntest.Server(t, conntest.Echo)), addrPort(echoUDP(t))
	t.Run("decided", func(t *testing.T) {
		w := newWorld(t, "allow 127.0.0.1")
		deciding, free := make(chan struct{}), make(chan struct{})
		w.routes.set(func(netip.Addr) route.Kind { close(deciding); <-free; return route.Local })
		g := newFakeGate(t)
		_, stop := w.served(g, nil)
		g.show(synPacket(app4, here))
		receive(t, "the question", deciding)
		ended := w.lingers(t.Context(), nothingClosed)
		still(t, ended)
		w.routes.set(nil)
		close(free)
		receive(t, "the end", ended)
		stop()
	})
	t.Run("resolved", func(t *testing.T) {
		w := newWorld(t, "allow a.example")
		w.names.hold = make(chan struct{})
		a := newAttempt(t, Facts{Facts: decide.Facts{Proto: policy.TCP, Asked: "a.example", Dst: netip.AddrPortFrom(netip.Addr{}, 80)}, Scope: w.NewScope()}, nil)
		w.Start(t.Context(), a)
		receive(t, "the question", w.names.asked)
		receive(t, "the end", w.lingers(t.Context(), nothingClosed))
		close(w.names.hold)
		receive(t, "the refusal", a.refused)
	})
	t.Run("dialled", func(t *testing.T) {
		w := newWorld(t, "allow 192.0.2.1\nupstream http://192.0.2.1:1")
		up := newFakeUpstream(t)
		w.via("", up.URL)
		g := newFakeGate(t)
		_, stop := w.served(g, nil)
		g.show(synPacket(app4, addrPort("192.0.2.1:443")))
		receive(t, "the dial", up.Asked)
		receive(t, "the end", w.lingers(t.Context(), nothingClosed))
		stop()
	})
	t.Run("let in", func(t *testing.T) {
		w := newWorld(t, "allow 127.0.0.1")
		w.stop()
		g := newFakeGate(t)
		let := make(chan pair, 1)
		g.onSYN = func(k pair) { let <- k }
		_, stop := w.served(g, nil)
		g.show(synPacket(app4, here))
		k := receive(t, "the SYN", let)
		ended := w.lingers(t.Context(), nothingClosed)
		still(t, ended)
		g.connect(k)
		receive(t, "the end", ended)
		stop()
	})
	t.Run("let in, and not taken up", func(t *testing.T) {
		w := newWorld(t, "allow 127.0.0.1")
		w.stop()
		g := newFakeGate(t)
		let := make(chan pair, 1)
		g.onSYN = func(k pair) { let <- k }
		_, stop := w.served(g, nil)
		g.show(synPacket(app4, here))
		receive(t, "the SYN", let)
		w.pass(acceptTime)
		receive(t, "the end", w.lingers(t.Context(), nothingClosed))
		stop()
	})
	t.Run("datagrams", func(t *testing.T) {
		w := newWorld(t, "allow 127.0.0.1")
		g := newFakeGate(t)
		opening, free := make(chan struct{}), make(chan struct{})
		g.dialUDP = func() error { close(opening); <-free; return nil }
		_, stop := w.served(g, nil)
		n := g.show(udpPacket(app4, hereUDP, "ping"))
		receive(t, "the socket", opening)
		ended := w.lingers(t.Context(), nothingClosed)
		still(t, ended)
		close(free)
		g.wantSettled(n, true)
		receive(t, "the end", ended)
		stop()
	})
	t.Run("until the context ends", func(t *testing.T) {
		w := newWorld(t, "allow 127.0.0.1")
		g := newFakeGate(t)
		opening, free := make(chan struct{}), make(chan struct{})
		g.dialUDP = func() error { close(opening); <-free; return nil }
		_, stop := w.served(g, nil)
		g.show(udpPacket(app4, hereUDP, "ping"))
		receive(t, "the socket", opening)
		ctx, cancel := context.WithCancel(t.Context())
		ended := w.lingers(ctx, nothingClosed)
		cancel()
		receive(t, "the end", ended)
		close(free)
		stop()
	})
}

// What an app sent before it ended a connection, or closed it, is waited for until it
// was passed on; a connection that is open is not.
func TestLingerForData(t *testing.T) {
	for _, c := range []struct {
		name  string
		ends  func(t *testing.T, app *net.TCPConn)
		waits bool
	}{
		{"ended", func(t *testing.T, app *net.TCPConn) {
			if err := app.CloseWrite(); err != nil {
				t.Error(err)
			}
		}, true},
		{"closed", nil, true},
		{"open", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			read := make(chan struct{})
			total := make(chan int64, 1)
			here := addrPort(conntest.Server(t, func(conn net.Conn) {
				<-read
				n, _ := io.Copy(io.Discard, conn)
				total <- n
			}))
			w := newWorld(t, "allow 127.0.0.1")
			g := newFakeGate(t)
			_, stop := w.served(g, nil)
			g.show(synPacket(app4, here))
			app := receive(t, "the connection", g.apps).(*net.TCPConn)
			said := w.fill(t, app)
			closed := func() map[netns.Connection]bool { return nil }
			switch {
			case c.ends != nil:
				c.ends(t, app)
				eventually(t, "the end of what it says", func() bool { return w.all()[0].ending(nil) != nil })
			case c.waits:
				closed = func() map[netns.Connection]bool {
					return map[netns.Connection]bool{{Local: app4, Remote: here}: true}
				}
			}
			ended := w.lingers(t.Context(), closed)
			if !c.waits {
				receive(t, "the end", ended)
				close(read)
				stop()
				return
			}
			still(t, ended)
			close(read)
			if c.ends == nil {
				app.Close()
			}
			receive(t, "the end", ended)
			if n := receive(t, "what arrived", total); n != said {
				t.Errorf("%d bytes of %d arrived", n, said)
			}
			stop()
		})
	}
}

// fill says as much as there is room for on the way to the destination, and a bit more;
// it returns how many bytes.
func (w *world) fill(t *testing.T, app net.Conn) (said int64) {
	t.Helper()
	f := w.all()[0]
	piece := string(make([]byte, 1<<15))
	for passed := true; passed; {
		conntest.Send(t, app, piece)
		said += int64(len(piece))
		for range 100 {
			if passed = f.sent.Load() == said; passed {
				break
			}
			time.Sleep(100 * time.Microsecond)
		}
	}
	return said
}
