package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"appfw/dnsguard"
	"appfw/policy"
)

// patience is after what a test fails rather than hangs.
const patience = 20 * time.Second

// eventually waits for what cannot be waited for otherwise.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// within fails the test if f takes too long.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(patience):
		b := make([]byte, 1<<20)
		t.Fatalf("%s takes too long:\n%s", what, b[:runtime.Stack(b, true)])
	}
}

// fakeDNS is a resolver. With hold, it answers when that is closed.
type fakeDNS struct {
	addrs map[string]string // by name, with its dot; an alias may stand before
	hold  chan struct{}

	mu    sync.Mutex
	asked []string
}

func (f *fakeDNS) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	name := q.Question[0].Name
	f.mu.Lock()
	f.asked = append(f.asked, name)
	f.mu.Unlock()
	if f.hold != nil {
		select {
		case <-f.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	m := new(dns.Msg).SetReply(q)
	addr, ok := f.addrs[name]
	switch {
	case name == "broken.example.":
		return nil, errors.New("broken")
	case !ok:
		m.Rcode = dns.RcodeNameError
	case q.Question[0].Qtype == dns.TypeA:
		owner := name
		if alias, behind, ok := strings.Cut(addr, " "); ok {
			m.Answer = append(m.Answer, &dns.CNAME{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: 60}, Target: dns.Fqdn(alias)})
			owner, addr = dns.Fqdn(alias), behind
		}
		m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(addr)})
	}
	return m, nil
}

// tenant is a Proxy under a policy, and what it reported.
type tenant struct {
	*Proxy
	rules atomic.Pointer[policy.Policy]
	dns   *fakeDNS

	mu     sync.Mutex
	events []Event
}

func newTenant(t testing.TB, rules string) *tenant {
	t.Helper()
	x := &tenant{dns: &fakeDNS{addrs: map[string]string{
		"a.example.": "127.0.0.1", "b.example.": "127.0.0.1", "far.example.": "127.0.0.2",
	}}}
	x.become(t, rules)
	pins := new(dnsguard.Pins)
	guard := dnsguard.New(dnsguard.Config{
		Policy: x.rules.Load, Upstream: x.dns, Pins: pins, Now: time.Now, Synthetic: new(dnsguard.Synthetic),
		Log: func(q dnsguard.Question) { x.log(Event{Verdict: q.Verdict, Proto: "dns", Name: q.Name}) },
	})
	x.Proxy = New(Config{Policy: x.rules.Load, Pins: pins, Guard: guard, Now: time.Now, Shared: true, Log: x.log})
	return x
}

func (x *tenant) log(e Event) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.events = append(x.events, e)
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
func (x *tenant) reported(is func(Event) bool) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.ContainsFunc(x.events, is)
}

// service is an Explicit that serves, until the test ends.
type service struct {
	*Explicit
	addr string
}

func newService(t testing.TB, p *Proxy, admit func(user, password string) *Proxy) *service {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &service{NewExplicit(p, admit), l.Addr().String()}
	var work sync.WaitGroup
	work.Go(func() { s.Run(ctx) })
	work.Go(func() { s.Serve(ctx, l) })
	t.Cleanup(func() {
		l.Close()
		cancel()
		within(t, "the end", work.Wait)
	})
	return s
}

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

// socksTo is a request of SOCKS5.
func socksTo(command byte, host, port string) string {
	b := appendAddress([]byte{socksVersion, command, 0}, host, 0)
	return string(b[:len(b)-2]) + port
}

const hello5, open5 = "\x05\x01\x00", "\x05\x00"

// refuse5 is a reply of SOCKS5 with a code, and without an address.
func refuse5(code byte) string {
	return "\x05" + string([]byte{code}) + "\x00\x01\x00\x00\x00\x00\x00\x00"
}

const (
	grant4, refuse4 = "\x00\x5a\x00\x00\x00\x00\x00\x00", "\x00\x5b\x00\x00\x00\x00\x00\x00"
	granted5        = "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
)

// conversations are those with a service where PORT of 127.0.0.1, as a.example, is
// an allowed echo; and whether that is reached.
func conversations(t *testing.T, at string) (rules string, all map[string][]turn) {
	text, raw := port(t, at)
	_, shut := port(t, closedPort(t))
	rules = fmt.Sprintf("allow 127.0.0.1\nallow a.example\nallow far.example\nallow broken.example\nallow none.example\ndeny 127.0.0.1:%s/udp\ndeny 127.0.0.2", text)
	ping := turn{"ping", "ping"}
	after := func(request, reply string) []turn { return []turn{{hello5, open5}, {request, reply}} }
	long := strings.Repeat("a", 255)
	return rules, map[string][]turn{
		"SOCKS5 to an address":   append(after(socksTo(1, "127.0.0.1", raw), granted5), ping),
		"to a mapped address":    append(after(socksTo(1, "::ffff:127.0.0.1", raw), granted5), ping),
		"to a name":              append(after(socksTo(1, "a.example", raw), granted5), ping),
		"in capitals":            append(after(socksTo(1, "A.Example.", raw), granted5), ping),
		"an address as a name":   append(after("\x05\x01\x00\x03\x09127.0.0.1"+raw, granted5), ping),
		"with any password":      {{"\x05\x02\x00\x02", "\x05\x02"}, {"\x01\x01u\x01p", "\x01\x00"}, {socksTo(1, "a.example", raw), granted5}, ping},
		"with an empty password": {{"\x05\x01\x02", "\x05\x02"}, {"\x01\x00\x00", "\x01\x00"}, {socksTo(1, "a.example", raw), granted5}, ping},
		"denied address":         after(socksTo(1, "127.0.0.2", raw), refuse5(2)),
		"denied name":            after(socksTo(1, "denied.example", raw), refuse5(2)),
		"denied address of one":  after(socksTo(1, "far.example", raw), refuse5(2)),
		"port 0":                 after(socksTo(1, "127.0.0.1", "\x00\x00"), refuse5(2)),
		"this host":              after(socksTo(1, "0.0.0.0", raw), refuse5(2)),
		"NAT64 of a denied one":  after(socksTo(1, "64:ff9b::7f00:2", raw), refuse5(2)),
		"a zone":                 after("\x05\x01\x00\x03\x09fe80::1%1"+raw, refuse5(2)),
		"an address in brackets": after("\x05\x01\x00\x03\x0b[127.0.0.1]"+raw, refuse5(2)),
		"a number":               after("\x05\x01\x00\x03\x0a2130706433"+raw, refuse5(2)),
		"a short address":        after("\x05\x01\x00\x03\x05127.1"+raw, refuse5(2)),
		"no name":                after("\x05\x01\x00\x03\x00"+raw, refuse5(2)),
		"a NUL in a name":        after("\x05\x01\x00\x03\x0aa.example\x00"+raw, refuse5(2)),
		"the longest name":       after("\x05\x01\x00\x03\xff"+long+raw, refuse5(2)),
		"nobody there":           after(socksTo(1, "127.0.0.1", shut), refuse5(5)),
		"no such name":           after(socksTo(1, "none.example", raw), refuse5(4)),
		"no resolver":            after(socksTo(1, "broken.example", raw), refuse5(4)),
		"BIND":                   after(socksTo(2, "127.0.0.1", raw), refuse5(7)),
		"an unknown command":     after(socksTo(9, "127.0.0.1", raw), refuse5(7)),
		"an unknown address":     after("\x05\x01\x00\x02", refuse5(8)),
		"no method":              {{"\x05\x00", "\x05\xff"}},
		"GSSAPI":                 {{"\x05\x01\x01", "\x05\xff"}},
		"RESOLVE of an address":  after(socksTo(0xf0, "127.0.0.9", "\x00\x00"), "\x05\x00\x00\x01\x7f\x00\x00\x09\x00\x00"),
		"RESOLVE denied":         after(socksTo(0xf0, "denied.example", "\x00\x00"), refuse5(2)),
		"RESOLVE of none":        after(socksTo(0xf0, "none.example", "\x00\x00"), refuse5(4)),
		"RESOLVE of localhost":   after(socksTo(0xf0, "localhost", "\x00\x00"), "\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00"),
		"RESOLVE_PTR of nothing": after(socksTo(0xf1, "127.0.0.9", "\x00\x00"), refuse5(4)),
		"RESOLVE_PTR of a name":  after(socksTo(0xf1, "a.example", "\x00\x00"), refuse5(4)),
		"version 6":              {{hello5, open5}, {"\x06\x01\x00\x01\x7f\x00\x00\x01" + raw, ""}},
		"wrong version of users": {{"\x05\x01\x02", "\x05\x02"}, {"\x05\x01u\x01p", ""}},

		"SOCKS4":               {{"\x04\x01" + raw + "\x7f\x00\x00\x01user\x00", grant4}, ping},
		"SOCKS4a":              {{"\x04\x01" + raw + "\x00\x00\x00\x01\x00a.example\x00", grant4}, ping},
		"SOCKS4, denied":       {{"\x04\x01" + raw + "\x7f\x00\x00\x02\x00", refuse4}},
		"SOCKS4a, denied":      {{"\x04\x01" + raw + "\x00\x00\x00\x01\x00denied.example\x00", refuse4}},
		"SOCKS4a without name": {{"\x04\x01" + raw + "\x00\x00\x00\x01\x00\x00", refuse4}},
		"SOCKS4, this host":    {{"\x04\x01" + raw + "\x00\x00\x00\x00\x00", refuse4}},
		"SOCKS4, BIND":         {{"\x04\x02" + raw + "\x7f\x00\x00\x01\x00", refuse4}},
		"SOCKS4, nobody there": {{"\x04\x01" + shut + "\x7f\x00\x00\x01\x00", refuse4}},
		"SOCKS4, longest user": {{"\x04\x01" + raw + "\x7f\x00\x00\x01" + long + "\x00", grant4}, ping},
		"SOCKS4, longer user":  {{"\x04\x01" + raw + "\x7f\x00\x00\x01" + long + "a", ""}},
		"SOCKS4a, longer name": {{"\x04\x01" + raw + "\x00\x00\x00\x01\x00" + long + "a", ""}},
	}
}

// reaches tells whether a conversation has something echoed.
func reaches(turns []turn) int32 {
	if turns[len(turns)-1].say == "ping" {
		return 1
	}
	return 0
}

// SOCKS as it is spoken, in whole and byte by byte. Where the destination is not
// reached, the client hears of the end.
func TestSOCKS(t *testing.T) {
	noLeak(t)
	at, count := counter(t, "127.0.0.1:0")
	rules, all := conversations(t, at)
	s := newService(t, newTenant(t, rules).Proxy, nil)
	for what, turns := range all {
		for _, size := range []int{0, 1} {
			before := count.Load()
			c := s.dial(t)
			talk(t, what, c, turns, size)
			if got, want := count.Load()-before, reaches(turns); got != want {
				t.Errorf("%s: %d connections to the server, want %d", what, got, want)
			}
			if reaches(turns) == 0 {
				if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil && !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("%s: after it, %q, %v", what, rest, err)
				}
			}
			c.Close()
		}
	}
}

// A conversation that breaks off anywhere ends, and reaches nothing that it does
// not reach as a whole.
func TestSOCKSBreaksOff(t *testing.T) {
	noLeak(t)
	at, reached := counter(t, "127.0.0.1:0")
	rules, all := conversations(t, at)
	s := newService(t, newTenant(t, rules).Proxy, nil)
	for _, what := range slices.SortedFunc(maps.Keys(all), func(a, b string) int { return int(reaches(all[a]) - reaches(all[b])) }) {
		turns := all[what] // first those that reach nothing
		whole := ""
		for _, x := range turns {
			whole += x.say
		}
		for n := range len(whole) {
			if n > 24 && n < len(whole)-24 { // within a name that is long
				continue
			}
			c := s.dial(t)
			if _, err := io.WriteString(c, whole[:n]); err != nil {
				t.Fatal(err)
			}
			_ = c.CloseWrite()
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%s, cut after %d bytes, does not end", what, n)
			}
			c.Close()
			if reaches(turns) == 0 && reached.Load() > 0 {
				t.Fatalf("%s, cut after %d bytes, reaches the server", what, n)
			}
		}
	}
}

// What an error is to a client of SOCKS5.
func TestSOCKSReply(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want byte
	}{
		{&refused{}, 2},
		{fmt.Errorf("x: %w", &refused{}), 2},
		{unix.ECONNREFUSED, 5},
		{&errUpstream{errno: unix.ECONNREFUSED}, 5},
		{unix.EACCES, 2},
		{unix.EPERM, 2},
		{unix.ENETUNREACH, 3},
		{unix.EADDRNOTAVAIL, 3},
		{unix.EAFNOSUPPORT, 3},
		{unix.EMFILE, 1},
		{context.Canceled, 1},
		{unix.ETIMEDOUT, 4},
		{errors.New("x"), 4},
	} {
		if got := socksReply(tt.err); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.err, got, tt.want)
		}
	}
}

// Nothing is asked of a resolver that the policy denies for its name or its port.
func TestDeniedNamesAreAskedOfNobody(t *testing.T) {
	noLeak(t)
	x := newTenant(t, "allow a.example:443")
	s := newService(t, x.Proxy, nil)
	for _, request := range []string{socksTo(1, "denied.example", "\x01\xbb"), socksTo(1, "a.example", "\x00\x50"), socksTo(0xf0, "denied.example", "\x00\x00")} {
		talk(t, "SOCKS5", s.dial(t), []turn{{hello5, open5}, {request, refuse5(2)}}, 0)
	}
	talk(t, "SOCKS4a", s.dial(t), []turn{{"\x04\x01\x00\x50\x00\x00\x00\x01\x00a.example\x00", refuse4}}, 0)
	for _, target := range []string{"denied.example:443", "a.example:80"} {
		c := s.dial(t)
		if status, _ := ask1(t, c, "CONNECT "+target+" HTTP/1.1\r\n\r\n"); status != 403 {
			t.Errorf("%s: %d", target, status)
		}
	}
	if x.dns.asked != nil {
		t.Errorf("asked for: %q", x.dns.asked)
	}
}

// A user is let in by his password alone, and has his own policy.
func TestUsers(t *testing.T) {
	noLeak(t)
	one, _ := counter(t, "127.0.0.1:0")
	two, _ := counter(t, "127.0.0.1:0")
	all, a, b := newTenant(t, ""), newTenant(t, "allow "+one), newTenant(t, "allow "+two)
	s := newService(t, all.Proxy, func(user, password string) *Proxy {
		return map[string]*Proxy{"a:x": a.Proxy, "b:y": b.Proxy}[user+":"+password]
	})
	_, rawOne := port(t, one)
	_, rawTwo := port(t, two)
	in := func(user, password string) turn {
		return turn{"\x01" + string([]byte{byte(len(user))}) + user + string([]byte{byte(len(password))}) + password, "\x01\x00"}
	}
	const method, yes = "\x05\x02\x00\x02", "\x05\x02"
	for what, turns := range map[string][]turn{
		"the one":        {{method, yes}, in("a", "x"), {socksTo(1, "127.0.0.1", rawOne), granted5}, {"ping", "ping"}},
		"the one's not":  {{method, yes}, in("a", "x"), {socksTo(1, "127.0.0.1", rawTwo), refuse5(2)}},
		"the other":      {{method, yes}, in("b", "y"), {socksTo(1, "127.0.0.1", rawTwo), granted5}, {"ping", "ping"}},
		"wrong password": {{method, yes}, {"\x01\x01a\x01y", "\x01\x01"}},
		"no password":    {{method, yes}, {"\x01\x01a\x00", "\x01\x01"}},
		"nobody":         {{method, yes}, {"\x01\x00\x00", "\x01\x01"}},
		"unknown":        {{method, yes}, {"\x01\x01c\x01x", "\x01\x01"}},
		"no credentials": {{"\x05\x01\x00", "\x05\xff"}},
		"SOCKS4":         {{"\x04\x01" + rawOne + "\x7f\x00\x00\x01a\x00", refuse4}},
	} {
		c := s.dial(t)
		talk(t, what, c, turns, 0)
		c.Close()
	}
	if !all.reported(func(e Event) bool {
		return !e.Verdict.Allowed() && e.User == "c" && strings.HasPrefix(e.Client, "127.0.0.1:")
	}) {
		t.Error("an unknown user is not reported")
	}
}

// Of too many clients that say nothing, the first has to go, and a new one is
// served.
func TestHalfOpen(t *testing.T) {
	noLeak(t)
	at, _ := counter(t, "127.0.0.1:0")
	s := newService(t, newTenant(t, "allow "+at).Proxy, nil)
	first := s.dial(t)
	eventually(t, "the first is there", func() bool { return s.half() == 1 })
	for i := range maxGreeting {
		c := s.dial(t)
		if i%2 == 0 { // some have begun
			_, _ = io.WriteString(c, []string{"\x05", "\x04\x01", "GET "}[i%3])
		}
	}
	receiveEnd(t, first, unix.ECONNRESET)
	_, raw := port(t, at)
	talk(t, "one more", s.dial(t), []turn{{hello5, open5}, {socksTo(1, "127.0.0.1", raw), granted5}, {"ping", "ping"}}, 0)
	if n := s.half(); n > maxGreeting {
		t.Errorf("%d have not said what they want", n)
	}
	s.Finish()
	eventually(t, "they are gone", func() bool { return s.half() == 0 })
}

// A client whose first byte comes as HTTP ends is not waited for.
func TestHTTPEnded(t *testing.T) {
	noLeak(t)
	e := NewExplicit(newTenant(t, "").Proxy, nil)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	within(t, "Run", func() { e.Run(ended) })
	client, server := pair(t)
	send(t, client, "GET ")
	within(t, "the client", func() { e.serve(t.Context(), server, origin{}, listenBeside) })
}

// A client that hangs up while its destination is dialled is not waited for, and
// neither is the destination.
func TestClientLeaves(t *testing.T) {
	noLeak(t)
	for _, request := range []string{
		hello5 + "\x05\x01\x00\x03\x09a.example\x00\x50",
		"\x04\x01\x00\x50\x00\x00\x00\x01\x00a.example\x00",
		"CONNECT a.example:80 HTTP/1.1\r\n\r\n",
		"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
	} {
		for range 8 { // as it was a matter of chance
			// An upstream that takes connections and says nothing.
			asked := make(chan struct{})
			gone := make(chan struct{})
			upstream := server(t, func(c net.Conn) {
				close(asked)
				_, _ = io.Copy(io.Discard, c)
				close(gone)
			})
			x := newTenant(t, "upstream socks5h://"+upstream+"\nallow a.example")
			chain := chainOf(t, "socks5h://"+upstream)
			x.Chain = func(string) *Chain { return chain }
			s := newService(t, x.Proxy, nil)
			c := s.dial(t)
			send(t, c, request)
			within(t, "dialling", func() { <-asked })
			c.Close()
			within(t, "hanging up", func() { <-gone })
			eventually(t, "the end is reported", func() bool { return x.reported(func(e Event) bool { return e.Closed }) })
		}
	}
}

// After another policy, what is denied by it is cut.
func TestRecheck(t *testing.T) {
	noLeak(t)
	at, count := counter(t, "127.0.0.1:0")
	text, raw := port(t, at)
	x := newTenant(t, "allow a.example\nallow 127.0.0.1")
	s := newService(t, x.Proxy, nil)
	tunnels := []net.Conn{}
	for _, turns := range [][]turn{
		{{hello5, open5}, {socksTo(1, "a.example", raw), granted5}, {"ping", "ping"}},
		{{hello5, open5}, {socksTo(1, "127.0.0.1", raw), granted5}, {"ping", "ping"}},
		{{"\x04\x01" + raw + "\x7f\x00\x00\x01\x00", grant4}, {"ping", "ping"}},
		{{"CONNECT a.example:" + text + " HTTP/1.1\r\n\r\n", "HTTP/1.1 200 Connection established\r\n\r\n"}, {"ping", "ping"}},
	} {
		c := s.dial(t)
		talk(t, "before", c, turns, 0)
		tunnels = append(tunnels, c)
	}
	x.Recheck()
	for _, c := range tunnels {
		talk(t, "under the same policy", c, []turn{{"ping", "ping"}}, 0)
	}
	x.become(t, "deny a.example\ndeny 127.0.0.1")
	x.Recheck()
	for _, c := range tunnels {
		receiveEnd(t, c, unix.ECONNRESET)
	}
	before := count.Load()
	talk(t, "after", s.dial(t), []turn{{hello5, open5}, {socksTo(1, "a.example", raw), refuse5(2)}}, 0)
	if count.Load() != before {
		t.Error("a denied destination was reached")
	}
}

// An address that stands for a name is no way around what is denied to the name,
// and clients are given no other.
func TestResolveShared(t *testing.T) {
	noLeak(t)
	at, count := counter(t, "127.0.0.1:0")
	text, raw := port(t, at)
	for _, tt := range []struct {
		rules string
		own   bool // appfw itself listens there
		want  string
	}{
		{"allow a.example\nallow " + at, false, granted5},
		{"allow a.example\nallow 127.0.0.1:1", false, refuse5(4)},
		{"allow a.example\nallow " + at, true, refuse5(4)},
		{"allow a.example\nallow 127.0.0.1\ndeny alias.example:1", false, granted5},
		{"allow a.example\nallow 127.0.0.1\ndeny alias.example:" + text, false, refuse5(4)},
	} {
		x := newTenant(t, tt.rules)
		x.dns.addrs["a.example."] = "alias.example 127.0.0.1"
		if tt.own {
			x.Own = []netip.AddrPort{netip.MustParseAddrPort(at)}
		}
		s := newService(t, x.Proxy, nil)
		c := s.dial(t)
		talk(t, tt.rules, c, []turn{{hello5, open5}, {socksTo(0xf0, "a.example", "\x00\x00"), "\x05\x00\x00\x01"}}, 0)
		var rest [6]byte
		if _, err := io.ReadFull(c, rest[:]); err != nil {
			t.Fatal(err)
		}
		addr := netip.AddrFrom4([4]byte(rest[:4]))
		if !dnsguard.SyntheticV4.Contains(addr) {
			t.Fatalf("%q: resolved to %v", tt.rules, addr)
		}
		before := count.Load()
		c = s.dial(t)
		talk(t, tt.rules, c, []turn{{hello5, open5}, {socksTo(1, addr.String(), raw), tt.want}}, 0)
		if tt.want == granted5 {
			talk(t, tt.rules, c, []turn{{"ping", "ping"}}, 0)
		} else if count.Load() != before {
			t.Errorf("%q: the server was reached", tt.rules)
		}
	}
}

// A name's owner cannot point clients at this host under a policy that only
// denies, be it by a synthetic address.
func TestSyntheticOfThisHost(t *testing.T) {
	noLeak(t)
	own := ""
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
			own = p.Addr().String()
		}
	}
	if own == "" {
		own = "127.0.0.1" // denied for another reason
	}
	x := newTenant(t, "deny b.example")
	x.dns.addrs["own.example."] = own
	v4, _, err := x.Guard.Synthetic.For("own.example")
	if err != nil {
		t.Fatal(err)
	}
	d := x.decide(origin{}, policy.TCP, netip.AddrPortFrom(v4, 80), nil)
	if addrs, _, err := x.resolve(t.Context(), &d, "own.example"); len(addrs) > 0 || err == nil {
		t.Errorf("it leads to %v, %v", addrs, err)
	}
}

// FuzzReadSOCKS4: a request is read to its last byte, and says what its bytes do.
func FuzzReadSOCKS4(f *testing.F) {
	for _, s := range []string{
		"\x04\x01\x00\x50\x7f\x00\x00\x01user\x00rest", "\x04\x01\x00\x50\x00\x00\x00\x01u\x00a.example\x00rest", "\x04\x02\x00\x50\x01\x02\x03\x04\x00", "\x04\x01\x00\x50\x00\x00\x00\x00\x00", "\x05\x01\x00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		host, port, user, err := readSOCKS4(r)
		used := string(b[:len(b)-r.Len()])
		if len(used) > 8+256+256 {
			t.Fatalf("it read %d bytes", len(used))
		}
		if err != nil || host == "" {
			return
		}
		addr, parsed := netip.ParseAddr(host)
		made := []byte{4, 1, byte(port >> 8), byte(port)}
		if used[4:7] == "\x00\x00\x00" && used[7] != 0 { // a name
			made = append(append(made, used[4:8]...), user+"\x00"+host+"\x00"...)
		} else if parsed == nil {
			made = append(append(made, addr.AsSlice()...), user+"\x00"...)
		}
		if string(made) != used {
			t.Fatalf("%q is %q", used, made)
		}
	})
}
