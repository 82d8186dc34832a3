package dnsguard

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"appfw/policy"
)

// readyZone answers all names below ok.x.
func readyZone(m *dns.Msg) error {
	q := m.Question[0]
	add := func(format string, args ...any) { m.Answer = append(m.Answer, record(fmt.Sprintf(format, args...))) }
	switch {
	case strings.HasPrefix(q.Name, "none"):
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{record("ok.x. 300 IN SOA n.ok.x. m.ok.x. 1 2 3 4 90")}
	case strings.HasPrefix(q.Name, "many"):
		for i := range 100 {
			add("%s 60 IN A 11.0.3.%d", q.Name, i)
		}
	case q.Qtype == dns.TypeA:
		add("%s 60 IN CNAME End.%s", q.Name, q.Name)
		add("end.%s 90 IN A 11.0.2.1", q.Name)
		add("end.%s 7200 IN A 11.0.2.2", q.Name)
	case q.Qtype == dns.TypeHTTPS:
		add("%s 60 IN HTTPS 1 . alpn=h2 ipv4hint=11.0.2.1", q.Name)
	default:
		m.Ns = []dns.RR{record("ok.x. 300 IN SOA n.ok.x. m.ok.x. 1 2 3 4 90")}
	}
	return nil
}

// packets are queries of many kinds, of which those of programs come first.
func packets() (list [][]byte, plain int) {
	add := func(m *dns.Msg) { packed, _ := m.Pack(); list = append(list, packed) }
	for _, name := range []string{"a.ok.x.", "A.oK.X.", "none.ok.x.", "_d.a-b.ok.x.", strings.Repeat("a.", 120) + "ok.x."} {
		for _, qtype := range []string{"A", "AAAA", "HTTPS", "TXT"} {
			for _, set := range []func(*dns.Msg){
				func(m *dns.Msg) {}, func(m *dns.Msg) { m.SetEdns0(512, false) }, func(m *dns.Msg) { m.SetEdns0(4096, true) },
				func(m *dns.Msg) { m.RecursionDesired, m.CheckingDisabled, m.AuthenticatedData = false, true, true },
			} {
				m := new(dns.Msg).SetQuestion(name, dns.StringToType[qtype])
				set(m)
				add(m)
			}
		}
	}
	plain = len(list)
	for _, name := range []string{"evil.x.", "localhost.", "4.3.2.1.in-addr.arpa.", ".", "many.ok.x.", `a\.b.ok.x.`, `a\000.ok.x.`} {
		add(query(name, "A"))
	}
	m := query("a.ok.x.", "A")
	m.Question[0].Qclass = dns.ClassCHAOS
	add(m)
	m = query("a.ok.x.", "A")
	m.Response = true
	add(m)
	m = query("a.ok.x.", "A")
	m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
	add(m)
	return list, plain
}

// sameAnswer asks until the answer is ready, and reports a difference between the two
// ways.
func (f *fixture) sameAnswer(t *testing.T, packet []byte) (ready bool) {
	t.Helper()
	slow := func() []byte { return f.AnswerPacket(context.Background(), packet) }
	slow()
	slow()
	for range 2 {
		answer, ok := f.ready(context.Background(), packet, []byte("before"))
		if ready = ok; !ok {
			return false
		}
		want, got := new(dns.Msg), new(dns.Msg)
		if err := got.Unpack(bytes.TrimPrefix(answer, []byte("before"))); err != nil {
			t.Fatalf("%x: %v", packet, err)
		}
		if err := want.Unpack(slow()); err != nil || got.String() != want.String() {
			t.Fatalf("to %x:\n%v\nand slowly:\n%v %v", packet, got, want, err)
		}
		f.now = f.now.Add(7 * time.Second) // within the life of all that is in the zone
	}
	return true
}

func TestReady(t *testing.T) {
	f := newFixture(t, readyZone, "allow *.ok.x")
	list, plain := packets()
	for i, packet := range list {
		q := new(dns.Msg)
		_ = q.Unpack(packet)
		if ready := f.sameAnswer(t, packet); ready != (i < plain) {
			t.Errorf("ready %t: %v", ready, q)
		}
		f.now = f.now.Add(time.Hour)
	}
}

func FuzzReady(f *testing.F) {
	list, _ := packets()
	for _, packet := range list {
		f.Add(packet)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		newFixture(t, readyZone, "allow *.ok.x").sameAnswer(t, packet)
	})
}

// What is ready is not sent when it holds no longer, and never without its pins.
func TestReadyNoMore(t *testing.T) {
	f := newFixture(t, readyZone, "allow *.ok.x")
	packet, _ := query("a.ok.x.", "A").Pack()
	ready := func() bool { _, ok := f.ready(context.Background(), packet, nil); return ok }
	warm := func() {
		t.Helper()
		for range 3 {
			f.AnswerPacket(context.Background(), packet)
		}
		if !ready() {
			t.Fatal("not ready")
		}
	}
	warm()
	other, _ := policy.Compile(policy.Config{Lines: []policy.Line{{Word: "allow", Arg: "other.x"}}})
	old := f.Policy()
	f.Guard.Policy = func() *policy.Policy { return other }
	if ready() {
		t.Error("under another policy")
	}
	f.Guard.Policy = func() *policy.Policy { return old }
	warm()
	f.now = f.now.Add(61 * time.Second)
	if ready() {
		t.Error("after its end")
	}
	warm()
	f.up.fill = func(*dns.Msg) error { return fmt.Errorf("no answer") }
	f.now = f.now.Add(61 * time.Second)
	for range 3 {
		f.AnswerPacket(context.Background(), packet)
	}
	if ready() {
		t.Error("out of date")
	}
	f.up.fill = readyZone
	f.now = f.now.Add(time.Hour)
	warm()

	// Its address is forgotten for the name; the slow way pins it again.
	addr := netip.MustParseAddr("11.0.2.1")
	for i := range maxNamesAPinned {
		f.Pins.Give(policy.Name(fmt.Sprint("n", i)), nil, []netip.Addr{addr}, f.now)
	}
	if has(f.Pins, addr, "a.ok.x", f.now) || ready() {
		t.Error("ready without its pins")
	}
	warm()
	if !has(f.Pins, addr, "a.ok.x", f.now) {
		t.Error("not pinned again")
	}

	// Given again, it stays pinned, and is what was given last.
	f.now = f.now.Add(50 * time.Second)
	f.Pins.Give("b.ok.x", nil, []netip.Addr{addr}, f.now)
	if !ready() || f.Pins.Of(addr, f.now)[0].Name != "a.ok.x" {
		t.Errorf("%v", f.Pins.Of(addr, f.now)[:2])
	}
}

// What is asked for often is asked for again ahead of its end.
func TestReadyAhead(t *testing.T) {
	f := newFixture(t, readyZone, "allow *.ok.x")
	again := make(chan bool, 10)
	f.up.fill = func(m *dns.Msg) error { again <- true; return readyZone(m) }
	small, _ := new(dns.Msg).SetQuestion("many.ok.x.", dns.TypeA).Pack() // does not fit, so it is never ready
	large, _ := new(dns.Msg).SetQuestion("many.ok.x.", dns.TypeA).SetEdns0(4096, false).Pack()
	for range prefetchHits {
		f.AnswerPacket(context.Background(), large)
	}
	<-again
	f.now = f.now.Add(56 * time.Second) // of 60
	if _, ok := f.ready(context.Background(), small, nil); ok {
		t.Error("what does not fit is ready")
	}
	if _, ok := f.ready(context.Background(), large, nil); !ok {
		t.Error("not ready")
	}
	<-again
}

func BenchmarkReady(b *testing.B) {
	f := newFixture(b, readyZone, "allow *.ok.x")
	packet, _ := query("a.ok.x.", "A").Pack()
	for range 2 {
		f.AnswerPacket(context.Background(), packet)
	}
	out := make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := f.ready(context.Background(), packet, out[:0]); !ok {
			b.Fatal("not ready")
		}
	}
}
