package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// asked is how many questions left for names at and below a base.
func (w *world) asked(base string) (n int) {
	for _, q := range w.Zone().Queries() {
		if name, _, _ := strings.Cut(q, " "); dns.IsSubDomain(dns.Fqdn(base), name) {
			n++
		}
	}
	return n
}

// What a program asks for again and again leaves no more often than new names do,
// wherever the wildcard is; and a name that a rule has in full once a second.
func TestNamesAsAChannel(t *testing.T) {
	const seconds = 4
	attempts := []struct {
		base, record string // of what is at or below the base
		flags        []string
		ask          string // of dig, names and types; %[1]d is one of 16
		most         int    // questions that may leave in that time; where a resolver fails it is asked in two ways, twice
	}{
		{"ttl0.example", "*.ttl0.example. 0 IN A 11.22.0.10", []string{"--allow", "*.ttl0.example"}, "n%[1]d.ttl0.example", 10},
		{"tree.example", "*.tree.example. 0 IN A 11.22.0.10", []string{"--allow", ".tree.example"}, "tree.example n%[1]d.tree.example", 10},
		{"none.example", "x.none.example. 0 IN A 11.22.0.10", []string{"--allow", "*.none.example"}, "n%[1]d.none.example", 10},
		{"nodata.example", "*.nodata.example. 0 IN TXT x", []string{"--allow", "*.nodata.example"}, "n%[1]d.nodata.example", 10},
		{"fail.example", "", []string{"--allow", "*.fail.example"}, "n1.fail.example n2.fail.example", 4 * 10},
		{"types.example", "*.types.example. 0 IN A 11.22.0.10", []string{"--allow", "*.types.example"}, "n1.types.example A n1.types.example AAAA n1.types.example MX n1.types.example TXT n1.types.example SRV n1.types.example CAA", 10},
		{"case.example", "*.case.example. 0 IN A 11.22.0.10", []string{"--allow", "*.case.example"}, "N%[1]d.case.example n%[1]d.CASE.example n%[1]d.case.EXAMPLE", 10},
		{"corp", "*.corp. 0 IN A 11.22.0.10", []string{"--allow", "*.corp"}, "n%[1]d.dom%[1]d.corp", 10},
		{"github.io", "*.github.io. 0 IN A 11.22.0.10", []string{"--allow-suffix", "*.github.io"}, "n.user%[1]d.github.io", 10},
		{"alias.example", "*.end.alias.example. 0 IN A 11.22.0.10", []string{"--allow", "*.alias.example"}, "n%[1]d.alias.example", 10},
		{"list.example", "*.list.example. 0 IN A 11.22.0.10", []string{"--allow", "@LIST"}, "n%[1]d.list.example", 10},
		{"full.example", "full.example. 0 IN A 11.22.0.10", []string{"--allow", "full.example"}, "full.example A full.example AAAA", 2 * (seconds + 1)},
	}
	both(t, func(w *world) {
		list := w.write("list", "*.list.example\n")
		flags, script := []string{"--dns-budget", "10", "--quiet"}, ""
		for i, a := range attempts {
			for _, f := range a.flags {
				flags = append(flags, strings.Replace(f, "@LIST", "@"+list, 1))
			}
			if a.record != "" {
				w.Zone().Set(a.record)
			}
			var lines strings.Builder
			for i := range 20000 {
				fmt.Fprintln(&lines, "+short +tries=1 +time=5", strings.ReplaceAll(a.ask, "%[1]d", fmt.Sprint(i%16)))
			}
			script += fmt.Sprintf("timeout %d dig -f %s >/dev/null &\n", seconds, w.write(fmt.Sprint("names", i), lines.String()))
		}
		for _, name := range []string{"n1.fail.example", "n2.fail.example"} {
			w.Zone().Handle(name, func(rw dns.ResponseWriter, q *dns.Msg) {
				_ = rw.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
			})
		}
		for i := range 16 { // who asks follows the alias
			w.Zone().Handle(fmt.Sprintf("n%d.alias.example", i), func(rw dns.ResponseWriter, q *dns.Msg) {
				m, name := new(dns.Msg).SetReply(q), q.Question[0].Name
				alias, _ := dns.NewRR(name + " 0 IN CNAME " + strings.Replace(name, ".", ".end.", 1))
				m.Answer = []dns.RR{alias}
				_ = rw.WriteMsg(m)
			})
		}
		w.ok(w.run(append(flags, "--", "sh", "-c", script+"wait")...))
		for _, a := range attempts {
			n := w.asked(a.base)
			if n > a.most || n < 2 {
				t.Errorf("%s: %d questions left", a.base, n)
			}
		}
		// Without the flag, 16 names with a TTL of 0 are asked for once a second.
		lines := ""
		for i := range 20000 {
			lines += fmt.Sprintf("+short +tries=1 n%d.more.example\n", i%16)
		}
		w.Zone().Set("*.more.example. 0 IN A 11.22.0.10")
		w.run("--allow", "*.more.example", "--", "timeout", fmt.Sprint(seconds), "dig", "-f", w.write("more", lines))
		if n := w.asked("more.example"); n < 16 || n > 16*(seconds+1) {
			t.Errorf("%d questions left for 16 names", n)
		}
	})
}

// Resolvers that are old, slow, or say much, serve as they serve others.
func TestOddResolvers(t *testing.T) {
	both(t, func(w *world) {
		answer := func(rw dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg).SetReply(q)
			if q.Question[0].Qtype == dns.TypeA {
				rr, _ := dns.NewRR(q.Question[0].Name + " 60 IN A 11.22.0.10")
				m.Answer = []dns.RR{rr}
			}
			m.AuthenticatedData = true
			_ = rw.WriteMsg(m)
		}
		without := func(else_ func(dns.ResponseWriter, *dns.Msg)) dns.HandlerFunc {
			return func(rw dns.ResponseWriter, q *dns.Msg) {
				if q.IsEdns0() == nil {
					answer(rw, q)
				} else {
					else_(rw, q)
				}
			}
		}
		w.Zone().Handle("drops.example", without(func(dns.ResponseWriter, *dns.Msg) {}))
		w.Zone().Handle("servfail.example", without(func(rw dns.ResponseWriter, q *dns.Msg) {
			_ = rw.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
		}))
		w.Zone().Handle("refused.example", without(func(rw dns.ResponseWriter, q *dns.Msg) { _ = rw.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeRefused)) }))
		w.Zone().Handle("slow.example", func(rw dns.ResponseWriter, q *dns.Msg) { time.Sleep(6 * time.Second); answer(rw, q) })
		w.Zone().Handle("signed.example", answer)
		for i := range 16 {
			w.Zone().Set(fmt.Sprintf("c%d.example. 60 IN CNAME c%d.example.", i, i+1))
		}
		w.Zone().Set("c16.example. 60 IN A 11.22.0.10", "foo-.-bar.example. 60 IN A 11.22.0.10", "_a_b_.example. 60 IN A 11.22.0.10")
		for i := range 300 {
			w.Zone().Set(fmt.Sprintf("many.example. 60 IN A 11.22.%d.%d", 1+i/200, i%200))
		}
		for _, name := range []string{"drops.example", "servfail.example", "refused.example", "c0.example", "slow.example"} {
			r := w.run("--allow", "*.example", "--", "getent", "ahostsv4", name)
			if out := w.ok(r); !strings.HasPrefix(out, "11.22.0.10 ") || name != "slow.example" && r.took > 3*time.Second {
				t.Errorf("%s: %q after %v", name, out, r.took)
			}
		}
		for _, name := range []string{"foo-.-bar.example", "_a_b_.example"} {
			if out := w.ok(w.run("--allow", name, "--", "dig", "+short", name)); out != "11.22.0.10\n" {
				t.Errorf("%s: %q", name, out)
			}
		}
		if out := w.ok(w.run("--allow", "*.example", "--", "sh", "-c", "getent ahostsv4 many.example | grep -c STREAM")); out != "300\n" {
			t.Errorf("%s of 300 addresses", out)
		}

		signed := func() bool {
			return strings.Contains(w.ok(w.run("--allow", "*.example", "--", "dig", "+adflag", "signed.example")), " ad")
		}
		if signed() {
			t.Error("a resolver that the host does not trust was believed")
		}
		w.SetFile("/etc/resolv.conf", fmt.Sprintf("nameserver %s\noptions edns0 trust-ad\n", w.Resolver4()))
		if !signed() {
			t.Error("a resolver that the host trusts was not believed")
		}
	})
}

// More names than there are addresses that stand for them can be asked for beyond a
// proxy, and the last one works.
func TestSyntheticAddressesSuffice(t *testing.T) {
	both(t, func(w *world) {
		p := w.proxied(viaSocks)
		p.zone.Set("last.example. 300 A 11.22.0.10")
		r := w.run("--upstream", viaSocks, "--synthetic", "10.64.0.0/24", "--allow", "any", "--", "sh", "-c",
			"dig +short $(seq -f 'n%.0f.example' 1 600) | wc -l; dig +short AAAA last.example | grep -c ^fd61:; curl -sS http://last.example")
		out := w.ok(r)
		if n := 0; !strings.HasSuffix(out, "\n1\nhello from last.example\n") {
			t.Error(out)
		} else if _, err := fmt.Sscan(out, &n); err != nil || n < 240 || n > 255 {
			t.Error(out, err)
		}
	})
}

// Thousands of questions at once wait for their turn, and none fails.
func TestManyQuestionsAtOnce(t *testing.T) {
	both(t, func(w *world) {
		for i := range 1500 {
			w.Zone().Handle(fmt.Sprintf("n%d.example", i), func(rw dns.ResponseWriter, q *dns.Msg) {
				time.Sleep(time.Second / 2)
				m := new(dns.Msg).SetReply(q)
				rr, _ := dns.NewRR(q.Question[0].Name + " 60 IN A 11.22.0.10")
				m.Answer = []dns.RR{rr}
				_ = rw.WriteMsg(m)
			})
		}
		const script = `
import socket, struct, select, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
s.connect(("192.0.0.1", 53))
for i in range(1500):
    name = b"n%d" % i
    s.send(struct.pack(">6H", i, 256, 1, 0, 0, 0) + bytes([len(name)]) + name + b"\x07example\0\0\1\0\1")
    if i % 100 == 99: time.sleep(0.01)
good, all, end = 0, 0, time.time() + 20
while all < 1500 and select.select([s], [], [], max(0, end - time.time()))[0]:
    b = s.recv(512)
    all += 1
    good += b[3] & 15 == 0 and b[7] == 1
print(all, good)`
		r := w.run("--default", "allow", "--", "python3", "-c", script)
		if out := w.ok(r); out != "1500 1500\n" {
			t.Errorf("answered, and well: %s of 1500; stderr: %s", out, r.stderr)
		}
	})
}
