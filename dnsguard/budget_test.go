package dnsguard

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// asks tells whether a question leaves.
func (f *fixture) asks(name, qtype string) bool {
	before := len(f.up.asked)
	f.ask(name, qtype)
	return len(f.up.asked) > before
}

// Every question counts, for the wildcard by which it is allowed and for no domain.
func TestBudget(t *testing.T) {
	f := newFixture(t, zone(nil), "allow *.x", "allow *.github.io.x", "allow .tree.y", "allow a.b.github.io", "allow *.long.y", "dns-budget 12")
	var logged []Question
	f.Log = func(q Question) { logged = append(logged, q) }
	left := func(n int, of func(i int) (name, qtype string)) (some int) {
		t.Helper()
		for i := range n {
			if f.asks(of(i)) {
				some++
			}
		}
		return some
	}
	types := []string{"A", "AAAA", "HTTPS"}
	if n := left(20, func(i int) (string, string) { return fmt.Sprintf("n%d.shop%d.x.", i/3, i/3), types[i%3] }); n != 12 {
		t.Errorf("%d questions left for *.x", n)
	}
	last := logged[len(logged)-1]
	if last.Name != "*.x" || last.Verdict.Allowed() || !strings.Contains(last.Verdict.Reason(), "carry data out") {
		t.Errorf("logged %+v", last)
	}
	if n := left(20, func(i int) (string, string) { return fmt.Sprintf("n%d.user%[1]d.github.io.x.", i), "A" }); n != 12 {
		t.Errorf("%d questions left for *.github.io.x", n)
	}
	if n := left(20, func(i int) (string, string) {
		return []string{"tree.y.", fmt.Sprintf("n%d.tree.y.", i)}[min(i, 1)], "A"
	}); n != 12 {
		t.Errorf("%d questions left for .tree.y", n)
	}
	for _, qtype := range []string{"A", "AAAA", "TXT", "MX"} {
		if n := left(20, func(int) (string, string) { f.now = f.now.Add(leastTTL); return "a.b.github.io.", qtype }); n != 20 {
			t.Errorf("%d questions left for a name that a rule has in full: %s", n, qtype)
		}
	}
	rare := []string{"LOC", "HINFO", "RP", "SSHFP", "URI", "AFSDB", "KX", "CERT", "SMIMEA", "OPENPGPKEY", "CSYNC", "ZONEMD", "HIP"}
	if n := left(len(rare), func(i int) (string, string) { return "a.b.github.io.", rare[i] }); n != 12 {
		t.Errorf("%d rare types were asked for", n)
	}
	if n := left(12, func(i int) (string, string) { return fmt.Sprintf("%s%d.long.y.", strings.Repeat("a", 60), i), "A" }); n != 12*bytesAQuestion/62 {
		t.Errorf("%d long names were asked for", n)
	}
	f.now = f.now.Add(budgetTime - 10*time.Minute)
	if f.asks("new.x.", "A") {
		t.Error("a new budget before its time")
	}
	f.now = f.now.Add(10 * time.Minute)
	if !f.asks("new.x.", "A") {
		t.Error("no new budget after its time")
	}
}

// A program that asks for names that it has asked for gets no more questions out than
// by new ones, whatever their TTL, and whether they exist or fail.
func TestBudgetOfRepeats(t *testing.T) {
	for what, answer := range map[string]func(m *dns.Msg) error{
		"TTL 0": func(m *dns.Msg) error {
			m.Answer = []dns.RR{record(m.Question[0].Name + " 0 IN A 11.0.0.1")}
			return nil
		},
		"none":     func(m *dns.Msg) error { m.Rcode = dns.RcodeNameError; return nil },
		"NODATA":   func(m *dns.Msg) error { return nil },
		"SERVFAIL": func(m *dns.Msg) error { m.Rcode = dns.RcodeServerFailure; return nil },
		"error":    func(m *dns.Msg) error { return errors.New("down") },
		"alias": func(m *dns.Msg) error {
			if name := m.Question[0].Name; strings.HasPrefix(name, "n") {
				m.Answer = []dns.RR{record(name + " 0 IN CNAME end" + name)}
			}
			return nil
		},
	} {
		const limit = 100
		f := newFixture(t, answer, "allow *.x", "allow exact.y", fmt.Sprintf("dns-budget %d", limit))
		hour := 0
		for range 3600 * 4 { // a question of 16 names each quarter of a second
			f.ask(fmt.Sprintf("n%d.x.", rand.N(16)), "A")
			f.now = f.now.Add(time.Second / 4)
		}
		hour = len(f.up.asked)
		if hour > limit || hour < limit/3 {
			t.Errorf("%s: %d questions left in an hour", what, hour)
		}
		for range 3600 * 4 {
			f.ask(fmt.Sprintf("n%d.x.", rand.N(16)), "A")
			f.now = f.now.Add(time.Second / 4)
		}
		if n := len(f.up.asked) - hour; n > limit || n < limit/5 {
			t.Errorf("%s: %d questions left in the next hour", what, n)
		}
		f.up.asked = nil
		for range 60 * 10 { // of a name that a rule has in full
			f.ask("exact.y.", "A")
			f.now = f.now.Add(time.Second / 10)
		}
		if n := len(f.up.asked); n > 60 || n < 3 {
			t.Errorf("%s: %d questions left in a minute for a name in full", what, n)
		}
	}
}

// In no hour, wherever it begins, more than the limit leaves.
func TestBudgetOfAnyHour(t *testing.T) {
	b := newBudget()
	const limit = 50
	now := time.Unix(1e9, 0)
	var left []time.Time
	for range 20000 {
		if rand.N(100) == 0 {
			now = now.Add(rand.N(40 * time.Minute))
		}
		now = now.Add(rand.N(time.Minute / 2))
		if wait, ok := b.spend("x", 3, limit, rand.N(2) == 0, now); ok {
			left = append(left, now.Add(wait))
		}
		if n := len(left); n > limit && left[n-1].Sub(left[n-limit-1]) < time.Hour {
			t.Fatalf("%d questions from %s to %s", limit+1, left[n-limit-1], left[n-1])
		}
	}
	if len(left) < 1000 {
		t.Errorf("%d questions left", len(left))
	}
}

// What is known is given out when no more may be asked, and what is asked for ever
// again leaves room for what is new.
func TestBudgetLeavesRoom(t *testing.T) {
	f := newFixture(t, func(m *dns.Msg) error {
		m.Answer = []dns.RR{record(m.Question[0].Name + " 5 IN A 11.0.0.1")}
		return nil
	}, "allow *.x", "dns-budget 100")
	for range 3600 / 5 { // as who uses a store whose names live for 5 seconds
		for _, name := range []string{"a.x.", "b.x."} {
			if m := f.ask(name, "A"); len(m.Answer) != 1 {
				t.Fatal(text(m))
			}
		}
		f.now = f.now.Add(5 * time.Second)
	}
	news := 0
	for i := range 100 {
		if f.asks(fmt.Sprintf("new%d.x.", i), "A") {
			news++
		}
		f.now = f.now.Add(time.Second / 10)
	}
	if n := len(f.up.asked); n > 100 || news < 45 {
		t.Errorf("%d questions left, %d of them for new names", n, news)
	}
	f.now = f.now.Add(time.Minute)
	if m := f.ask("a.x.", "A"); len(m.Answer) != 1 || ede(m).InfoCode != dns.ExtendedErrorCodeStaleAnswer {
		t.Error(text(m))
	}
}

// What is asked for ahead of its end counts as well.
func TestBudgetOfPrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(m *dns.Msg) error {
			m.Answer = []dns.RR{record(m.Question[0].Name + " 100 IN A 11.0.0.1")}
			return nil
		}, "allow *.x", "dns-budget 5")
		f.Guard.Now = time.Now
		packet, _ := query("a.x.", "A").Pack()
		for range 50 {
			f.AnswerPacket(t.Context(), packet)
			f.ready(t.Context(), packet, nil)
			synctest.Wait() // for what is asked ahead
			time.Sleep(19 * time.Second)
		}
		if n := len(f.up.asked); n > 5 || n < 1 {
			t.Errorf("%d questions left", n)
		}
	})
}

// More than a share of the budget in a second waits, and does not fail.
func TestBudgetOfASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, zone(nil), "allow *.x", "dns-budget 400")
		f.Guard.Now = time.Now
		begin := time.Now()
		done := make(chan bool, 400)
		for i := range 400 {
			go func() { f.ask(fmt.Sprintf("n%d.x.", i), "A"); done <- true }()
		}
		synctest.Wait()
		f.up.mu.Lock()
		if n := len(f.up.asked); n < 100 || n > 102 {
			t.Errorf("%d left at once", n)
		}
		f.up.mu.Unlock()
		for range 400 {
			<-done
		}
		if took := time.Since(begin); len(f.up.asked) != 400 || took < 2900*time.Millisecond || took > 3100*time.Millisecond {
			t.Errorf("%d left, in %s", len(f.up.asked), took)
		}
	})
}

// There may be more wildcards than are counted by themselves: none of them is forgotten
// before its time.
func TestBudgetOfManyWildcards(t *testing.T) {
	b, now := newBudget(), time.Unix(1e9, 0)
	spend := func(base string) bool { _, ok := b.spend(base, 1, 10, false, now); return ok }
	for i := range 3 * maxSpenders {
		spend(fmt.Sprint("d", i))
	}
	for range 20 {
		spend("d0")
	}
	if len(b.spenders) > maxSpenders+1 || spend("d0") || spend("another") {
		t.Errorf("%d wildcards", len(b.spenders))
	}
	now = now.Add(2 * budgetTime)
	if !spend("another") || len(b.spenders) > 2 {
		t.Errorf("%d wildcards after their time", len(b.spenders))
	}
}
