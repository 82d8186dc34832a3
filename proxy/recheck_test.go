package proxy

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"appfw/netns/route"
	"appfw/policy"
	"appfw/proxy/conntest"
	"appfw/proxy/decide"
)

// Who may not use the proxy any more is denied, in whatever state a flow of his is.
func TestBarredUser(t *testing.T) {
	here := conntest.Server(t, conntest.Echo)
	const why = "its user may not use the proxy any more, or under another policy"
	begin := func(t *testing.T) (w *world, a *attempt, app *net.TCPConn, bar func()) {
		w = newWorld(t, "allow 127.0.0.1\nallow a.example")
		w.names.set("a.example", "127.0.0.1")
		var barred atomic.Bool
		app, accept := stream(t)
		a = newAttempt(t, Facts{
			Scope: w.NewScope(), Facts: decide.Facts{Proto: policy.TCP, Asked: "a.example", Dst: netip.AddrPortFrom(netip.Addr{}, addrPort(here).Port())},
			Subject: Subject{User: "alice", Still: func() bool { return !barred.Load() }},
		}, accept)
		return w, a, app, func() { barred.Store(true); w.Recheck() }
	}
	t.Run("deciding", func(t *testing.T) {
		w, a, _, bar := begin(t)
		w.names.hold = make(chan struct{})
		ended := w.started(t.Context(), a)
		receive(t, "the question", w.names.asked)
		bar()
		close(w.names.hold)
		receive(t, "the end", ended)
		w.wantStory(1, "deny: "+why)
		want := "denied tcp a.example:" + here[strings.LastIndex(here, ":")+1:] + " for alice: " + why
		if err := receive(t, "the refusal", a.refused); err.Error() != want {
			t.Errorf("told %q, not %q", err, want)
		}
	})
	t.Run("accepting", func(t *testing.T) {
		w, a, _, bar := begin(t)
		accept := a.accept
		a.accept = func(ctx context.Context) (Endpoint, error) { bar(); return accept(ctx) }
		w.Admit(t.Context(), a)
		w.wantStory(1, "allow; allowed, deny: "+why+"; cut")
	})
	t.Run("open", func(t *testing.T) {
		w, a, app, bar := begin(t)
		ended := w.started(t.Context(), a)
		pings(t, app)
		bar()
		receive(t, "the end", ended)
		w.wantStory(1, "allow; allowed, deny: "+why+"; cut 4/4")
	})
}

// Of the addresses of a name that was asked for, it counts where the flow went in the
// end: that is what is recorded, and what other rules are asked about.
func TestOtherWay(t *testing.T) {
	nowhere := conntest.ClosedPort(t)
	asked := func(w *world, proto policy.Proto, port uint16) Facts {
		w.names.set("a.example", "127.255.255.255", "127.0.0.2") // a broadcast address (EACCES), and another
		return Facts{Scope: w.NewScope(), Facts: decide.Facts{Proto: proto, Asked: "a.example", Dst: netip.AddrPortFrom(netip.Addr{}, port)}}
	}
	const up = "upstream up=http://192.0.2.1:1\nallow a.example\nallow 127.255.255.255\n"
	t.Run("cut", func(t *testing.T) {
		w := newWorld(t, up+"allow 127.0.0.2 via=up")
		fake := newFakeUpstream(t)
		w.via("up", fake.URL)
		a := newAttempt(t, asked(w, policy.TCP, addrPort(nowhere).Port()), nil)
		ended := w.started(t.Context(), a)
		receive(t, "the second address", fake.Asked)
		w.reload(up) // which has nothing against the first
		fake.answer <- http.StatusOK
		receive(t, "the end", ended)
		w.wantStory(1, "allow; allowed, deny: the name leads to a loopback address, which no rule allows; cut: it was not wanted any more")
		if _, ok := receive(t, "the refusal", a.refused).(*Denied); !ok {
			t.Error("it is told something else")
		}
	})
	t.Run("tcp", func(t *testing.T) {
		w := newWorld(t, up+"allow 127.0.0.2")
		l, err := net.Listen("tcp4", "127.0.0.2:0")
		if err != nil {
			t.Fatal(err)
		}
		conntest.Serve(t, l, conntest.Echo)
		app, accept := stream(t)
		at := addrPort(l.Addr().String())
		ended := w.started(t.Context(), newAttempt(t, asked(w, policy.TCP, at.Port()), accept))
		pings(t, app)
		ends(t, app)
		receive(t, "the end", ended)
		w.wantStory(1, "allow; done 4/4")
		if e := w.recorded()[1]; e.Dst != at || e.Name != "a.example" {
			t.Errorf("it ended at %s %s", e.Name, e.Dst)
		}
	})
	t.Run("udp", func(t *testing.T) {
		w := newWorld(t, up+"allow 127.0.0.2")
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		at := addrPort(c.LocalAddr().String())
		sink := newSink()
		ctx, cancel := context.WithCancel(t.Context())
		ended := w.started(ctx, newAttempt(t, asked(w, policy.UDP, at.Port()), func(context.Context) (Endpoint, error) {
			return Endpoint{Datagrams: sink}, nil
		}))
		sink.say("ping")
		b := make([]byte, 10)
		if n, err := c.Read(b); err != nil || string(b[:n]) != "ping" {
			t.Errorf("received %q, %v", b[:n], err)
		}
		eventually(t, "what is counted", func() bool { return w.all()[0].sent.Load() == 4 })
		cancel()
		receive(t, "the end", ended)
		w.wantStory(1, "allow; stopped 4/0")
		if e := w.recorded()[1]; e.Dst != at || e.Name != "a.example" {
			t.Errorf("it ended at %s %s", e.Name, e.Dst)
		}
	})
}

// laws are a random policy: what is done with each host, by its address and its name.
type laws struct {
	addrs, names [4]string // "": denied; else how it is allowed
	denies       bool      // the name bad.example
}

const (
	closedTo = ""
	directly = "via=direct"
	byUp     = "via=up"
	mixed    = "mixed" // of names: directly, and by up at a port that nobody asks for
)

func randomLaws(r *rand.Rand) (l laws) {
	ways := []string{closedTo, directly, directly, byUp}
	for i := range l.addrs {
		l.addrs[i], l.names[i] = ways[r.IntN(len(ways))], ways[r.IntN(len(ways))]
		if r.IntN(4) == 0 {
			l.names[i] = mixed
		}
	}
	l.denies = r.IntN(3) == 0
	return l
}

func (l laws) String() string {
	b := new(strings.Builder)
	b.WriteString("upstream up=http://192.0.2.1:1\nisolate destination\ndeny other.example\n") // so that all show their names
	for i := range l.addrs {
		if l.addrs[i] != closedTo {
			fmt.Fprintf(b, "allow 127.0.0.%d %s\n", i+1, l.addrs[i])
		}
		switch l.names[i] {
		case closedTo:
		case mixed:
			fmt.Fprintf(b, "allow h%d.example:1 via=up\nallow h%d.example:2-65535 via=direct\n", i+1, i+1)
		default:
			fmt.Fprintf(b, "allow h%d.example %s\n", i+1, l.names[i])
		}
	}
	if l.denies {
		b.WriteString("deny bad.example\n")
	}
	return b.String()
}

// broken says which of the laws an open flow breaks; "" if none.
func (l laws) broken(w *world, f *Flow) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != Open {
		return ""
	}
	took := directly
	if f.way.chain != nil {
		took = byUp
	}
	by := ""
	if a := f.way.dst.Addr(); a.Is4() && a.IsLoopback() {
		by = l.addrs[a.As4()[3]-1]
	} else if name := w.standsFor(a); name != "" {
		if by = l.names[name[1]-'1']; by == mixed {
			by = directly
		}
		if f.real != nil { // directly is how it went, and then the address has to be open so
			if real := l.addrs[f.real.dst.Addr().As4()[3]-1]; real != directly {
				by = real
			}
		}
	}
	switch {
	case by != took:
		return fmt.Sprintf("%v %s is open %s; the law is %q", f.ID, f.way.dst, took, by)
	case l.denies && f.facts.Proto == policy.TCP && len(f.shown) > 0:
		return fmt.Sprintf("%v %s has shown %v", f.ID, f.way.dst, f.shown)
	}
	return ""
}

// turns are what happens again and again.
type turns struct {
	mu   sync.Mutex
	next chan struct{} // closed by the next one
}

func (x *turns) wait(ctx context.Context, times int) {
	for range times {
		x.mu.Lock()
		next := x.next
		x.mu.Unlock()
		select {
		case <-next:
		case <-ctx.Done():
		}
	}
}

func (x *turns) come() {
	x.mu.Lock()
	defer x.mu.Unlock()
	close(x.next)
	x.next = make(chan struct{})
}

// Whatever state flows are in while the policy changes: soon after, none is open that
// the new policy denies, nor one that goes another way.
func TestRecheckAtRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	defer func() {
		if t.Failed() {
			t.Log("seed", seed)
		}
	}()
	r := rand.New(rand.NewPCG(seed, 0))
	law := randomLaws(r)
	w := newWorld(t, law.String())
	up := newFakeUpstream(t)
	w.via("up", up.URL)
	w.routes.set(func(netip.Addr) route.Kind { runtime.Gosched(); return route.Local })
	var tcp, udp [4]uint16
	for i := range tcp {
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.%d:0", i+1))
		if err != nil {
			t.Fatal(err)
		}
		conntest.Serve(t, l, conntest.Echo)
		tcp[i] = addrPort(l.Addr().String()).Port()
		udp[i] = addrPort(echoUDP(t)).Port()
		w.names.set(fmt.Sprintf("h%d.example", i+1), fmt.Sprintf("127.0.0.%d", i+1), fmt.Sprintf("127.0.0.%d", (i+1)%4+1))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	reloads := &turns{next: make(chan struct{})}
	var questions atomic.Int32
	w.names.pause = func(ctx context.Context) { reloads.wait(ctx, int(questions.Add(1)%2)) }
	for i := range 4 { // some answer at once, some when there is another policy
		work.Go(func() {
			for ctx.Err() == nil {
				reloads.wait(ctx, i%2)
				select {
				case up.answer <- http.StatusOK:
				case <-ctx.Done():
				}
			}
		})
	}
	scope := w.NewScope()
	scope.Most = 16
	for worker := range 6 {
		r := rand.New(rand.NewPCG(seed, uint64(worker+1)))
		work.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				host := r.IntN(4)
				facts := Facts{Scope: scope, Facts: decide.Facts{Proto: policy.TCP, Dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(host + 1)}), tcp[host])}}
				if r.IntN(2) == 0 {
					facts.Asked = policy.Name(fmt.Sprintf("h%d.example", host+1))
					facts.Dst = netip.AddrPortFrom(netip.Addr{}, tcp[(host+r.IntN(2))%4]) // at its first address, or its second
				}
				if worker == 0 {
					facts.Asked, facts.Proto, facts.Dst = "", policy.UDP, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), udp[host])
					facts.Key = Key{Proto: policy.UDP, Text: fmt.Sprint(n)}
					w.Start(ctx, newAttempt(t, facts, func(context.Context) (Endpoint, error) {
						reloads.wait(ctx, n%2)
						return Endpoint{Datagrams: newSink()}, nil
					}))
					reloads.wait(ctx, n/4%2)
					continue
				}
				w.talk(ctx, facts, r, reloads)
			}
		})
	}
	for range 30 {
		// The flows go on for a while, or until all of them wait for another policy.
		for seen, begun := len(w.recorded()), time.Now(); len(w.recorded()) < seen+r.IntN(20) && time.Since(begun) < 3*time.Millisecond; {
			runtime.Gosched()
		}
		law = randomLaws(r)
		w.rules.Store(compile(t, law.String()))
		reloads.come()
		w.Recheck()
		broken := ""
		for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Microsecond) {
			broken = ""
			for _, f := range w.all() {
				if b := law.broken(w, f); b != "" {
					broken = b
				}
			}
			if broken == "" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("under\n%s%s", law, broken)
			}
		}
	}
	cancel()
	work.Wait()
	w.checkScope(scope)
}

// talk attempts a connection and says things by it until it is cut, or for a while.
func (w *world) talk(ctx context.Context, facts Facts, r *rand.Rand, reloads *turns) {
	app, accept := stream(w.t)
	defer app.Close()
	waits, stays, said := r.IntN(2), r.IntN(3), "ping"
	if r.IntN(2) == 0 {
		said = "GET / HTTP/1.1\r\nHost: bad.example\r\n\r\n"
	}
	ended := w.started(ctx, newAttempt(w.t, facts, func(ctx context.Context) (Endpoint, error) {
		reloads.wait(ctx, waits)
		return accept(ctx)
	}))
	go func() { <-ended; app.Close() }() // who is refused is told nothing here
	for range 2 {
		_, _ = io.WriteString(app, said)
		_, _ = io.ReadFull(app, make([]byte, len(said))) // or it is cut
		reloads.wait(ctx, stays)
	}
	app.Close()
	<-ended
}
