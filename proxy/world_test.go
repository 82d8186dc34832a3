package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"appfw/dnsguard"
	"appfw/netns/route"
	"appfw/policy"
	"appfw/proxy/conntest"
	"appfw/proxy/journal"
	"appfw/proxy/relay"
	"appfw/proxy/upstream"
)

// patience bounds how long a test waits for what has to happen.
const patience = 20 * time.Second

// world is a Proxy with fakes around it. At the end of its test no flow may be left,
// and what was recorded of each has to make sense.
type world struct {
	*Proxy
	t      testing.TB
	rules  atomic.Pointer[policy.Policy]
	ahead  atomic.Int64              // of its clock before the real one, in nanoseconds
	stands atomic.Pointer[time.Time] // the clock, but for ahead; nil: it goes
	routes fakeRoutes
	names  *fakeResolver

	mu      sync.Mutex
	events  []journal.Event
	changed chan struct{} // closed by the next event
	chains  map[string]*upstream.Chain
}

// fakeRoutes says what routes call an address; without it, all is unicast but loopback.
type fakeRoutes struct {
	mu   sync.Mutex
	kind func(netip.Addr) route.Kind
}

func (r *fakeRoutes) Kind(a netip.Addr) route.Kind {
	r.mu.Lock()
	kind := r.kind
	r.mu.Unlock()
	switch {
	case kind != nil:
		return kind(a)
	case a.IsLoopback():
		return route.Local
	}
	return route.Unicast
}

// Known takes asking: flows are decided on by goroutines of their own.
func (r *fakeRoutes) Known(netip.Addr) route.Kind { return route.Unknown }

func (r *fakeRoutes) set(kind func(netip.Addr) route.Kind) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kind = kind
}

// fakeResolver answers with the addresses of names.
type fakeResolver struct {
	mu    sync.Mutex
	addrs map[string][]netip.Addr
	hold  chan struct{}         // answers wait until it is closed; nil: they do not
	pause func(context.Context) // before an answer; nil: none. Set before there are questions
	asked chan string           // for what came a question; nobody need listen
}

func (r *fakeResolver) set(name string, addrs ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range addrs {
		r.addrs[name] = append(r.addrs[name], netip.MustParseAddr(a))
	}
}

// Exchange implements [dnsguard.Exchanger].
func (r *fakeResolver) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	question := q.Question[0]
	name := strings.TrimSuffix(question.Name, ".")
	select {
	case r.asked <- name:
	default:
	}
	r.mu.Lock()
	hold, addrs := r.hold, r.addrs[name]
	r.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if r.pause != nil {
		r.pause(ctx)
	}
	m := new(dns.Msg).SetReply(q)
	if addrs == nil {
		m.Rcode = dns.RcodeNameError
	}
	for _, a := range addrs {
		h := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET, Ttl: 60}
		switch {
		case a.Is4() && question.Qtype == dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: h, A: a.AsSlice()})
		case a.Is6() && question.Qtype == dns.TypeAAAA:
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: h, AAAA: a.AsSlice()})
		}
	}
	return m, nil
}

// compile makes a policy of lines.
func compile(t testing.TB, lines string) *policy.Policy {
	t.Helper()
	parsed, err := policy.ReadLines("p", strings.NewReader(lines))
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Compile(policy.Config{Lines: parsed})
	if err != nil {
		t.Fatalf("%s\n%v", lines, err)
	}
	return p
}

// newWorld makes a world with a policy.
func newWorld(t testing.TB, lines string, configure ...func(*Config)) *world {
	t.Helper()
	w := &world{
		t: t, changed: make(chan struct{}), chains: make(map[string]*upstream.Chain),
		names: &fakeResolver{addrs: make(map[string][]netip.Addr), asked: make(chan string, 16)},
	}
	w.rules.Store(compile(t, lines))
	c := Config{Policy: w.rules.Load, Pins: new(dnsguard.Pins), Routes: &w.routes, Log: w.log, Now: w.now, Chain: w.chainOf}
	c.Guard = dnsguard.New(dnsguard.Config{Policy: c.Policy, Upstream: w.names, Pins: c.Pins, Now: w.now, Synthetic: new(dnsguard.Synthetic)})
	for _, set := range configure {
		set(&c)
	}
	w.Proxy = New(c)
	t.Cleanup(w.check)
	return w
}

func (w *world) now() time.Time {
	now := time.Now()
	if at := w.stands.Load(); at != nil {
		now = *at
	}
	return now.Add(time.Duration(w.ahead.Load()))
}

// stop stops the clock: it goes on by pass alone.
func (w *world) stop() { w.stands.Store(new(time.Now())) }

// pass has the world's clock go on.
func (w *world) pass(d time.Duration) { w.ahead.Add(int64(d)) }

func (w *world) chainOf(name string) *upstream.Chain {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.chains[name]
}

// via has flows that go by a chain go by the proxy with a URL.
func (w *world) via(name, url string) {
	c := upstream.New()
	if err := c.Append(url); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.chains[name] = c
}

// reload has another policy hold from now on.
func (w *world) reload(lines string) {
	w.t.Helper()
	w.rules.Store(compile(w.t, lines))
	w.Recheck()
}

func (w *world) log(e journal.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
	close(w.changed)
	w.changed = make(chan struct{})
}

// all the records so far.
func (w *world) recorded() []journal.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

// wait waits until the records are as they should be.
func (w *world) wait(what string, happened func([]journal.Event) bool) {
	w.t.Helper()
	late := time.After(patience)
	for {
		w.mu.Lock()
		events, changed := slices.Clone(w.events), w.changed
		w.mu.Unlock()
		if happened(events) {
			return
		}
		select {
		case <-changed:
		case <-late:
			w.t.Fatalf("%s: waited in vain; recorded:\n%s", what, tell(events))
		}
	}
}

// waitStory waits until what was recorded of a flow is the story.
func (w *world) waitStory(flow uint64, want string) {
	w.t.Helper()
	w.wait(want, func(events []journal.Event) bool { return story(events, flow) == want })
}

// counted waits until as many bytes are counted of the only flow.
func (w *world) counted(sent, received int64) {
	w.t.Helper()
	eventually(w.t, "what is counted", func() bool {
		all := w.all()
		return len(all) == 1 && all[0].sent.Load() == sent && all[0].received.Load() == received
	})
}

// wantStory fails the test if another story was recorded of a flow.
func (w *world) wantStory(flow uint64, want string) {
	w.t.Helper()
	if got := story(w.recorded(), flow); got != want {
		w.t.Errorf("flow %d:\n got %q\nwant %q", flow, got, want)
	}
}

var endWords = [...]string{"done", "refused", "failed", "left", "cut", "broken", "idle", "crowded", "stopped"}

// describe is a record in words.
func describe(e journal.Event) string {
	switch {
	case e.Closed && e.Failed != "":
		return fmt.Sprintf("%s: %s", endWords[e.End], e.Failed)
	case e.Closed && e.Sent+e.Received > 0:
		return fmt.Sprintf("%s %d/%d", endWords[e.End], e.Sent, e.Received)
	case e.Closed:
		return endWords[e.End]
	case e.Verdict.Allowed():
		return "allow"
	case e.Allowed:
		return "allowed, deny: " + e.Verdict.Reason()
	}
	return "deny: " + e.Verdict.Reason()
}

// story is what was recorded of a flow, in words: "allow; done 4/4".
func story(events []journal.Event, flow uint64) string {
	var told []string
	for _, e := range events {
		if e.Flow == flow {
			told = append(told, describe(e))
		}
	}
	return strings.Join(told, "; ")
}

func tell(events []journal.Event) string {
	var b strings.Builder
	for _, e := range events {
		fmt.Fprintf(&b, "%d %s: %s\n", e.Flow, e.What(), describe(e))
	}
	return b.String()
}

// check sees that nothing is left, and that each flow that was begun has a record of
// its beginning and one of its end, the last; and one that was not, no more than its
// denial.
func (w *world) check() {
	for deadline := time.Now().Add(patience); len(w.all()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			for _, f := range w.all() {
				w.t.Errorf("flow %d is still %s", f.ID, f.State())
			}
			break
		}
	}
	ended := map[uint64]bool{}
	began := map[uint64]journal.Event{}
	for _, e := range w.recorded() {
		first, known := began[e.Flow]
		switch {
		case e.Flow == 0:
		case ended[e.Flow]:
			w.t.Errorf("flow %d: a record after the last: %s", e.Flow, describe(e))
		case !known:
			began[e.Flow] = e
			ended[e.Flow] = !e.Verdict.Allowed() // before anything left
			if e.Closed || e.Allowed {
				w.t.Errorf("flow %d: its first record: %s", e.Flow, describe(e))
			}
		case e.Closed:
			ended[e.Flow] = true
		case e.Verdict.Allowed() || !e.Allowed:
			w.t.Errorf("flow %d: decided again: %s", e.Flow, describe(e))
		}
		if known && (e.Proto != first.Proto || e.Ingress != first.Ingress || e.Client != first.Client || e.User != first.User) {
			w.t.Errorf("flow %d: another one's record: %+v, before %+v", e.Flow, e, first)
		}
	}
	for id := range began {
		if !ended[id] {
			w.t.Errorf("flow %d has no end: %s", id, story(w.recorded(), id))
		}
	}
}

// checkScope sees that nothing counts in a scope any more.
func (w *world) checkScope(s *Scope) {
	w.t.Helper()
	s.Wait()
	w.Proxy.mu.Lock()
	defer w.Proxy.mu.Unlock()
	if len(s.keyed) > 0 || s.opening != [4]int{} || s.open != 0 {
		w.t.Errorf("%d keys are left, %v are counted as opening, %d as open", len(s.keyed), s.opening, s.open)
	}
}

// receive waits for what comes by a channel.
func receive[T any](t testing.TB, what string, c <-chan T) (x T) {
	t.Helper()
	select {
	case x = <-c:
	case <-time.After(patience):
		t.Fatal(what + ": waited in vain")
	}
	return x
}

// eventually waits until something is so.
func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !so(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatal(what + ": waited in vain")
		}
	}
}

// within fails the test if f takes long.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	receive(t, what, done)
}

// started has the proxy take in an attempt, and returns what is closed when that has
// ended.
func (w *world) started(ctx context.Context, a Attempt) <-chan struct{} {
	done := make(chan struct{})
	go func() { defer close(done); w.Admit(ctx, a) }()
	return done
}

// fakeUpstream is an HTTP proxy that answers when it is told to.
type fakeUpstream struct {
	URL    string
	Asked  chan string // the authority of each CONNECT; nobody need listen
	answer chan int    // the status to answer the next with
}

func newFakeUpstream(t testing.TB) *fakeUpstream {
	u := &fakeUpstream{Asked: make(chan string, 16), answer: make(chan int)}
	ended := make(chan struct{})
	at := conntest.Server(t, func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		select {
		case u.Asked <- r.RequestURI:
		default: // nobody listens
		}
		select {
		case status := <-u.answer:
			fmt.Fprintf(c, "HTTP/1.1 %d x\r\n\r\n", status)
			if status == http.StatusOK {
				conntest.Echo(c)
			}
		case <-ended:
		}
	})
	t.Cleanup(func() { close(ended) })
	u.URL = "http://" + at
	return u
}

// stream has Accept return one end of a connection, whose other end it returns.
func stream(t testing.TB) (app *net.TCPConn, accept func(context.Context) (Endpoint, error)) {
	app, in := conntest.Pair(t)
	return app, func(context.Context) (Endpoint, error) { return Endpoint{Stream: in}, nil }
}

// addrPort is an address as [net] writes it.
func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// pings sends something there and back.
func pings(t testing.TB, c net.Conn) {
	t.Helper()
	conntest.Send(t, c, "ping")
	conntest.Receive(t, c, "ping")
}

// ends says the end, and hears it.
func ends(t testing.TB, c relay.Stream) {
	t.Helper()
	if err := c.CloseWrite(); err != nil {
		t.Error(err)
	}
	conntest.ReceiveEnd(t, c, io.EOF)
}
