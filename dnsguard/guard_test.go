package dnsguard

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"appfw/policy"
)

// upstream is an Exchanger that answers from records, and remembers what it was asked.
type upstream struct {
	mu    sync.Mutex
	asked []*dns.Msg
	fill  func(m *dns.Msg) error // completes the reply to a question
}

func (u *upstream) Exchange(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
	u.mu.Lock()
	u.asked = append(u.asked, q.Copy())
	u.mu.Unlock()
	m := new(dns.Msg).SetReply(q)
	return m, u.fill(m)
}

// zone answers by the first part: owner and type, or owner alone.
func zone(answers map[string][]string) func(*dns.Msg) error {
	return func(m *dns.Msg) error {
		q := m.Question[0]
		list, ok := answers[q.Name+" "+dns.TypeToString[q.Qtype]]
		if !ok {
			list = answers[q.Name]
		}
		for _, s := range list {
			if s == "NXDOMAIN" {
				m.Rcode = dns.RcodeNameError
				continue
			}
			if rr := record(s); rr.Header().Rrtype == dns.TypeSOA {
				m.Ns = append(m.Ns, rr)
			} else {
				m.Answer = append(m.Answer, rr)
			}
		}
		return nil
	}
}

func record(s string) dns.RR {
	rr, err := dns.NewRR(s)
	if err != nil {
		panic(err)
	}
	return rr
}

// fixture is a Guard on a fake upstream and a fake clock.
type fixture struct {
	*Guard
	up  *upstream
	now time.Time
}

func newFixture(t testing.TB, fill func(*dns.Msg) error, rules ...string) *fixture {
	t.Helper()
	var lines []policy.Line
	for _, r := range rules {
		word, arg, _ := strings.Cut(r, " ")
		lines = append(lines, policy.Line{Word: word, Arg: arg})
	}
	p, err := policy.Compile(policy.Config{Lines: lines})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{up: &upstream{fill: fill}, now: time.Unix(1e9, 0)}
	f.Guard = New(Config{
		Policy: func() *policy.Policy { return p }, Upstream: f.up, Pins: new(Pins),
		Now: func() time.Time { return f.now },
	})
	return f
}

func query(name, qtype string) *dns.Msg {
	return new(dns.Msg).SetQuestion(name, dns.StringToType[qtype]).SetEdns0(1232, false)
}

func (f *fixture) ask(name, qtype string) *dns.Msg {
	return f.Answer(context.Background(), query(name, qtype))
}

// text is an answer in one line: its RCODE and records.
func text(m *dns.Msg) string {
	out := []string{dns.RcodeToString[m.Rcode]}
	for _, rr := range slices.Concat(m.Answer, m.Ns) {
		out = append(out, strings.ReplaceAll(strings.ReplaceAll(rr.String(), "\tIN\t", " "), "\t", " "))
	}
	return strings.Join(out, " | ")
}

func ede(m *dns.Msg) *dns.EDNS0_EDE {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				return e
			}
		}
	}
	return &dns.EDNS0_EDE{}
}

func TestDeniedNamesAskNobody(t *testing.T) {
	f := newFixture(t, zone(nil), "allow *.ok.example", "deny ads.ok.example")
	for _, name := range []string{"ads.ok.example.", "ok.example."} { // there are allowed names below
		if m := f.ask(name, "A"); m.Rcode != dns.RcodeSuccess || len(m.Answer) > 0 || len(m.Ns) != 1 || ede(m).InfoCode != dns.ExtendedErrorCodeProhibited {
			t.Errorf("%s: %s", name, text(m))
		}
	}
	for _, name := range []string{
		"evil.example.", "EVIL.example.", "com.", "a\\000b.ok.example.",
		"\\.ok.example.", "a\\.b.ok.example.", "1.2.3.4.", "0x7f.1.", "a*.ok.example.", "\\195\\164.ok.example.",
		"xn--a.ok.example.", "a.ok.example-.", "4.3.2.1.in-addr.arpa.",
	} {
		m := f.ask(name, "A")
		if m.Rcode != dns.RcodeNameError || len(m.Answer) > 0 || len(m.Ns) != 1 || !dns.IsSubDomain(m.Ns[0].Header().Name, name) {
			t.Errorf("%s: %s", name, text(m))
		}
		if e := ede(m); e.InfoCode != dns.ExtendedErrorCodeProhibited || !strings.HasPrefix(e.ExtraText, "appfw: ") {
			t.Errorf("%s: EDE %d %q", name, e.InfoCode, e.ExtraText)
		}
		if m.Question[0].Name != name {
			t.Errorf("%s: answered as %s", name, m.Question[0].Name)
		}
	}
	if m := f.ask(".", "NS"); m.Rcode != dns.RcodeSuccess || len(m.Answer) > 0 || len(m.Ns) != 1 {
		t.Errorf("root: %s", text(m))
	}
	if n := len(f.up.asked); n != 0 {
		t.Errorf("%d questions went upstream", n)
	}
}

func TestOddMessages(t *testing.T) {
	f := newFixture(t, zone(nil), "allow any")
	for _, c := range []struct {
		what  string
		edit  func(*dns.Msg)
		rcode int // -1: no answer
	}{
		{"response", func(m *dns.Msg) { m.Response = true }, -1},
		{"notify", func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented},
		{"update", func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		{"no question", func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError},
		{"two questions", func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		{"chaos", func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeNotImplemented},
		{"any", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeANY }, dns.RcodeNotImplemented},
		{"transfer", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeNotImplemented},
	} {
		q := query("a.example.", "A")
		c.edit(q)
		m := f.Answer(context.Background(), q)
		if got := m; (got == nil) != (c.rcode < 0) || got != nil && (got.Rcode != c.rcode || got.Id != q.Id || !got.Response) {
			t.Errorf("%s: %v", c.what, got)
		}
	}
	if n := len(f.up.asked); n != 0 {
		t.Errorf("%d questions went upstream", n)
	}
}

const soa = " 300 IN SOA ns. mbox. 1 2 3 4 20"

func TestAnswers(t *testing.T) {
	var long []string
	for i := range 24 {
		long = append(long, fmt.Sprintf("c%d.x. 9 IN CNAME c%d.x.", i, i+1))
	}
	loop := []string{"l1.x. 9 IN CNAME l2.x.", "l2.x. 9 IN CNAME l1.x."}
	for _, c := range []struct {
		ask, qtype string
		records    map[string][]string
		want       string
		kept       time.Duration // in the cache
	}{
		{"A.x.", "A", map[string][]string{"a.x.": {"a.x. 60 IN A 192.0.2.1"}}, "NOERROR | A.x. 60 A 192.0.2.1", time.Minute},
		{"a.x.", "A", map[string][]string{"a.x.": {"a.x. 0 IN A 192.0.2.1"}}, "NOERROR | a.x. 0 A 192.0.2.1", 0},
		{"a.x.", "A", map[string][]string{"a.x.": {"a.x. 2000000 IN A 192.0.2.1"}}, "NOERROR | a.x. 2000000 A 192.0.2.1", maxTTL},
		{"a.x.", "AAAA", map[string][]string{"a.x.": {"x." + soa}}, "NOERROR | x. 300 SOA ns. mbox. 1 2 3 4 20", 20 * time.Second},
		{"a.x.", "A", map[string][]string{"a.x.": {"NXDOMAIN", "x." + soa}}, "NXDOMAIN | x. 300 SOA ns. mbox. 1 2 3 4 20", 20 * time.Second},
		{"a.x.", "A", map[string][]string{"a.x.": {"NXDOMAIN"}}, "NXDOMAIN", 0},
		{"a.x.", "A", map[string][]string{"a.x.": {}}, "NOERROR", 0},
		// An alias of nothing, without an SOA, is an absence as well.
		{"a.x.", "A", map[string][]string{"a.x.": {"a.x. 60 IN CNAME b.y."}}, "NOERROR | a.x. 60 CNAME b.y.", 0},
		// Chains: in one answer, over several, looped, too long.
		{"a.x.", "A", map[string][]string{"a.x.": {"B.y. 5 IN A 192.0.2.2", "A.x. 60 IN CNAME b.Y."}},
			"NOERROR | a.x. 60 CNAME b.Y. | B.y. 5 A 192.0.2.2", 5 * time.Second},
		{"a.x.", "A", map[string][]string{"a.x.": {"a.x. 60 IN CNAME b.y."}, "b.y.": {"b.y. 60 IN CNAME c.z."}, "c.z.": {"c.z. 7 IN A 192.0.2.3"}},
			"NOERROR | a.x. 60 CNAME b.y. | b.y. 60 CNAME c.z. | c.z. 7 A 192.0.2.3", 7 * time.Second},
		{"a.x.", "CNAME", map[string][]string{"a.x.": {"a.x. 60 IN CNAME b.y."}}, "NOERROR | a.x. 60 CNAME b.y.", time.Minute},
		{"l1.x.", "A", map[string][]string{"l1.x.": loop}, "NOERROR | l1.x. 9 CNAME l2.x. | l2.x. 9 CNAME l1.x.", 0},
		{"l1.x.", "A", map[string][]string{"l1.x.": loop[:1], "l2.x.": loop[1:]}, "NOERROR | l1.x. 9 CNAME l2.x. | l2.x. 9 CNAME l1.x.", 0},
		{"c0.x.", "A", map[string][]string{"c0.x.": long}, "SERVFAIL", 0},
		{"c8.x.", "A", map[string][]string{"c8.x.": append(long, "c24.x. 9 IN A 192.0.2.9")}, "NOERROR" + links(long[8:]) + " | c24.x. 9 A 192.0.2.9", 9 * time.Second},
		{"c7.x.", "A", map[string][]string{"c7.x.": append(long, "c24.x. 9 IN A 192.0.2.9")}, "SERVFAIL", 0},
		// Poison: other owners, other types, other zones.
		{"a.x.", "A", map[string][]string{"a.x.": {"a.x. 60 IN A 192.0.2.1", "bank.example. 60 IN A 203.0.113.6", "a.x. 60 IN AAAA 2001:db8::6",
			"a.x. 60 IN HTTPS 1 . ipv4hint=203.0.113.6", "b.a.x. 60 IN A 203.0.113.6", "a.x. 60 CH A 203.0.113.6"}}, "NOERROR | a.x. 60 A 192.0.2.1", time.Minute},
		{"a.x.", "A", map[string][]string{"a.x.": {"NXDOMAIN", "bank.example." + soa, "b.a.x." + soa}}, "NXDOMAIN", 0},
		// ECH goes, everything else stays.
		{"a.x.", "HTTPS", map[string][]string{"a.x.": {"a.x. 60 IN HTTPS 1 . alpn=h2 ipv4hint=192.0.2.7 ech=AAAA ipv6hint=2001:db8::7"}},
			`NOERROR | a.x. 60 HTTPS 1 . alpn="h2" ipv4hint="192.0.2.7" ipv6hint="2001:db8::7"`, time.Minute},
		{"a.x.", "SVCB", map[string][]string{"a.x.": {"a.x. 60 IN SVCB 1 . ech=AAAA"}}, `NOERROR | a.x. 60 SVCB 1 .`, time.Minute},
	} {
		f := newFixture(t, zone(c.records), "allow any")
		if got := text(f.ask(c.ask, c.qtype)); got != c.want {
			t.Errorf("%s %s:\n got %s\nwant %s", c.ask, c.qtype, got, c.want)
		}
		fresh := func() bool {
			before := len(f.up.asked)
			f.ask(strings.ToUpper(c.ask), c.qtype)
			return len(f.up.asked) == before
		}
		c.kept = max(c.kept, leastTTL)
		if f.now = f.now.Add(c.kept - 1); !fresh() {
			t.Errorf("%s %s: gone before %s", c.ask, c.qtype, c.kept)
		}
		if f.now = f.now.Add(1); fresh() {
			t.Errorf("%s %s: there after %s", c.ask, c.qtype, c.kept)
		}
		for _, q := range f.up.asked {
			if q.Question[0].Name != strings.ToLower(q.Question[0].Name) && q.Question[0].Name == strings.ToUpper(c.ask) {
				t.Errorf("upstream saw the app's case: %s", q.Question[0].Name)
			}
		}
	}
}

func links(records []string) (s string) {
	for _, r := range records {
		s += " | " + strings.Replace(r, " IN ", " ", 1)
	}
	return s
}

func TestNothingOfTheAppsGoesUpstream(t *testing.T) {
	f := newFixture(t, zone(map[string][]string{"a.x.": {"a.x. 60 IN A 192.0.2.1"}}), "allow any")
	q := query("A.x.", "A")
	q.Extra = append(q.Extra, record("secret.x. 1 IN TXT leak"))
	q.CheckingDisabled, q.AuthenticatedData, q.Id = true, true, 7
	opt := q.IsEdns0()
	opt.Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("leak")}, &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, Address: []byte{192, 0, 2, 0}}}
	f.Answer(context.Background(), q)
	got := f.up.asked[0]
	want := question("a.x.", dns.TypeA, false)
	want.Id = got.Id
	if got.String() != want.String() {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

// until is an Exchanger that answers when its context ends.
type until struct{ asked chan struct{} }

func (u until) Exchange(ctx context.Context, _ *dns.Msg) (*dns.Msg, error) {
	close(u.asked)
	<-ctx.Done()
	return nil, ctx.Err()
}

// The end of the service ends questions in flight: nobody waits for a silent
// resolver after the app has ended.
func TestEndOfService(t *testing.T) {
	f := newFixture(t, nil, "allow any")
	u := until{make(chan struct{})}
	f.Upstream = u
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-u.asked; cancel() }()
	if m := f.Answer(ctx, query("a.x.", "A")); m.Rcode != dns.RcodeServerFailure {
		t.Error(text(m))
	}
}

func TestLocalAnswers(t *testing.T) {
	f := newFixture(t, zone(nil), "allow ok.example", "allow h.example", "allow private")
	hosts := map[policy.Name][]netip.Addr{"h.example": {netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7")}, "no.example": {netip.MustParseAddr("10.0.0.8")}}
	f.Hosts = func() map[policy.Name][]netip.Addr { return hosts }
	f.Pins.Give("ok.example", nil, []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}, f.now)
	for _, c := range []struct{ ask, qtype, want string }{
		{"H.example.", "A", "NOERROR | H.example. 60 A 10.0.0.7"},
		{"h.example.", "AAAA", "NOERROR | h.example. 60 AAAA fd00::7"},
		{"localhost.", "A", "NOERROR | localhost. 60 A 127.0.0.1"},
		{"a.LOCALHOST.", "AAAA", "NOERROR | a.LOCALHOST. 60 AAAA ::1"},
		{"localhost.", "TXT", "NOERROR"},
		{"1.2.0.192.in-addr.arpa.", "PTR", "NOERROR | 1.2.0.192.in-addr.arpa. 60 PTR ok.example."},
		{"1." + strings.Repeat("0.", 23) + "8.b.d.0.1.0.0.2.ip6.arpa.", "PTR", "NOERROR | 1." + strings.Repeat("0.", 23) + "8.b.d.0.1.0.0.2.ip6.arpa. 60 PTR ok.example."},
	} {
		if got := text(f.ask(c.ask, c.qtype)); got != c.want {
			t.Errorf("%s %s: %s", c.ask, c.qtype, got)
		}
	}
	if !has(f.Pins, netip.MustParseAddr("10.0.0.7"), "h.example", f.now) {
		t.Error("an address out of the hosts file was not pinned")
	}
	for _, name := range []string{"no.example.", "2.2.0.192.in-addr.arpa.", "01.2.0.192.in-addr.arpa.", "2.0.192.in-addr.arpa.",
		"+1.2.0.192.in-addr.arpa.", "1.ip6.arpa.", strings.Repeat("+.", 32) + "ip6.arpa.", strings.Repeat("ab.", 32) + "ip6.arpa."} {
		if m := f.ask(name, "PTR"); m.Rcode != dns.RcodeNameError {
			t.Errorf("%s: %s", name, text(m))
		}
	}
	if n := len(f.up.asked); n != 0 {
		t.Errorf("%d questions went upstream", n)
	}
}

func TestAnswersFitTheClient(t *testing.T) {
	f := newFixture(t, func(m *dns.Msg) error {
		for i := range 500 {
			m.Answer = append(m.Answer, record(fmt.Sprintf("a.x. 60 IN A 11.0.%d.%d", i/256, i%256)))
		}
		return nil
	}, "allow *.x")
	deniedName := strings.Repeat(strings.Repeat("a", 62)+".", 3) + strings.Repeat("1", 60) + "."
	for _, c := range []struct {
		name       string
		udp, limit int // udp 0: without EDNS
		truncated  bool
	}{{"a.x.", 0, 512, true}, {"a.x.", 1, 512, true}, {"a.x.", 1232, 1232, true}, {"a.x.", 65535, 4096, true}, {deniedName, 512, 512, false}, {deniedName, 0, 512, false}} {
		q := new(dns.Msg).SetQuestion(c.name, dns.TypeA)
		if c.udp > 0 {
			q.SetEdns0(uint16(c.udp), false)
		}
		packed, _ := q.Pack()
		answer := f.AnswerPacket(context.Background(), packed)
		m := new(dns.Msg)
		if err := m.Unpack(answer); err != nil || len(answer) > c.limit || m.Truncated != c.truncated || (m.IsEdns0() != nil) != (c.udp > 0) {
			t.Errorf("%.9s %d: %d bytes, truncated %t, %v", c.name, c.udp, len(answer), m.Truncated, err)
		}
	}
	if !has(f.Pins, netip.MustParseAddr("11.0.0.255"), "a.x", f.now) {
		t.Error("not all of a truncated answer is pinned")
	}
}
