package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/netns/route"
	"appfw/policy"
	"appfw/proxy/conntest"
	"appfw/proxy/decide"
	"appfw/proxy/journal"
	"appfw/proxy/relay"
)

// A walk is one way through the drawing of State: what is attempted under a policy,
// what happens meanwhile, and what is recorded in the end.
type walk struct {
	name  string
	rules string // with "HERE" for the address of an echo server, "NOWHERE" for a closed port
	to    string // likewise
	// go takes the attempt as far as it goes. ended is closed when it has.
	walk  func(t *testing.T, s *stage)
	story string
	// refused is what the attempt is told: "" nothing, else the error.
	refused string
}

// stage is where a flow of TCP is walked.
type stage struct {
	*world
	attempt *attempt
	app     *net.TCPConn // whoever attempts it
	up      *fakeUpstream
	ctx     context.Context
	cancel  context.CancelFunc
	ended   <-chan struct{}
	hold    chan struct{} // Accept waits for it to be closed, if hasHold
}

// state waits until the flow is in a state.
func (s *stage) state(want State) {
	s.t.Helper()
	eventually(s.t, want.String(), func() bool {
		all := s.all()
		return len(all) == 1 && all[0].State() == want
	})
}

// open waits until data passes.
func (s *stage) open() {
	s.t.Helper()
	pings(s.t, s.app)
	s.state(Open)
}

// TestStates walks every edge of the drawing with connections of TCP.
func TestStates(t *testing.T) {
	for _, w := range []walk{
		{name: "denied", rules: "allow 192.0.2.1", to: "192.0.2.2:80", story: "deny: no rule allows it", refused: "denied tcp 192.0.2.2:80: no rule allows it"},
		{name: "denied for its route", rules: "default allow", to: "192.0.2.255:80",
			story: "deny: broadcast addresses are not carried", refused: "denied tcp 192.0.2.255:80: broadcast addresses are not carried"},
		{name: "denied as the attempt says", rules: "default allow", to: "", story: "deny: it is none", refused: "denied tcp 0.0.0.0:1: it is none"},
		{name: "left while it is decided", rules: "allow HERE", to: "HERE", walk: func(t *testing.T, s *stage) {
			s.cancel()
		}, story: "allow; left: it was not wanted any more", refused: "context canceled"},
		{name: "failed", rules: "allow NOWHERE", to: "NOWHERE", story: "allow; failed: connection refused", refused: "connection refused"},
		{name: "failed by the upstream", rules: "allow 192.0.2.1\nupstream UP", to: "192.0.2.1:443", walk: func(t *testing.T, s *stage) {
			s.state(Dialling)
			s.up.answer <- 502
		}, story: `allow; failed: UP: it answers "502"`, refused: `UP: it answers "502"`},
		{name: "the upstream refuses", rules: "allow 192.0.2.1\nupstream UP", to: "192.0.2.1:443", walk: func(t *testing.T, s *stage) {
			s.up.answer <- 403
		}, story: `allow; allowed, deny: the upstream refuses it: UP: it answers "403"; failed: UP: it answers "403"`, refused: `UP: it answers "403"`},
		{name: "left while dialling", rules: "allow 192.0.2.1\nupstream UP", to: "192.0.2.1:443", walk: func(t *testing.T, s *stage) {
			s.state(Dialling)
			s.cancel()
		}, story: "allow; left: it was not wanted any more", refused: "context canceled"},
		{name: "cut while dialling", rules: "allow 192.0.2.1\nupstream UP", to: "192.0.2.1:443", walk: func(t *testing.T, s *stage) {
			s.state(Dialling)
			s.reload("deny 192.0.2.1")
		}, story: "allow; allowed, deny: the rule deny 192.0.2.1 (p:1) denies it; cut: it was not wanted any more",
			refused: "denied tcp 192.0.2.1:443: the rule deny 192.0.2.1 (p:1) denies it"},
		{name: "not cut while dialling", rules: "allow HERE", to: "HERE", walk: func(t *testing.T, s *stage) {
			s.state(Accepting)
			s.reload("allow any/tcp\nallow 127.0.0.0/8")
			close(s.hold)
			s.open()
			ends(t, s.app)
		}, story: "allow; done 4/4"},
		{name: "left while accepting", rules: "allow HERE", to: "HERE", walk: func(t *testing.T, s *stage) {
			s.state(Accepting)
			s.cancel()
		}, story: "allow; left: it was not wanted any more", refused: "context canceled"},
		{name: "cut while accepting", rules: "allow HERE", to: "HERE", walk: func(t *testing.T, s *stage) {
			s.state(Accepting)
			s.reload("deny 127.0.0.1")
		}, story: "allow; allowed, deny: the rule deny 127.0.0.1 (p:1) denies it; cut: it was not wanted any more",
			refused: "denied tcp HERE: the rule deny 127.0.0.1 (p:1) denies it"},
		{name: "cut while open", rules: "allow HERE", to: "HERE", walk: func(t *testing.T, s *stage) {
			close(s.hold)
			s.open()
			s.reload("deny 127.0.0.1")
			conntest.ReceiveEnd(t, s.app, unix.ECONNRESET)
		}, story: "allow; allowed, deny: the rule deny 127.0.0.1 (p:1) denies it; cut 4/4"},
		{name: "cut for what it shows", rules: "allow HERE\ndeny b.example", to: "HERE", walk: func(t *testing.T, s *stage) {
			close(s.hold)
			conntest.Send(t, s.app, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
			conntest.Receive(t, s.app, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
			conntest.Send(t, s.app, "GET / HTTP/1.1\r\nHost: b.example\r\n\r\n")
			conntest.ReceiveEnd(t, s.app, unix.ECONNRESET)
		}, story: "allow; allowed, deny: the rule deny b.example (p:2) denies it; cut 35/35"},
		{name: "cut for what cannot be read", rules: "allow HERE\ndeny b.example", to: "HERE", walk: func(t *testing.T, s *stage) {
			close(s.hold)
			conntest.Send(t, s.app, "GET / HTTP/1.1\r\nHost: a.example\r\nHost: c.example\r\n\r\n")
			conntest.ReceiveEnd(t, s.app, unix.ECONNRESET)
		}, story: "allow; allowed, deny: GARBLED; cut"},
		{name: "stopped", rules: "allow HERE", to: "HERE", walk: func(t *testing.T, s *stage) {
			close(s.hold)
			s.open()
			s.cancel()
			conntest.ReceiveEnd(t, s.app, unix.ECONNRESET)
		}, story: "allow; stopped 4/4"},
		{name: "broken", rules: "allow HERE", to: "HERE", walk: func(t *testing.T, s *stage) {
			close(s.hold)
			s.open()
			relay.Reset(s.app)
		}, story: "allow; broken 4/4"},
		{name: "done", rules: "allow HERE", to: "HERE", walk: func(t *testing.T, s *stage) {
			close(s.hold)
			s.open()
			ends(t, s.app)
		}, story: "allow; done 4/4"},
	} {
		t.Run(w.name, w.run)
	}
}

func (w walk) run(t *testing.T) {
	here, nowhere := conntest.Server(t, conntest.Echo), conntest.ClosedPort(t)
	up := newFakeUpstream(t)
	fill := func(s string) string {
		for word, is := range map[string]string{"NOWHERE": nowhere, "HERE": here, "UP": up.URL} {
			s = replaceWord(s, word, is)
		}
		return s
	}
	s := &stage{world: newWorld(t, fill(w.rules)), up: up, hold: make(chan struct{})}
	s.via("", up.URL)
	s.routes.set(func(a netip.Addr) route.Kind {
		if a == netip.MustParseAddr("192.0.2.255") {
			return route.Broadcast
		}
		return route.Unicast
	})
	s.ctx, s.cancel = context.WithCancel(t.Context())
	defer s.cancel()
	scope := s.NewScope()
	facts := Facts{Scope: scope, Facts: decide.Facts{Proto: policy.TCP, Src: addrPort("198.51.100.1:1000"), Dst: addrPort("0.0.0.0:1")}, Subject: Subject{Client: "198.51.100.1:1000"}}
	if w.to == "" {
		facts.Refused = "it is none"
	} else {
		facts.Dst = addrPort(fill(w.to))
	}
	var in *net.TCPConn
	s.app, in = conntest.Pair(t)
	s.attempt = newAttempt(t, facts, func(ctx context.Context) (Endpoint, error) {
		select {
		case <-s.hold:
			return Endpoint{Stream: in}, nil
		case <-ctx.Done():
			return Endpoint{}, ctx.Err()
		}
	})
	if w.name == "left while it is decided" {
		deciding := make(chan struct{})
		s.routes.set(func(netip.Addr) route.Kind { close(deciding); <-s.ctx.Done(); return route.Unicast })
		s.ended = s.started(s.ctx, s.attempt)
		receive(t, "the question for its route", deciding)
		s.state(Deciding)
	} else {
		s.ended = s.started(s.ctx, s.attempt)
	}
	if w.walk != nil {
		w.walk(t, s)
	}
	receive(t, "the end", s.ended)
	got := story(s.recorded(), 1)
	want := fill(w.story)
	if i := len("allow; allowed, deny: "); len(got) > i && w.story == "allow; allowed, deny: GARBLED; cut" {
		want = "allow; allowed, deny: " + got[i:len(got)-len("; cut")] + "; cut" // package sniff's to say
	}
	if got != want {
		t.Errorf("recorded:\n got %q\nwant %q", got, want)
	}
	switch {
	case w.refused != "":
		err := receive(t, "the refusal", s.attempt.refused)
		if err.Error() != fill(w.refused) {
			t.Errorf("told %q, not %q", err, fill(w.refused))
		}
	case len(s.attempt.refused) > 0:
		t.Errorf("told %v", <-s.attempt.refused)
	}
	s.checkScope(scope)
}

// replaceWord replaces what a word stands for, but not within another one.
func replaceWord(s, word, by string) string {
	out := ""
	for i := 0; i < len(s); {
		if len(s)-i >= len(word) && s[i:i+len(word)] == word && (i == 0 || s[i-1] < 'A' || s[i-1] > 'Z') {
			out, i = out+by, i+len(word)
			continue
		}
		out, i = out+s[i:i+1], i+1
	}
	return out
}

// What was cut while it was let in is not open for a moment, even if whoever attempts
// it was told that it is: nothing that it says passes.
func TestCutWhileLetIn(t *testing.T) {
	const denies = "allow; allowed, deny: the rule deny 127.0.0.1 (p:1) denies it; cut"
	t.Run("tcp", func(t *testing.T) {
		heard := make(chan error, 1)
		here := conntest.Server(t, func(c net.Conn) {
			n, err := c.Read(make([]byte, 10))
			if n > 0 {
				err = errors.New("it heard something")
			}
			heard <- err
		})
		w := newWorld(t, "allow "+here)
		app, in := conntest.Pair(t)
		conntest.Send(t, app, "secret")
		a := newAttempt(t, Facts{Scope: w.NewScope(), Facts: decide.Facts{Proto: policy.TCP, Dst: addrPort(here)}}, func(context.Context) (Endpoint, error) {
			w.reload("deny 127.0.0.1")
			return Endpoint{Stream: in}, nil
		})
		w.Admit(t.Context(), a)
		w.wantStory(1, denies)
		if err := receive(t, "the server's end", heard); !errors.Is(err, unix.ECONNRESET) {
			t.Error(err)
		}
		conntest.ReceiveEnd(t, app, unix.ECONNRESET)
		if len(a.refused) > 0 {
			t.Error("it is told twice")
		}
	})
	t.Run("udp", func(t *testing.T) {
		heard, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer heard.Close()
		w := newWorld(t, "allow 127.0.0.1")
		sink := newSink()
		a := newAttempt(t, Facts{Scope: w.NewScope(), Facts: decide.Facts{Proto: policy.UDP, Dst: addrPort(heard.LocalAddr().String())}}, func(context.Context) (Endpoint, error) {
			sink.say("secret")
			w.reload("deny 127.0.0.1")
			return Endpoint{Datagrams: sink}, nil
		})
		w.Admit(t.Context(), a)
		w.wantStory(1, denies+": it was not wanted any more")
		if _, ok := receive(t, "the refusal", a.refused).(*Denied); !ok || sink.closed.Load() != 1 {
			t.Errorf("it is closed %d times", sink.closed.Load())
		}
		if _, err := heard.WriteTo([]byte("end"), heard.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		if n, err := heard.Read(b); err != nil || string(b[:n]) != "end" {
			t.Errorf("it heard %q, %v", b[:n], err)
		}
	})
}

// Who relays for himself says how it ended: when he is through, what ends his context
// then does not matter.
func TestTake(t *testing.T) {
	here := conntest.Server(t, conntest.Echo)
	for _, c := range []struct {
		name  string
		take  func(ctx context.Context, w *world, cancel func()) error
		story string
	}{
		{"through", func(_ context.Context, _ *world, cancel func()) error { cancel(); return nil }, "allow; done 4/4"},
		{"stopped", func(ctx context.Context, _ *world, cancel func()) error {
			cancel()
			<-ctx.Done()
			return context.Cause(ctx)
		}, "allow; stopped 4/4"},
		{"broken", func(context.Context, *world, func()) error { return unix.EPIPE }, "allow; broken 4/4"},
		{"cut", func(ctx context.Context, w *world, _ func()) error {
			w.reload("deny 127.0.0.1")
			<-ctx.Done()
			return context.Cause(ctx)
		}, "allow; allowed, deny: the rule deny 127.0.0.1 (p:1) denies it; cut 4/4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, "allow 127.0.0.1")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w.Admit(ctx, newAttempt(t, Facts{Scope: w.Asked(), Facts: decide.Facts{Proto: policy.TCP, Dst: addrPort(here)}}, func(context.Context) (Endpoint, error) {
				return Endpoint{Take: func(ctx context.Context, out relay.Stream, sent, received *atomic.Int64) error {
					defer out.Close()
					pings(t, out)
					sent.Add(4)
					received.Add(4)
					if all := w.all(); len(all) != 1 || all[0].State() != Open {
						t.Error("it is not open")
					}
					return c.take(ctx, w, cancel)
				}}, nil
			}))
			w.wantStory(1, c.story)
		})
	}
}

// fakeSink is the app's side of datagrams that a test sends.
type fakeSink struct {
	relay.Pushed
	got    chan string
	told   chan netns.Unreachable
	closed atomic.Int32
}

func newSink() *fakeSink {
	return &fakeSink{got: make(chan string, 100), told: make(chan netns.Unreachable, 100)}
}

func (s *fakeSink) Deliver(datagrams [][]byte) (bytes int, err error) {
	return relay.EachWrite(datagrams, func(b []byte) error { s.got <- string(b); return nil })
}
func (s *fakeSink) Unreachable(why netns.Unreachable) { s.told <- why }
func (s *fakeSink) Close() error                      { s.closed.Add(1); return nil }

// say sends a datagram.
func (s *fakeSink) say(data string) {
	s.Push([]byte(data))
	s.Flush()
}

// datagrams starts a flow of datagrams from a port to an address.
func (w *world) datagrams(t *testing.T, ctx context.Context, scope *Scope, from uint16, to string) (*fakeSink, *attempt) {
	sink := newSink()
	src, dst := netip.AddrPortFrom(netip.MustParseAddr("198.51.100.1"), from), addrPort(to)
	a := newAttempt(t, Facts{Scope: scope, Key: Key{Proto: policy.UDP, Src: src, Dst: dst}, Facts: decide.Facts{Proto: policy.UDP, Src: src, Dst: dst}},
		func(context.Context) (Endpoint, error) { return Endpoint{Datagrams: sink}, nil })
	w.Start(ctx, a)
	return sink, a
}

// echoUDP is a port that sends datagrams back.
func echoUDP(t testing.TB) string {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			_, _ = c.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return c.LocalAddr().String()
}

// What ends flows of datagrams.
func TestStatesOfDatagrams(t *testing.T) {
	here := echoUDP(t)
	t.Run("stopped", func(t *testing.T) {
		w := newWorld(t, "allow "+here)
		scope := w.NewScope()
		ctx, cancel := context.WithCancel(t.Context())
		sink, _ := w.datagrams(t, ctx, scope, 1, here)
		sink.say("ping")
		if got := receive(t, "the answer", sink.got); got != "ping" {
			t.Error(got)
		}
		cancel()
		w.waitStory(1, "allow; stopped 4/4")
		w.checkScope(scope)
		if n := sink.closed.Load(); n != 1 {
			t.Errorf("closed %d times", n)
		}
	})
	t.Run("idle", func(t *testing.T) {
		deaf, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer deaf.Close()
		w := newWorld(t, "allow 127.0.0.1")
		w.pass(-31 * time.Second) // of the real clock, the flow's time is over at once
		scope := w.NewScope()
		sink, _ := w.datagrams(t, t.Context(), scope, 1, deaf.LocalAddr().String())
		sink.say("ping")
		if n, err := deaf.Read(make([]byte, 10)); n != 4 || err != nil {
			t.Error(n, err)
		}
		if got := story(w.recorded(), 1); got != "allow" {
			t.Errorf("before its time: %s", got)
		}
		w.pass(31 * time.Second)
		w.waitStory(1, "allow; idle 4/0")
		w.checkScope(scope)
	})
	t.Run("crowded out", func(t *testing.T) {
		w := newWorld(t, "allow "+here)
		scope := w.NewScope()
		scope.Most = 2
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for i, id := range []uint16{1, 2} {
			sink, _ := w.datagrams(t, ctx, scope, id, here)
			sink.say("ping")
			receive(t, "the answer", sink.got)
			if i == 0 {
				w.pass(time.Second)
			}
		}
		sink, _ := w.datagrams(t, ctx, scope, 3, here)
		w.waitStory(1, "allow; crowded 4/4")
		sink.say("pong")
		receive(t, "the answer", sink.got)
		cancel()
		w.waitStory(2, "allow; stopped 4/4")
		w.waitStory(3, "allow; stopped 4/4")
		w.checkScope(scope)
	})
	t.Run("cut", func(t *testing.T) {
		w := newWorld(t, "allow "+here)
		scope := w.NewScope()
		sink, _ := w.datagrams(t, t.Context(), scope, 1, here)
		sink.say("ping")
		receive(t, "the answer", sink.got)
		w.reload("deny " + here)
		if why := receive(t, "what it is told", sink.told); why != netns.Prohibited {
			t.Error(why)
		}
		w.waitStory(1, "allow; allowed, deny: the rule deny "+here+" (p:1) denies it; cut 4/4")
		w.checkScope(scope)
		if len(sink.told) > 0 {
			t.Errorf("told again: %v", <-sink.told)
		}
	})
	t.Run("broken", func(t *testing.T) {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		to := c.LocalAddr().String()
		c.Close()
		w := newWorld(t, "allow "+to)
		scope := w.NewScope()
		sink, _ := w.datagrams(t, t.Context(), scope, 1, to)
		sink.say("ping") // nobody is there, says the kernel
		if why := receive(t, "what it is told", sink.told); why != netns.NoPort {
			t.Error(why)
		}
		w.wait("the end", func(events []journal.Event) bool { return len(events) == 2 && events[1].End == journal.Broken })
		w.checkScope(scope)
	})
	t.Run("by an upstream that carries none", func(t *testing.T) {
		w := newWorld(t, "allow 192.0.2.1\nupstream http://127.0.0.1:1")
		w.via("", "http://127.0.0.1:1")
		scope := w.NewScope()
		_, a := w.datagrams(t, t.Context(), scope, 1, "192.0.2.1:53")
		const why = "the upstream carries no UDP"
		w.waitStory(1, "allow; allowed, deny: "+why+"; failed: "+why)
		if denied, ok := receive(t, "the refusal", a.refused).(*Denied); !ok || denied.Reason() != why {
			t.Error(denied)
		}
		w.checkScope(scope)
	})
}
