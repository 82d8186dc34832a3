package dnsguard

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func FuzzAnswerPacket(f *testing.F) {
	for _, q := range []*dns.Msg{query("a.ok.x.", "A"), query("evil.x.", "HTTPS"), query("4.3.2.1.in-addr.arpa.", "PTR"), query(".", "NS")} {
		packed, _ := q.Pack()
		f.Add(packed)
		q.Question = append(q.Question, q.Question[0])
		packed, _ = q.Pack()
		f.Add(packed)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		g := newFixture(t, func(m *dns.Msg) error {
			for range 100 {
				m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: []byte{11, 0, 2, 1}})
			}
			return nil
		}, "allow *.ok.x")
		answer := g.AnswerPacket(context.Background(), packet)
		if len(packet) < 12 || packet[2]&0x80 != 0 {
			if answer != nil {
				t.Fatalf("answered %x", packet)
			}
			return
		}
		m, q := new(dns.Msg), new(dns.Msg)
		if err := m.Unpack(answer); err != nil {
			t.Fatalf("%x: %v", answer, err)
		}
		if !m.Response || !bytes.Equal(answer[:2], packet[:2]) || m.Opcode != int(packet[2]>>3&15) {
			t.Fatalf("not a response to it: %v", m)
		}
		limit := 512
		if q.Unpack(packet) == nil {
			if opt := q.IsEdns0(); opt != nil {
				limit = min(max(limit, int(opt.UDPSize())), 4096)
			}
			if len(q.Question) == 1 && (len(m.Question) != 1 || m.Question[0] != q.Question[0]) {
				t.Fatalf("%v answered as %v", q.Question, m.Question)
			}
		}
		if len(answer) > limit {
			t.Fatalf("%d bytes, %d fit", len(answer), limit)
		}
		for _, asked := range g.up.asked {
			if !strings.HasSuffix(asked.Question[0].Name, ".ok.x.") || asked.Question[0].Name != strings.ToLower(asked.Question[0].Name) {
				t.Fatalf("asked upstream: %v", asked.Question)
			}
		}
	})
}

// FuzzTake: whatever an upstream sends, an entry is the chain from the name on
// and nothing else, and it is the one that a plain walk finds.
func FuzzTake(f *testing.F) {
	for _, lines := range [][]string{
		{"a.x. 60 IN A 192.0.2.1", "evil.y. 60 IN A 192.0.2.2"},
		{"c.x. 60 IN A 192.0.2.1", "b.x. 60 IN CNAME c.x.", "a.x. 60 IN CNAME B.x."},
		{"a.x. 60 IN CNAME b.x.", "b.x. 60 IN CNAME a.x."},
		{"a.x. 60 IN HTTPS 1 . ech=AAAA ipv4hint=192.0.2.7"},
		{"a.x. 60 IN CNAME b.y.", "y. 60 IN SOA n. m. 1 2 3 4 5", "z. 60 IN SOA n. m. 1 2 3 4 5"},
	} {
		m := query("a.x.", "A")
		for _, l := range lines {
			if rr := record(l); rr.Header().Rrtype == dns.TypeSOA {
				m.Ns = append(m.Ns, rr)
			} else {
				m.Answer = append(m.Answer, rr)
			}
		}
		m.Compress = true
		packed, _ := m.Pack()
		for _, qtype := range []uint16{dns.TypeA, dns.TypeHTTPS, dns.TypeCNAME, dns.TypeRRSIG} {
			f.Add(packed, qtype)
		}
	}
	for _, rrtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS} { // records without data
		m := query("a.x.", dns.Type(rrtype).String())
		m.Answer = []dns.RR{&dns.RFC3597{Hdr: dns.RR_Header{Name: "a.x.", Rrtype: rrtype, Class: dns.ClassINET, Ttl: 60}}}
		packed, _ := m.Pack()
		f.Add(packed, rrtype)
	}
	rules := newFixture(f, nil, "allow any", "deny denied.y").Policy()
	f.Fuzz(func(t *testing.T, packet []byte, qtype uint16) {
		m := new(dns.Msg)
		if m.Unpack(packet) != nil {
			return
		}
		var e entry
		seen := map[string]bool{}
		next := e.take(m, "a.x.", qtype, seen)
		ttl := e.ttl()
		e.rules = rules
		e.filter("a.x")
		chain := map[string]bool{"a.x.": true}
		for range len(m.Answer) {
			for _, rr := range m.Answer {
				if c, ok := rr.(*dns.CNAME); ok && qtype != dns.TypeCNAME && chain[dns.CanonicalName(c.Hdr.Name)] && c.Hdr.Class == dns.ClassINET {
					chain[dns.CanonicalName(c.Target)] = true
				}
			}
		}
		if next != "" && (!chain[next] || seen[next]) || len(seen) > maxChain+1+1 {
			t.Fatalf("next %q, seen %v", next, seen)
		}
		for _, rr := range e.records {
			h := rr.Header()
			if !chain[dns.CanonicalName(h.Name)] || h.Class != dns.ClassINET ||
				h.Rrtype != qtype && h.Rrtype != dns.TypeCNAME && h.Rrtype != dns.TypeRRSIG {
				t.Fatalf("out of the chain: %v", rr)
			}
			if s, ok := rr.(*dns.HTTPS); ok && strings.Contains(s.String(), "ech=") {
				t.Fatalf("ECH: %v", rr)
			}
		}
		for _, rr := range e.ns {
			if soa, ok := rr.(*dns.SOA); ok {
				in := false
				for owner := range chain {
					in = in || dns.IsSubDomain(soa.Hdr.Name, owner)
				}
				if !in {
					t.Fatalf("another zone's: %v", rr)
				}
			}
		}
		if ttl < 0 || ttl > maxTTL || e.absent && ttl > maxNegativeTTL {
			t.Fatalf("kept for %v", ttl)
		}
	})
}

func FuzzReadResolvConf(f *testing.F) {
	f.Add("nameserver 192.0.2.1\nsearch a b\noptions x\n")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ReadResolvConf(strings.NewReader(s))
		if err != nil {
			return
		}
		if len(c.Servers) == 0 {
			t.Fatal("no server")
		}
		again, err := ReadResolvConf(strings.NewReader(strings.Join(c.Lines, "\n")))
		if err != nil || strings.Join(again.Lines, "\n") != strings.Join(c.Lines, "\n") {
			t.Fatalf("%q became %q", c.Lines, again.Lines)
		}
	})
}

func FuzzReadHosts(f *testing.F) {
	f.Add("192.0.2.1 a.example b # c\n::1%x d")
	f.Fuzz(func(t *testing.T, s string) {
		hosts, _ := ReadHosts(strings.NewReader(s))
		for name, addrs := range hosts {
			for _, a := range addrs {
				if !a.IsValid() || a != netip.MustParseAddr(a.String()) || a.Zone() != "" || name == "" {
					t.Fatalf("%q: %v", name, a)
				}
			}
		}
	})
}
