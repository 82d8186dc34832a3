//go:build !race

// Floods by one goroutine, and what memory they take, about which the race detector has
// nothing to say.

package dnsguard

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"appfw/policy"
)

// What a program floods the pins with takes no more than their bound, and what flows
// go to stays.
func TestPinsAreBoundedInBytes(t *testing.T) {
	label := strings.Repeat("a", 61)
	long := func(i, j int) policy.Name {
		return policy.Name(fmt.Sprintf("%07d%02d%s.%s.%s.%s", i, j, label[9:], label, label, label))
	}
	for what, flood := range map[string]struct {
		names int
		give  func(p *Pins, i int, now time.Time)
	}{
		"names with long aliases": {262_000, func(p *Pins, i int, now time.Time) {
			var aliases []policy.Name
			for j := range maxChain {
				aliases = append(aliases, long(i, j))
			}
			p.Give(long(i, 99), aliases, []netip.Addr{nth(i)}, now)
		}},
		"short names": {300_000, func(p *Pins, i int, now time.Time) {
			p.Give(policy.Name(fmt.Sprintf("%d.x", i)), nil, []netip.Addr{nth(i)}, now)
		}},
		"names with many addresses": {700, func(p *Pins, i int, now time.Time) {
			var addrs []netip.Addr
			for j := range maxAddrs {
				addrs = append(addrs, nth(i*maxAddrs+j))
			}
			p.Give(policy.Name(fmt.Sprintf("%d.x", i)), nil, addrs, now)
		}},
		"addresses with many names": {300_000, func(p *Pins, i int, now time.Time) {
			p.Give(policy.Name(fmt.Sprintf("%d.x", i)), nil, []netip.Addr{nth(i % 300)}, now)
		}},
	} {
		t.Run(what, func(t *testing.T) {
			now := time.Unix(1e9, 0)
			before := heap()
			living := 0
			p := &Pins{Living: func(yield func(netip.Addr, policy.Name) bool) {
				living++
				for i := range 1000 {
					yield(nth(i%300), policy.Name(fmt.Sprintf("living%d.x", i)))
				}
			}}
			for i := range 1000 {
				p.Give(policy.Name(fmt.Sprintf("living%d.x", i)), nil, []netip.Addr{nth(i % 300)}, now)
			}
			for i := range flood.names {
				flood.give(p, i, now)
				now = now.Add(time.Millisecond)
			}
			took := heap() - before
			t.Logf("%d names take %.1f MiB, and count as %.1f; it was asked %d times what lives", flood.names, float64(took)/(1<<20), float64(p.size)/(1<<20), living)
			if took > maxPins*5/4 || took < maxPins/3 {
				t.Errorf("%d bytes", took)
			}
			for i := range 1000 {
				if !has(p, nth(i%300), policy.Name(fmt.Sprintf("living%d.x", i)), now) {
					t.Fatalf("the pin of living%d.x is gone", i)
				}
			}
			if living > 200 {
				t.Errorf("it was asked %d times what lives", living)
			}
			p.check(t)
		})
	}
}

// heap is how many bytes live.
func heap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
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

// 150,000 names at once take no more than the bound; who asks then has an address soon,
// and what flows go to has stayed.
func TestSyntheticFlood(t *testing.T) {
	now := time.Unix(1e9, 0)
	before := heap()
	s := &Synthetic{Now: func() time.Time { return now }}
	used, _, _ := s.For("used.example")
	if name, _ := s.Name(used); name != "used.example" {
		t.Fatal(name)
	}
	refused := 0
	for i := range 150_000 {
		if _, _, err := s.For(policy.Name(fmt.Sprintf("n%d.example", i))); err != nil {
			refused++
		}
		now = now.Add(50 * time.Microsecond)
	}
	took := heap() - before
	t.Logf("%d names take %.1f MiB, and count as %.1f; %d were refused", len(s.names), float64(took)/(1<<20), float64(s.size)/(1<<20), refused)
	if took > maxSynthetic*5/4 || refused == 0 || len(s.names) < 30_000 {
		t.Errorf("%d bytes, %d refused", took, refused)
	}
	now = now.Add(askedFor)
	for i := range 150_000 { // as fast as they are asked for, but not at once
		if _, _, err := s.For(policy.Name(fmt.Sprintf("m%d.example", i))); err != nil {
			t.Fatal(i, err)
		}
		now = now.Add(time.Millisecond)
	}
	if name, _ := s.Name(used); name != "used.example" {
		t.Error("what a program went to was taken back")
	}
	runtime.KeepAlive(s)
}
