package main

import (
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestAllowedName(t *testing.T) {
	both(t, func(w *world) {
		for _, family := range []string{"-4", "-6"} {
			out := w.ok(w.run("--allow", "example.com", "--", "curl", "-sS", family, "https://example.com"))
			if out != "hello from example.com\n" {
				t.Errorf("curl %s: %q", family, out)
			}
		}
		out := w.ok(w.run("--allow", "*.example.com:80", "--", "curl", "-sS", "http://www.example.com"))
		wants(t, out, "hello from www.example.com")
	})
}

func TestDeniedName(t *testing.T) {
	both(t, func(w *world) {
		w.denied(w.run("--allow", "example.com", "--", "curl", "-sS", "https://other.example"),
			"appfw: denied dns other.example: no rule allows it (to allow: --allow other.example)\n")
		w.denied(w.run("--", "curl", "-sS", "https://other.example"), "denied dns other.example: the policy has no rules")
		w.denied(w.run("--default", "allow", "--deny", ".example", "--", "curl", "-sS", "https://other.example"),
			"denied dns other.example: the rule --deny .example (command line) denies it")
		w.untouched(w.other)
		if w.Zone().Asked("other.example") {
			t.Error("a denied name was asked for")
		}
	})
}

// An address that the app brought along is judged by address rules alone.
func TestBroughtAlongAddress(t *testing.T) {
	both(t, func(w *world) {
		w.denied(w.run("--allow", "example.com", "--", "curl", "-sS", "http://11.22.0.20"),
			"appfw: denied tcp 11.22.0.20:80: no rule allows it (to allow: --allow 11.22.0.20:80)\n")
		w.denied(w.run("--allow", "example.com", "--", "curl", "-sS", "http://[2a0d:aaaa::20]"),
			"appfw: denied tcp [2a0d:aaaa::20]:80: no rule allows it (to allow: --allow [2a0d:aaaa::20]:80)\n")
		w.denied(w.run("--allow", "other.example", "--", "curl", "-sS", "--resolve", "other.example:443:11.22.0.20", "https://other.example"),
			"denied tcp 11.22.0.20:443")
		w.untouched(w.other)
		wants(t, w.ok(w.run("--allow", "11.22.0.0/24:80/tcp", "--", "curl", "-sS", "http://11.22.0.20")), "hello from 11.22.0.20")
	})
}

// Two names on one address: the one that is not allowed is refused by what the
// flow shows, and the server never hears of it.
func TestShownName(t *testing.T) {
	both(t, func(w *world) {
		w.denied(w.run("--allow", "example.com", "--", "curl", "-sS", "--connect-to", "shared.example:443:example.com:443", "https://shared.example"),
			"denied tcp shared.example:443: no rule allows it (to allow: --allow shared.example:443)")
		w.denied(w.run("--allow", "example.com", "--", "curl", "-sS", "-H", "Host: shared.example", "http://example.com"),
			"denied tcp shared.example:80: no rule allows it (to allow: --allow shared.example:80)")
		w.denied(w.run("--default", "allow", "--deny", "shared.example", "--", "curl", "-sS", "-k", "--connect-to", "shared.example:443:11.22.0.10:443", "https://shared.example"),
			"denied tcp shared.example:443: the rule --deny shared.example (command line) denies it")
		w.denied(w.run("--allow", "*.example", "--", "curl", "-sS", "-H", "Host: shared.example", "http://other.example"),
			"denied tcp shared.example:80: the name shared.example was not resolved to this address")
		two := `printf 'GET / HTTP/1.1\r\nHost: example.com\r\nHost: shared.example\r\n\r\n' | ncat example.com 80`
		w.denied(w.run("--allow", "example.com", "--", "sh", "-c", two), "the HTTP request names more than one host")
		wants(t, w.ok(w.run("--allow", "example.com", "--allow", "shared.example", "--", "curl", "-sS", "https://example.com", "https://shared.example")),
			"hello from example.com", "hello from shared.example")
	})
}

// A name's owner cannot point the app at the LAN.
func TestRebinding(t *testing.T) {
	both(t, func(w *world) {
		w.Zone().Set("rebind.example. 60 IN A 10.1.2.3", "rebind6.example. 60 IN AAAA ::ffff:169.254.169.254")
		r := w.run("--allow", "*.example", "--", "curl", "-sS", "http://rebind.example")
		w.denied(r, "denied dns rebind.example: the name leads to a private address, which no rule allows (to allow: --allow 10.1.2.3)")
		w.denied(w.run("--allow", "*.example", "--", "curl", "-sS", "http://rebind6.example"), "curl:")
		if r := w.appfw("why", "--allow", "*.example", "rebind.example:80"); r.code != 1 || !strings.HasPrefix(r.stdout, "deny dns rebind.example: the name leads to a private address") {
			t.Errorf("why: exit code %d, %s", r.code, r.stdout)
		}
		// Nor later, when it has led elsewhere. Then, a name is not asked for again at once.
		w.Zone().Set("turns.example. 0 IN A 11.22.0.10")
		s := w.session("--allow", "*.example", "--", "sh")
		const get = "curl -sS --max-time 1 http://turns.example"
		wants(t, s.ok(get), "hello from turns.example")
		w.Zone().Clear("turns.example.")
		w.Zone().Set("turns.example. 0 IN A 10.1.2.3")
		s.until(get, "Could not resolve")
		if out, ok := s.run(get); ok {
			t.Error(out)
		}
		wants(t, s.err.String(), "denied dns turns.example: the name leads to a private address")
		if n := w.Packets(netip.MustParseAddr("10.1.2.3")); n != 0 {
			t.Errorf("%d packets to 10.1.2.3", n)
		}
	})
}

// Neither a name nor the default leads to the host itself: a rule for its
// address does.
func TestHostItself(t *testing.T) {
	both(t, func(w *world) {
		for network, address := range map[string]string{"tcp4": "11.1.0.2:5433", "tcp6": "[2a0d:1::2]:5433"} {
			l, err := w.ListenOnHost(network, address)
			if err != nil {
				t.Fatal(err)
			}
			go answer(l)
		}
		w.Zone().Set("me.example. 60 IN A 11.1.0.2", "me6.example. 60 IN AAAA 2a0d:1::2")
		ask := func(name string, flags ...string) result {
			return w.run(append(flags, "--", "ncat", "--recv-only", name, "5433")...)
		}
		const reason = "it is an address of this host, and no rule names that (to allow: --allow "
		w.denied(ask("me.example", "--allow", "*.example", "--allow", "me.example"), "denied tcp me.example:5433: "+reason+"11.1.0.2:5433)")
		w.denied(ask("me6.example", "--allow", "me6.example"), "denied tcp me6.example:5433: "+reason+"[2a0d:1::2]:5433)")
		w.denied(ask("11.1.0.2", "--deny", "any/udp"), reason)
		wants(t, w.ok(ask("me.example", "--allow", "me.example", "--allow", "11.1.0.2:5433")), "host")
		wants(t, w.ok(ask("11.1.0.2", "--allow", "11.1.0.0/24")), "host")
	})
}

// The host's /etc/hosts is answered by the resolver, under the policy; the app
// does not see it.
func TestHostsFile(t *testing.T) {
	w := newWorld(t) // as root: nobody else can give the host another file
	hosts := w.user.Home + "/hosts"
	if err := os.WriteFile(hosts, []byte("127.0.1.1 host\n11.22.0.10 static.example\n11.22.0.20 other.static.example\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) result { // on a host that has this file
		script := `mount --bind "$1" /etc/hosts && shift && exec "$@"`
		return w.finish(w.Command(t.Context(), w.user, "unshare", append([]string{"-m", "sh", "-c", script, "sh", hosts, program, "run"}, args...)...))
	}
	wants(t, w.ok(run("--allow", "static.example", "--", "curl", "-sS", "http://static.example")), "hello from static.example")
	w.denied(run("--allow", "static.example", "--", "curl", "-sS", "http://other.static.example"), "denied dns other.static.example")
	w.denied(run("--deny", "other.static.example", "--", "ncat", "other.static.example", "80"), "denied dns other.static.example")
	wants(t, w.ok(run("--", "getent", "hosts", "host")), "127.0.1.1")
	w.untouched(w.other)
}
