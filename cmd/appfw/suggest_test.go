package main

import (
	"net"
	"path/filepath"
	"testing"
)

// What a program did with everything open, it can do under the policy that suggest
// makes of that; and nothing else.
func TestSuggest(t *testing.T) {
	both(t, func(w *world) {
		greet := func(c net.Conn) { _, _ = c.Write([]byte("hello\n")) }
		local, err := w.ListenOnHost("tcp4", "127.0.0.1:5432")
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
		shared := w.Host("11.22.0.30").Name("first.example", "second.example") // two names of one address
		shared.ServeTCP(7, greet)
		w.Host("10.9.8.7").Name("intranet.example").ServeTCP(7, greet)

		program := []string{"--", "sh", "-ec", `
			curl -sS http://example.com https://example.com http://11.22.0.20
			ncat --recv-only first.example 7
			ncat --recv-only second.example 7
			ncat --recv-only intranet.example 7
			ncat --recv-only 127.0.0.1 5432
			dig +short TXT looked.example >/dev/null
			ping -c 1 -W 5 www.example.com >/dev/null`}
		path := filepath.Join(w.user.Home, "log.json")
		open := []string{"--default", "allow", "--allow", "10.0.0.0/8", "--allow", "localhost", "--allow", ".example"}
		first := w.ok(w.run(append(append(open, "--log", path), program...)...))

		made := w.ok(w.appfw("suggest", path))
		wants(t, made, "allow  example.com:80 ", "allow  example.com:443 ", "allow  11.22.0.20:80 ", "allow  first.example:7 ", "allow  second.example:7 ",
			"allow  intranet.example:7 ", "allow  10.9.8.7:7 ", "allow  127.0.0.1:5432 ", "allow  www.example.com/icmp ", "# allow  looked.example ")
		policy := w.write("made.policy", made)
		if again := w.ok(w.run(append([]string{"--policy", policy}, program...)...)); again != first {
			t.Errorf("it said %q, and before %q", again, first)
		}
		before := w.Packets(w.other.Addr4()) + w.Packets(w.other.Addr6())
		w.denied(w.run("--policy", policy, "--", "curl", "-sS", "http://other.example"), "denied dns other.example")
		w.denied(w.run("--policy", policy, "--", "curl", "-sS", "https://11.22.0.20"), "denied tcp 11.22.0.20:443")
		if after := w.Packets(w.other.Addr4()) + w.Packets(w.other.Addr6()); after != before {
			t.Errorf("%d packets", after-before)
		}
	})
}
