package main

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"appfw/testdata/internet"
)

// The first question of a run is answered as all others are, however soon it
// comes and whatever else the machine does.
func TestFirstQuestion(t *testing.T) {
	w := newWorld(t)
	w.user = w.Ordinary()
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for range 25 {
				c := w.Command(t.Context(), w.user, program, "run", "--allow", "example.com", "--", "dig", "+tries=1", "+time=3", "+short", "example.com")
				if out, err := c.CombinedOutput(); err != nil || string(out) != "11.22.0.10\n" {
					t.Errorf("%v: %s", err, out)
				}
			}
		})
	}
	running.Wait()
}

// A denied name fails at once, and programs say what they say of a name that is
// not there; of one whose addresses are denied, that it has none.
func TestDeniedLookups(t *testing.T) {
	both(t, func(w *world) {
		w.Zone().Set("private.example. A 10.1.2.3")
		for _, c := range []struct {
			name    string
			code    int
			says    string
			command []string
		}{
			{"other.example", 2, "", []string{"getent", "ahosts", "other.example"}},
			{"other.example", 2, "", []string{"getent", "ahostsv6", "other.example"}},
			{"other.example", 6, "Could not resolve host", []string{"curl", "-sS", "https://other.example"}},
			{"other.example", 4, "Name or service not known", []string{"wget", "http://other.example"}},
			{"private.example", 4, "No address associated with hostname", []string{"wget", "http://private.example"}},
			{"other.example", 1, "bad address", []string{"busybox", "wget", "http://other.example"}},
			{"private.example", 1, "bad address", []string{"busybox", "wget", "http://private.example"}},
			{"other.example", 1, "ENOTFOUND", []string{"node", "-e", `fetch("http://other.example").catch(e => { console.error(e.cause); process.exit(1) })`}},
			{"other.example", 1, "no such host", probing("get", "http://other.example")},
			{"other.example", 2, "Name or service not known", []string{"ping", "-c1", "other.example"}},
		} {
			r := w.run(append([]string{"--allow", "private.example", "--"}, c.command...)...)
			w.denied(r, "denied dns "+c.name)
			if r.code != c.code || !strings.Contains(r.stderr+r.stdout, c.says) {
				t.Errorf("%v: exit code %d, stdout: %s, stderr: %s", c.command, r.code, r.stdout, r.stderr)
			}
		}
	})
}

// Lines of a policy file about names do what the flags do.
func TestNameLines(t *testing.T) {
	both(t, func(w *world) {
		w.Zone().Set("*.budget.example. A 11.22.0.10", "*.plenty.example. A 11.22.0.10", "some.co.uk. A 11.22.0.10")
		w.write("etc/names", "11.22.0.10 nas files.example # ours\n2a0d:aaaa::10 nas\n11.22.0.20 www.example.com\n")
		policy := w.write("etc/a.policy", `
			hosts names
			allow nas
			allow *.example.com   # of which the file has one
			allow *.budget.example
			allow exact.budget.example
			allow *.plenty.example
			allow-suffix *.co.uk
			dns-budget 3`)
		r := w.run("--policy", policy, "--", "sh", "-c", `
			getent ahosts nas | grep -o "^.*STREAM" | tr -s " "; dig +short www.example.com; dig +short files.example; dig +short some.co.uk
			for i in 1 2 3 4 3 2 1; do echo "$i $(dig +short $i.budget.example)"; done; dig +short exact.budget.example; dig +short 1.plenty.example; dig 9.budget.example | grep -o NXDOMAIN`)
		want := []string{"11.22.0.10 STREAM", "2a0d:aaaa::10 STREAM", "\n11.22.0.20\n11.22.0.10\n1 11.22.0.10\n2 11.22.0.10\n3 11.22.0.10\n4 \n3 11.22.0.10\n2 11.22.0.10\n1 11.22.0.10\n11.22.0.10\n11.22.0.10\nNXDOMAIN\n"}
		wants(t, w.ok(r), want...)
		wants(t, r.stderr, "denied dns *.budget.example: so many questions", "denied dns files.example: no rule allows it")
		for _, name := range []string{"4.budget.example", "9.budget.example", "nas", "www.example.com", "files.example"} {
			if w.Zone().Asked(name) {
				t.Errorf("%s was asked for", name)
			}
		}
		// The same as flags; 0 is no limit, and it is 1000 without.
		count := []string{"--allow", "*.budget.example", "--", "sh", "-c", "dig +short $(seq -f '%.0f.budget.example' 1 1005) | wc -l"}
		for _, c := range []struct {
			flags []string
			want  string
		}{{nil, "1000\n"}, {[]string{"--dns-budget", "0"}, "1005\n"}, {[]string{"--dns-budget", "7"}, "7\n"}} {
			if out := w.ok(w.run(append(c.flags, count...)...)); out != c.want {
				t.Errorf("%v: %q", c.flags, out)
			}
		}
		out := w.ok(w.run("--hosts", w.Dir()+"/etc/names", "--allow-suffix", "*.com", "--allow", "nas", "--", "dig", "+short", "nas", "www.example.com"))
		if out != "11.22.0.10\n11.22.0.20\n" {
			t.Errorf("flags: %q", out)
		}
	})
}

// The host's resolv.conf may change while the app runs, as it does on a laptop.
func TestResolvConfChanges(t *testing.T) {
	both(t, func(w *world) {
		old, other := w.Zone(), w.NewZone()
		w.Host("11.22.0.61", "2a0d:aaaa::61").ServeDNS(other)
		old.Set("*.move.example. A 11.33.0.1")
		other.Set("*.move.example. A 11.33.0.2")
		s := w.session("--allow", "*.move.example", "--", "sh")
		ask := func(n int) string { return s.ok(fmt.Sprintf("dig +short n%d.move.example", n)) }
		n := 0
		if out := ask(n); out != "11.33.0.1\n" {
			t.Fatalf("before: %q", out)
		}
		for _, c := range []struct{ conf, want string }{
			{"nameserver 11.22.0.61\n", "11.33.0.2\n"},
			{fmt.Sprintf("nameserver %s\n", w.Resolver4()), "11.33.0.1\n"}, // of the same size as the first, later
			{"# none is up yet\nnameserver 2a0d:aaaa::61\noptions edns0\n", "11.33.0.2\n"},
		} {
			w.SetFile("/etc/resolv.conf", c.conf)
			changed := time.Now()
			for n++; ask(n) != c.want; n++ {
				if time.Since(changed) > 5*time.Second {
					t.Fatalf("after 5 s, %q is not heeded", c.conf)
				}
			}
			for range 3 {
				if n++; ask(n) != c.want {
					t.Errorf("%q was heeded once", c.conf)
				}
				if q := fmt.Sprintf("n%d.move.example", n); old.Asked(q) == other.Asked(q) {
					t.Errorf("%s: old resolver asked: %t, new one: %t", q, old.Asked(q), other.Asked(q))
				}
			}
		}
	})
}

// What means nothing beyond this host or its link is asked of nobody, unless a
// resolver was named for it.
func TestLocalNames(t *testing.T) {
	both(t, func(w *world) {
		w.SetFile("/etc/hosts", "127.0.0.1 localhost\n11.22.0.10 nas scanner.local\n")
		lan := w.NewZone()
		w.Host("11.22.0.61").ServeDNS(lan)
		names := []string{"printer", "printer.local", "a.b.local", "expyuzz4wqqyqhjn.onion", "never.invalid", "some.alt", "printer.lan"}
		for _, z := range []*internet.Zone{w.Zone(), lan} {
			for _, name := range names {
				z.Set(name + ". A 11.33.0.1")
			}
		}
		ask := func(name string, flags ...string) string {
			t.Helper()
			r := w.run(append(flags, "--", "dig", "+tries=1", "+time=5", name)...)
			hint := " (to have it asked: --dns " + name + "=RESOLVER)"
			switch name[strings.LastIndexByte(name, '.')+1:] {
			case "onion":
				hint = " (Tor knows it: --allow " + name + " via=tor)"
			case "invalid", "alt":
				hint = ""
			}
			said := "appfw: cannot resolve " + name + ": names of the local network are asked of nobody" + hint + "\n"
			if meant := flags[1] == name && strings.Contains(r.stdout, "asked of nobody"); r.stderr == said != meant {
				t.Errorf("%v: stderr: %q", flags, r.stderr)
			}
			return w.ok(r)
		}
		for _, name := range names[:len(names)-1] {
			for _, flags := range [][]string{{"--allow", name}, {"--allow", "any"}, {"--default", "allow"}, {"--deny", "x.example", "--dns", "11.22.0.61"}} {
				out := ask(name, flags...)
				if strings.Contains(out, "11.33.0.1") || flags[1] == name && !strings.Contains(out, "NXDOMAIN") {
					t.Errorf("%v: %s", flags, out)
				}
				wants(t, out, "asked of nobody", "SOA")
			}
			if w.Zone().Asked(name) || lan.Asked(name) {
				t.Errorf("%s left", name)
			}
		}
		for name, want := range map[string]string{"localhost": "127.0.0.1", "x.localhost": "127.0.0.1", "nas": "11.22.0.10", "scanner.local": "11.22.0.10"} {
			wants(t, ask(name, "--allow", "nas", "--allow", "scanner.local"), "\tA\t"+want)
			if w.Zone().Asked(name) {
				t.Errorf("%s left", name)
			}
		}
		wants(t, ask("nas", "--allow", "example.com"), "NXDOMAIN")

		for name, zone := range map[string]string{"printer.lan": "lan", "printer.local": "local", "printer": "printer", "expyuzz4wqqyqhjn.onion": "onion"} {
			wants(t, ask(name, "--allow", name, "--dns", zone+"=11.22.0.61"), "\tA\t11.33.0.1")
			if !lan.Asked(name) || w.Zone().Asked(name) {
				t.Errorf("%s: asked there: %t, of the host's: %t", name, lan.Asked(name), w.Zone().Asked(name))
			}
		}
		wants(t, ask("printer.lan", "--dns", "lan=11.22.0.61"), "NXDOMAIN", "no rules")
	})
}

// Programs do not find out that there are other resolvers, and learn of an
// address only what they knew.
func TestResolverKeepsApps(t *testing.T) {
	both(t, func(w *world) {
		w.Zone().Set("use-application-dns.net. A 11.22.0.10", "_dns.resolver.arpa. SVCB 1 one.resolver. alpn=dot", "99.0.22.11.in-addr.arpa. PTR secret.example.", "10.0.22.11.in-addr.arpa. PTR secret.example.")
		for _, policy := range [][]string{{"--allow", "use-application-dns.net", "--allow-suffix", "*.arpa"}, {"--default", "allow"}} {
			out := w.ok(w.run(append(policy, "--", "sh", "-c", `
				for t in A AAAA HTTPS; do dig use-application-dns.net $t; done | grep -c NXDOMAIN
				for t in SVCB A; do dig _dns.resolver.arpa $t; done | grep -c 'NOERROR\|ANSWER: 0'
				dig -x 11.22.0.99 | grep -c NXDOMAIN; dig -x 11.22.0.10 | grep -c NXDOMAIN; dig -x 2a0d:aaaa::10 | grep -c NXDOMAIN; dig 22.11.in-addr.arpa NS | grep -c NXDOMAIN`)...))
			if out != "3\n4\n1\n1\n1\n1\n" {
				t.Errorf("%v: %q", policy, out)
			}
		}
		out := w.ok(w.run("--allow", "example.com", "--allow", "shared.example", "--", "sh", "-c", `
			getent ahosts example.com > addresses; dig +short shared.example > addresses
			dig +short -x 11.22.0.10 | sort; getent hosts 2a0d:aaaa::10 | tr -s ' '; dig -x 11.22.0.20 | grep -o NXDOMAIN; dig 10.0.22.11.in-addr.arpa TXT | grep -o NOERROR`))
		if want := "example.com.\nshared.example.\n2a0d:aaaa::10 example.com\nNXDOMAIN\nNOERROR\n"; out != want {
			t.Errorf("%q, not %q", out, want)
		}
		for _, q := range w.Zone().Queries() {
			if strings.Contains(q, "arpa") || strings.Contains(q, "use-application") {
				t.Errorf("asked upstream: %s", q)
			}
		}
		// A resolver for the zone may be named, as for any other.
		zone := w.NewZone()
		zone.Set("99.0.22.11.in-addr.arpa. PTR ours.example.")
		w.Host("11.22.0.61").ServeDNS(zone)
		wants(t, w.ok(w.run("--dns", "22.11.in-addr.arpa=11.22.0.61", "--allow", "*.22.11.in-addr.arpa", "--", "dig", "+short", "-x", "11.22.0.99")), "ours.example.")
	})
}
