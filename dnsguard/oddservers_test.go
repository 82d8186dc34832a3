package dnsguard

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"appfw/policy"
)

// A resolver that takes 6 seconds is waited for, also by who asks again meanwhile.
func TestSlowResolver(t *testing.T) {
	t.Parallel()
	r := &Resolvers{Servers: servers(t, pair{func(w dns.ResponseWriter, q *dns.Msg) {
		time.Sleep(6 * time.Second)
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{record(q.Question[0].Name + " 60 IN A 11.0.0.1")}
		_ = w.WriteMsg(m)
	}, silent})}
	f := newFixture(t, nil, "allow any")
	f.Guard.Upstream = r
	var asking sync.WaitGroup
	for i := range 2 {
		asking.Go(func() {
			time.Sleep(time.Duration(i) * 5 * time.Second)
			if got := text(f.ask("a.x.", "A")); got != "NOERROR | a.x. 60 A 11.0.0.1" {
				t.Error(got)
			}
		})
	}
	asking.Wait()
}

// What a resolver says is authentic is told, if the host trusts it, to who understands
// that, and if nothing of it was taken out.
func TestAuthentic(t *testing.T) {
	var mu sync.Mutex
	var asked []bool // whether it was asked to say so
	at := serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
		mu.Lock()
		asked = append(asked, q.AuthenticatedData)
		mu.Unlock()
		m := new(dns.Msg).SetReply(q)
		name := q.Question[0].Name
		m.AuthenticatedData = !strings.HasPrefix(name, "insecure.")
		switch {
		case strings.HasPrefix(name, "alias."):
			m.Answer = []dns.RR{record(name + " 60 IN CNAME insecure.x.")}
		default:
			m.Answer = []dns.RR{record(name + " 60 IN A 11.0.0.1")}
		}
		if strings.HasPrefix(name, "lan.") {
			m.Answer = append(m.Answer, record(name+" 60 IN A 10.0.0.1"))
		}
		_ = w.WriteMsg(m)
	}, silent)
	for _, c := range []struct {
		name           string
		host, trust    bool // it is the host's, and trusted
		ad, do, wanted bool
	}{
		{"a.x.", true, true, true, false, true},
		{"a.x.", true, true, false, true, true},
		{"a.x.", true, true, false, false, false},
		{"a.x.", true, false, true, true, false},
		{"a.x.", false, true, true, true, false},
		{"insecure.x.", true, true, true, true, false},
		{"alias.x.", true, true, true, true, false},
		{"lan.x.", true, true, true, true, false},
	} {
		r := &Resolvers{}
		if c.host {
			r.Host = func() ResolvConf { return ResolvConf{Servers: []netip.AddrPort{at}, TrustAD: c.trust} }
		} else {
			r.Servers = []*Server{plainServer(at)}
		}
		f := newFixture(t, nil, "allow *.x")
		f.Guard.Upstream = r
		mu.Lock()
		asked = nil
		mu.Unlock()
		q := new(dns.Msg).SetQuestion(c.name, dns.TypeA).SetEdns0(1232, c.do)
		q.AuthenticatedData = c.ad
		packet, _ := q.Pack()
		for i, answer := range []func() []byte{
			func() []byte { return f.AnswerPacket(context.Background(), packet) },
			func() []byte { return f.AnswerPacket(context.Background(), packet) },
			func() []byte {
				answer, ok := f.ready(context.Background(), packet, nil)
				if !ok {
					t.Errorf("%+v: not ready", c)
				}
				return answer
			},
			func() []byte { // what is ready is so for all
				other := slices.Clone(packet)
				other[3] ^= flagAD
				_ = f.AnswerPacket(context.Background(), other)
				return f.AnswerPacket(context.Background(), packet)
			},
		} {
			m := new(dns.Msg)
			if err := m.Unpack(answer()); err != nil || len(m.Answer) == 0 || m.AuthenticatedData != c.wanted {
				t.Errorf("%+v: answer %d: %v %v", c, i, m, err)
			}
		}
		mu.Lock()
		if slices.Contains(asked, !(c.host && c.trust)) {
			t.Errorf("%+v: asked %v", c, asked)
		}
		mu.Unlock()
	}
}

// Names that are odd, and answers that are large, are for the app as for others.
func TestOddNamesAndLargeAnswers(t *testing.T) {
	at := serve(t, answering("", func(m *dns.Msg) { m.Answer, m.Truncated = nil, true }), func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		for i := range 300 {
			m.Answer = append(m.Answer, record(q.Question[0].Name+" 60 IN A "+nth(i).String()))
		}
		_ = w.WriteMsg(m)
	})
	f := newFixture(t, nil, "allow *.example", "allow -exact-.example.net")
	f.Guard.Upstream = &Resolvers{Servers: []*Server{plainServer(at)}}
	for _, name := range []string{"foo-.example.", "-foo.example.", "a_b.example.", "_a_._tcp.example.", "-.example.", "x.--.example.", "-exact-.example.net."} {
		m := f.ask(name, "A")
		if len(m.Answer) != 300 {
			t.Errorf("%s: %d addresses", name, len(m.Answer))
		}
		for i := range 300 {
			if !has(f.Pins, nth(i), policy.Name(strings.TrimSuffix(name, ".")), f.now) {
				t.Fatalf("%s: %s is not pinned", name, nth(i))
			}
		}
	}
}
