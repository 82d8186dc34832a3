package main

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// What a program did with everything open, it can do under the policy that suggest
// makes of that; and nothing else.
func TestSuggest(t *testing.T) {
	both(t, func(w *world) {
		greet := func(c net.Conn) { _, _ = c.Write([]byte("hello\n")) }
		for _, at := range []string{"127.0.0.1:5432", w.Addr4().String() + ":5433"} {
			local, err := w.ListenOnHost("tcp4", at)
			if err != nil {
				t.Fatal(err)
			}
			defer local.Close()
			go func() {
				for c, err := local.Accept(); err == nil; c, err = local.Accept() {
					greet(c)
					c.Close()
				}
			}()
		}
		shared := w.Host("11.22.0.30").Name("first.example", "second.example") // names of one address
		shared.ServeTCP(7, greet)
		w.Host("11.22.0.31").Name("third.example").ServeTCP(7, greet)
		w.Host("10.9.8.7").Name("intranet.example").ServeTCP(7, greet)
		w.Zone().Set("mine.example. A " + w.Addr4().String())

		program := []string{"--", "sh", "-ec", `
			curl -sS http://example.com https://example.com http://11.22.0.20
			ncat --recv-only 11.22.0.30 7 # before its names are known
			ncat --recv-only first.example 7
			ncat --recv-only second.example 7
			ncat --recv-only intranet.example 7
			ncat --recv-only mine.example 5433
			ncat --recv-only localhost 5432
			dig +short TXT looked.example third.example >/dev/null
			ping -c 1 -W 5 www.example.com >/dev/null`}
		path := filepath.Join(w.user.Home, "log.json")
		open := []string{"--default", "allow", "--allow", "10.0.0.0/8", "--allow", "localhost", "--allow", ".example", "--allow", w.Addr4().String(),
			"--deny", "any/udp", "--deny", "third.example:7", "--deny", "third.example:443"}
		w.Host("11.22.0.40").ServeHTTPS(443, http.NotFoundHandler(), "third.example") // which a rule for the address would open
		refused := []string{"--", "sh", "-c", `ncat first.example 9; ncat third.example 7; echo | ncat -u 11.22.0.30 7
			curl -sk --connect-to ::11.22.0.40: https://third.example; ncat intranet.example 8`}
		w.run(append(append(open, "--log", path), refused...)...)
		first := w.ok(w.run(append(append(open, "--log", path), program...)...))

		made := w.ok(w.appfw("suggest", path))
		for _, rule := range []string{"example.com:80,443/tcp", "11.22.0.20:80/tcp", "11.22.0.30:7/tcp", "first.example:7/tcp", "second.example:7/tcp",
			"intranet.example:7/tcp", "10.9.8.7:7/tcp", "127.0.0.1:5432/tcp", "www.example.com/icmp", w.Addr4().String() + ":5433/tcp"} {
			wants(t, made, "\nallow  "+rule+" ")
		}
		for _, rule := range []string{"looked.example", "first.example:9/tcp", "third.example:7,443/tcp", "first.example:7/udp", "11.22.0.40:443/tcp", "10.9.8.7:8/tcp"} {
			wants(t, made, "\n# allow  "+rule+" ")
		}
		file := w.write("made.policy", made)
		if again := w.ok(w.run(append([]string{"--policy", file}, program...)...)); again != first {
			t.Errorf("it said %q, and before %q", again, first)
		}
		before := w.Packets(w.other.Addr4()) + w.Packets(w.other.Addr6())
		w.denied(w.run("--policy", file, "--", "curl", "-sS", "http://other.example"), "denied dns other.example")
		w.denied(w.run("--policy", file, "--", "curl", "-sS", "https://11.22.0.20"), "denied tcp 11.22.0.20:443")
		w.denied(w.run("--policy", file, "--", "ncat", "third.example", "7"), "denied dns third.example")
		w.denied(w.run("--policy", file, "--", "curl", "-sSk", "--connect-to", "::11.22.0.40:", "https://third.example"), "denied tcp 11.22.0.40:443")
		if after := w.Packets(w.other.Addr4()) + w.Packets(w.other.Addr6()); after != before {
			t.Errorf("%d packets", after-before)
		}
	})
}

// What went out by an upstream does so under the policy of suggest, or not at all.
func TestSuggestUpstream(t *testing.T) {
	w := newWorld(t)
	w.proxied(viaSocks)
	path := filepath.Join(w.user.Home, "log.json")
	curl := []string{"--", "curl", "-sS", "http://example.com"}
	for _, c := range []struct{ flags, again []string }{
		{[]string{"--upstream", viaSocks, "--default", "allow"}, []string{"--upstream", viaSocks}},
		{[]string{"--upstream", "office=" + viaSocks, "--allow", "example.com via=office"}, []string{"--upstream", "office=" + viaSocks}},
	} {
		_ = os.Remove(path)
		w.ok(w.run(append(append(c.flags, "--log", path), curl...)...))
		made := w.ok(w.appfw("suggest", path))
		r := w.run(append([]string{"--policy", w.write("made.policy", made)}, curl...)...)
		if r.code != 125 {
			t.Errorf("without the upstream: exit code %d: %s\npolicy:\n%s", r.code, r.stderr, made)
		}
		made = regexp.MustCompile(`(?m)^upstream (office=)?URL\n`).ReplaceAllString(made, "")
		w.ok(w.run(slices.Concat([]string{"--policy", w.write("made.policy", made)}, c.again, curl)...))
		if w.Zone().Asked("example.com") { // of the host's resolver, as who goes directly does
			t.Error("the name was asked for")
		}
	}
}
