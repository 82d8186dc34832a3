package dnsguard

import (
	"context"
	"errors"
	"fmt"
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
