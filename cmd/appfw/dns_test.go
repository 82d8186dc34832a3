package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestResolver(t *testing.T) {
	both(t, func(w *world) {
		w.Zone().Set(
			"alias.example.com. 300 IN CNAME target.elsewhere.example.",
			"target.elsewhere.example. 300 IN A 11.22.0.10",
			`example.com. 300 IN TXT "v=spf1 -all"`, "example.com. 300 IN MX 10 mail.example.com.",
			"_imap._tcp.example.com. 300 IN SRV 0 0 143 mail.example.com.",
			"example.com. 300 IN CAA 0 issue \"ca.example\"",
			"example.com. 300 IN HTTPS 1 . alpn=h2 ipv4hint=11.22.0.10 ech=AEX+DQBBpQAgACB/RU5hAC5mXe3uOZtNY58Bc8UU1cd4QBxQzqirMlWZeQAEAAEAAQASY2xvdWRmbGFyZS1lY2guY29tAAA=",
		)
		allow := []string{"--allow", "example.com", "--allow", "*.example.com", "--"}
		dig := func(args ...string) string {
			t.Helper()
			return w.ok(w.run(append(append(allow, "dig", "+tries=1", "+time=3"), args...)...))
		}
		// Of any server, by UDP and TCP, from the address that was asked (dig checks that).
		for _, server := range []string{"@192.0.0.1", "@8.8.8.8", "@2001:4860:4860::8888", "@127.0.0.53", "@::1"} {
			for _, transport := range []string{"+notcp", "+tcp"} {
				if out := dig(server, transport, "+short", "example.com"); out != "11.22.0.10\n" {
					t.Errorf("dig %s %s: %q", server, transport, out)
				}
			}
		}
		wants(t, dig("example.com", "TXT"), `"v=spf1 -all"`)
		wants(t, dig("example.com", "MX"), "10 mail.example.com.")
		wants(t, dig("_imap._tcp.example.com", "SRV"), "0 0 143 mail.example.com.")
		wants(t, dig("example.com", "CAA"), "ca.example")
		wants(t, dig("alias.example.com"), "alias.example.com.", "CNAME\ttarget.elsewhere.example.", "11.22.0.10")
		wants(t, dig("EXAMPLE.com"), "EXAMPLE.com.", "11.22.0.10")
		https := dig("example.com", "HTTPS")
		wants(t, https, "ipv4hint=11.22.0.10")
		if strings.Contains(https, "ech=") {
			t.Errorf("the key of Encrypted ClientHello passed: %s", https)
		}
		wants(t, dig("missing.example.com"), "status: NXDOMAIN", "SOA")

		denied := dig("other.example")
		wants(t, denied, "status: NXDOMAIN", "SOA", "EDE: 18 (Prohibited): (appfw: no rule allows it)")
		wants(t, dig("www.google.com.", "AAAA"), "status: NXDOMAIN")
		wants(t, dig("example.com", "ANY"), "status: NOTIMP")
		wants(t, dig("example.com", "CH", "TXT"), "status: NOTIMP")
		wants(t, dig("-x", "11.22.0.99"), "status: NXDOMAIN")
		wants(t, w.ok(w.run(append(allow, "sh", "-c", "dig +short example.com; dig +short -x 11.22.0.10")...)), "example.com.")
		for _, q := range w.Zone().Queries() {
			if !strings.Contains(q, "example.com.") && !strings.Contains(q, "target.elsewhere.") {
				t.Errorf("asked upstream: %s", q)
			}
		}
	})
}

// An answer that does not fit into UDP comes by TCP, on both sides.
func TestTruncation(t *testing.T) {
	both(t, func(w *world) {
		for i := range 100 {
			w.Zone().Set(fmt.Sprintf("many.example.com. 300 IN A 11.22.1.%d", i))
		}
		out := w.ok(w.run("--allow", "*.example.com", "--", "dig", "+noall", "+answer", "+comments", "+bufsize=1232", "many.example.com"))
		if n := strings.Count(out, "\tA\t"); n != 100 {
			t.Errorf("%d addresses: %s", n, out)
		}
	})
}

// Identical questions are asked once, and answered from the cache.
func TestCache(t *testing.T) {
	w := newWorld(t)
	w.ok(w.run("--allow", "example.com", "--", "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do dig +short example.com & done; wait; dig +short example.com"))
	asked := 0
	for _, q := range w.Zone().Queries() {
		if q == "example.com. A" {
			asked++
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

func TestUpstreamFails(t *testing.T) {
	w := newWorld(t)
	w.Zone().Handle("broken.example", func(rw dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetRcode(q, dns.RcodeServerFailure)
		_ = rw.WriteMsg(m)
	})
	w.Zone().Handle("silent.example", func(dns.ResponseWriter, *dns.Msg) {})
	for name, why := range map[string]string{"broken.example": "SERVFAIL", "silent.example": "no answer in time"} {
		r := w.run("--allow", "*.example", "--", "dig", "+tries=1", "+time=9", name, name)
		wants(t, w.ok(r), "status: SERVFAIL", "EDE: 23 (Network Error): (appfw: the resolvers failed)")
		if !strings.HasPrefix(r.stderr, "appfw: cannot resolve "+name+": the resolvers failed: ") || !strings.HasSuffix(r.stderr, why+"\n") || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("stderr: %q", r.stderr)
		}
	}
}

// Garbage neither stops the resolver nor makes it silent to others.
func TestResolverGarbage(t *testing.T) {
	w := newWorld(t)
	out := w.ok(w.run("--allow", "example.com", "--quiet", "--", "sh", "-c",
		`for i in 1 2 3 4 5 6 7 8 9; do head -c 500 /dev/urandom | ncat -u --send-only 192.0.0.1 53; head -c 70000 /dev/urandom | ncat --send-only 192.0.0.1 53; done
		printf '\0\0\1\0\0\1\0\0\0\0\0\0\300\014\0\1\0\1' | ncat -u --send-only 192.0.0.1 53
		dig +short '\000evil.example.com' 'a b.example.com' 'a\.example.com' 127.1 0x7f.1
		dig +short example.com`))
	if out != "11.22.0.10\n" {
		t.Errorf("answers: %q", out)
	}
}
