package main

import (
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What stands for a name is an address like any other to programs; the names that
// connections show are judged there, too; and only it leads anywhere.
func TestUpstreamNames(t *testing.T) {
	both(t, func(w *world) {
		p := w.proxied(viaSocks)
		run := func(args ...string) result {
			t.Helper()
			return w.run(append([]string{"--upstream", viaSocks, "--allow", "example.com", "--allow", "shared.example", "--"}, args...)...)
		}
		out := w.ok(run("sh", "-ec", `a=$(dig +short example.com) b=$(dig +short AAAA example.com); echo $a $b $(dig +short -x $a) $(dig +short -x $b)
			dig example.com TXT; dig example.com HTTPS; dig -x 198.18.0.0; dig +short shared.example`))
		if !regexp.MustCompile(`^198\.1[89]\.\d+\.\d+ fd61:7070:6677:ff00:\S+ example\.com\. example\.com\.\n`).MatchString(out) {
			t.Error(out)
		}
		if strings.Count(out, "status: NOERROR, ") != 2 || strings.Count(out, "ANSWER: 0") != 3 || !strings.Contains(out, "status: NXDOMAIN") {
			t.Error(out)
		}
		again := w.ok(run("dig", "+short", "example.com"))
		if strings.HasPrefix(out, strings.TrimSpace(again)+" ") {
			t.Errorf("two runs gave out %s", again)
		}
		for _, family := range []string{"-4", "-6"} {
			wants(t, w.ok(run("curl", "-sS", family, "https://example.com")), "hello from example.com")
		}

		// A name that is allowed, but has another address.
		const other = "the name shared.example was not resolved to this address"
		w.denied(run("curl", "-sS", "--connect-to", "shared.example:443:example.com:443", "https://shared.example"), other)
		w.denied(run("curl", "-sS", "-H", "Host: shared.example", "http://example.com"), other)
		w.denied(run("curl", "-sS", "-H", "Host: other.example", "http://example.com"), "denied tcp other.example:80")
		w.denied(run("curl", "-sS", "http://198.18.0.0"), "denied tcp 198.18.0.0:80: it is an address that stands for a name, and was given out for none")

		// Neither the name nor the address can be pinged by a proxy.
		for _, to := range []string{"example.com", "11.22.0.10"} {
			r := w.run("--upstream", viaSocks, "--allow", "example.com", "--allow", "11.22.0.10", "--", "ping", "-4", "-c", "1", "-W", "2", to)
			w.denied(r, "denied icmp "+to+": upstreams carry no ICMP")
			wants(t, r.stdout, "Packet filtered")
		}
		p.indirect()
		if p.zone.Asked("other.example") || p.zone.Asked("shared.example") {
			t.Errorf("the proxy asked %v", p.zone.Queries())
		}

		why := w.ok(w.appfw("why", "--upstream", viaDante, "--allow", "example.com", "example.com:443"))
		if why != "allow tcp example.com:443: the rule --allow example.com (command line) allows it, by socks5h://11.22.0.60:1081\n" {
			t.Error(why)
		}
		wants(t, w.ok(w.appfw("why", "--upstream", viaSocks, "--allow", "any", "--allow", "example.com:25 via=direct", "abcdefghij.onion:80")), "allow tcp abcdefghij.onion:80: ")
		p.indirect()
	})
}

// A rule says by which way what it allows goes.
func TestUpstreamVia(t *testing.T) {
	both(t, func(w *world) {
		p := w.proxied(viaSocks, viaHTTP)
		run := func(lines string, command ...string) result {
			t.Helper()
			return w.run(append([]string{"--policy", w.write("via.policy", lines), "--"}, command...)...)
		}
		const get = "curl -sS http://example.com; curl -sS http://other.example"
		at := func(port uint16) int { return w.PacketsTo(p.host.Addr4(), unix.IPPROTO_TCP, port) }

		// By one of two; without a via, directly.
		lines := "upstream a=" + viaSocks + "\nupstream b=" + viaHTTP + "\nallow example.com via=a\nallow other.example\n"
		wants(t, w.ok(run(lines, "sh", "-ec", get)), "hello from example.com", "hello from other.example")
		if at(1080) == 0 || at(8080) != 0 || w.Packets(w.other.Addr4())+w.Packets(w.other.Addr6()) == 0 || !w.Zone().Asked("other.example") || p.zone.Asked("other.example") {
			t.Errorf("%d and %d packets went to the proxies", at(1080), at(8080))
		}
		// By the policy's, but for one.
		before := w.Packets(w.other.Addr4()) + w.Packets(w.other.Addr6())
		lines = "upstream " + viaHTTP + "\nallow .example via=direct\nallow any\nallow shared.example via=tor\n"
		wants(t, w.ok(run(lines, "sh", "-ec", get)), "hello from example.com", "hello from other.example")
		if at(8080) == 0 || w.Packets(w.other.Addr4())+w.Packets(w.other.Addr6()) == before {
			t.Errorf("%d packets went to the proxy", at(8080))
		}
		w.denied(run(lines, "curl", "-sS", "http://shared.example"), "the upstream failed: tor: connect: connection refused")
		// Another way at another port: resolved when it is dialled.
		lines = "upstream " + viaSocks + "\nallow other.example:80\nallow other.example:443 via=direct\n"
		before = w.Packets(w.other.Addr4()) + w.Packets(w.other.Addr6())
		wants(t, w.ok(run(lines, "curl", "-sS", "http://other.example")), "hello")
		if w.Packets(w.other.Addr4())+w.Packets(w.other.Addr6()) != before {
			t.Error("port 80 went directly")
		}
		wants(t, w.ok(run(lines, "curl", "-sS", "https://other.example")), "hello")
		if w.Packets(w.other.Addr4())+w.Packets(w.other.Addr6()) == before {
			t.Error("port 443 did not go directly")
		}
		// Two ways, of which none is the narrower.
		w.denied(run("allow shared.example via=tor\nallow shared.example via=direct\n", "curl", "-sS", "http://shared.example"), "rules of which none is the narrower send it different ways (via)")
		w.untouched(w.example)
		for _, name := range []string{"example.com", "shared.example"} {
			if w.Zone().Asked(name) {
				t.Errorf("the host's resolver was asked for %s", name)
			}
		}
	})
}
