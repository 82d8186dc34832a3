package dnsguard

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"appfw/policy"
)

func TestCacheAgesAndKeepsCase(t *testing.T) {
	f := newFixture(t, zone(map[string][]string{"a.x.": {"a.x. 60 IN CNAME b.x.", "b.x. 90 IN A 192.0.2.1"}}), "allow any")
	f.ask("a.x.", "A")
	f.now = f.now.Add(45 * time.Second)
	if got, want := text(f.ask("A.X.", "A")), "NOERROR | A.X. 15 CNAME b.x. | b.x. 45 A 192.0.2.1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if len(f.up.asked) != 1 {
		t.Errorf("asked %d times", len(f.up.asked))
	}
	f.now = f.now.Add(-time.Hour) // a clock set back
	if got, want := text(f.ask("a.x.", "A")), "NOERROR | a.x. 60 CNAME b.x. | b.x. 90 A 192.0.2.1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for i := range 2 * maxCache / (&entry{}).size() {
		k := key{policy.Name(fmt.Sprint("n", i)), 1, false}
		f.cache.get(k, f.Policy(), f.now)
		f.cache.put(k, &entry{rules: f.Policy(), stored: f.now, expires: f.now.Add(time.Minute)})
	}
	for i := range f.cache.shards {
		s := &f.cache.shards[i]
		if n := len(s.entries); n != maxCache/shards/(&entry{}).size() || s.used.Len() != n || s.size > maxCache/shards {
			t.Errorf("%d entries of %d bytes", n, s.size)
		}
	}
}

func TestCoalesces(t *testing.T) {
	const n = 100
	var waiting sync.WaitGroup
	release := make(chan struct{})
	f := newFixture(t, func(m *dns.Msg) error {
		<-release
		m.Answer = []dns.RR{record("a.x. 60 IN A 192.0.2.1")}
		return nil
	}, "allow any")
	for range n {
		waiting.Go(func() {
			if got := text(f.ask("a.x.", "A")); got != "NOERROR | a.x. 60 A 192.0.2.1" {
				t.Error(got)
			}
		})
	}
	close(release)
	waiting.Wait()
	if n := len(f.up.asked); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// More questions than may be asked at a time wait, and none fails. Those for the same
// name take one place.
func TestBusy(t *testing.T) {
	var running sync.WaitGroup
	started, release := make(chan struct{}, 4*maxInFlight), make(chan struct{})
	f := newFixture(t, func(*dns.Msg) error { started <- struct{}{}; <-release; return nil }, "allow any")
	ask := func(name string) {
		running.Go(func() {
			if m := f.ask(name, "A"); m.Rcode != dns.RcodeSuccess {
				t.Error(text(m))
			}
		})
	}
	for i := range 3 * maxInFlight {
		ask(fmt.Sprintf("n%d.x.", i))
		ask("same.x.")
	}
	for range maxInFlight {
		<-started
	}
	select {
	case <-started:
		t.Error("more were asked at a time")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	running.Wait()
	if n := len(f.up.asked); n != 3*maxInFlight+1 {
		t.Errorf("%d were asked", n)
	}
}

func TestUpstreamFailures(t *testing.T) {
	for what, fill := range map[string]func(*dns.Msg) error{
		"error":    func(*dns.Msg) error { return errors.New("broken") },
		"servfail": func(m *dns.Msg) error { m.Rcode = dns.RcodeServerFailure; return nil },
		"refused":  func(m *dns.Msg) error { m.Rcode = dns.RcodeRefused; return nil },
	} {
		f := newFixture(t, fill, "allow any")
		var logged []Question
		f.Log = func(q Question) { logged = append(logged, q) }
		m := f.ask("a.x.", "A")
		if m.Rcode != dns.RcodeServerFailure || ede(m).InfoCode != dns.ExtendedErrorCodeNetworkError {
			t.Errorf("%s: %v", what, m)
		}
		if len(logged) != 1 || !strings.Contains(logged[0].Verdict.Reason(), "resolvers failed") {
			t.Errorf("%s: logged %v", what, logged)
		}
		f.now = f.now.Add(leastTTL - 1)
		if m := f.ask("a.x.", "A"); m.Rcode != dns.RcodeServerFailure || len(f.up.asked) != 1 || len(logged) != 2 {
			t.Errorf("%s: asked again at once: %s", what, text(m))
		}
		f.now = f.now.Add(1)
		if f.ask("a.x.", "A"); len(f.up.asked) != 2 {
			t.Errorf("%s: a failure was kept", what)
		}
	}
}

func BenchmarkAnswerCached(b *testing.B) {
	f := newFixture(b, zone(map[string][]string{"a.x.": {"a.x. 60 IN CNAME b.x.", "b.x. 90 IN A 11.0.2.1", "b.x. 90 IN A 11.0.2.2"}}), "allow *.x", "deny any/udp")
	packed, _ := query("a.x.", "A").Pack()
	b.ReportAllocs()
	for b.Loop() {
		if f.AnswerPacket(context.Background(), packed) == nil {
			b.Fatal("no answer")
		}
	}
}

// What a program has resolved takes no more than the bounds of cache and pins, be the
// names, their aliases and their answers as long as can be.
func TestMemoryIsBounded(t *testing.T) {
	label := strings.Repeat("a", 55)
	long := func(i, j int) string {
		return fmt.Sprintf("%05d%02d%s.%s.%s.%s.", i%100000, j, label[2:], label, label, label)
	}
	for what, fill := range map[string]func(m *dns.Msg, i int){
		"long aliases": func(m *dns.Msg, i int) {
			owner := m.Question[0].Name
			for j := range maxChain {
				m.Answer = append(m.Answer, record(owner+" 60 IN CNAME "+long(i, j)))
				owner = long(i, j)
			}
			m.Answer = append(m.Answer, record(owner+" 60 IN A "+nth(i).String()))
		},
		"small answers": func(m *dns.Msg, i int) {
			m.Answer = []dns.RR{record(m.Question[0].Name + " 60 IN A " + nth(i).String())}
		},
		"nothing": func(m *dns.Msg, i int) { m.Rcode = dns.RcodeServerFailure },
		"long texts": func(m *dns.Msg, i int) {
			for range 10 {
				m.Answer = append(m.Answer, record(m.Question[0].Name+" 60 IN TXT "+strings.Repeat(`"`+strings.Repeat("x", 200)+`" `, 20)))
			}
		},
		"many addresses": func(m *dns.Msg, i int) {
			for j := range 200 {
				m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: nth(200*i + j).AsSlice()})
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			before, n := heap(), 0
			f := newFixture(t, func(m *dns.Msg) error { n++; fill(m, n); return nil }, "default allow")
			names := map[string]int{"small answers": 100_000, "nothing": 100_000, "long aliases": 8000}[what]
			if names == 0 {
				names = 2000
			}
			for i := range names {
				q := new(dns.Msg).SetQuestion(fmt.Sprintf("%d.%s", i, long(i, 99)[:60]+".x."), dns.TypeA).SetEdns0(4096, false)
				if what == "long texts" {
					q.Question[0].Qtype = dns.TypeTXT
				}
				packet, _ := q.Pack()
				for range 2 { // it is ready to be sent then, as well
					f.AnswerPacket(context.Background(), packet)
				}
				f.up.asked = nil
				f.now = f.now.Add(time.Millisecond / 10)
			}
			took := heap() - before
			cached := 0
			for i := range f.cache.shards {
				cached += f.cache.shards[i].size
			}
			t.Logf("%d names take %.1f MiB; the cache counts %.1f, the pins %.1f", names, float64(took)/(1<<20), float64(cached)/(1<<20), float64(f.Pins.size)/(1<<20))
			if took > (maxCache+maxPins)*5/4 || took > (cached+f.Pins.size)*5/4 {
				t.Errorf("%d bytes", took)
			}
			runtime.KeepAlive(f)
		})
	}
}
