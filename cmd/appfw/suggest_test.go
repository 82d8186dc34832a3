package main

import (
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"appfw/policy"
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
			"--deny", "any/udp", "--deny", "third.example:7"}
		refused := []string{"--", "sh", "-c", "ncat first.example 9; ncat third.example 7; echo | ncat -u 11.22.0.30 7"}
		w.run(append(append(open, "--log", path), refused...)...)
		first := w.ok(w.run(append(append(open, "--log", path), program...)...))

		made := w.ok(w.appfw("suggest", path))
		wants(t, made, "allow  example.com:80,443/tcp ", "allow  11.22.0.20:80/tcp ", "allow  11.22.0.30:7/tcp ", "allow  first.example:7/tcp ", "allow  second.example:7/tcp ",
			"allow  intranet.example:7/tcp ", "allow  10.9.8.7:7/tcp ", "allow  127.0.0.1:5432/tcp ", "allow  www.example.com/icmp ", "allow  "+w.Addr4().String()+":5433/tcp ",
			"# allow  looked.example ", "# allow  first.example:9/tcp ", "connecting failed", "# allow  third.example:7/tcp ", "# allow  first.example:7/udp ")
		file := w.write("made.policy", made)
		if again := w.ok(w.run(append([]string{"--policy", file}, program...)...)); again != first {
			t.Errorf("it said %q, and before %q", again, first)
		}
		before := w.Packets(w.other.Addr4()) + w.Packets(w.other.Addr6())
		w.denied(w.run("--policy", file, "--", "curl", "-sS", "http://other.example"), "denied dns other.example")
		w.denied(w.run("--policy", file, "--", "curl", "-sS", "https://11.22.0.20"), "denied tcp 11.22.0.20:443")
		w.denied(w.run("--policy", file, "--", "ncat", "third.example", "7"), "denied dns third.example")
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
		made = strings.Replace(made, "upstream URL\n", "", 1)
		w.ok(w.run(slices.Concat([]string{"--policy", w.write("made.policy", made)}, c.again, curl)...))
		if w.Zone().Asked("example.com") { // of the host's resolver, as who goes directly does
			t.Error("the name was asked for")
		}
	}
}

// Whatever a log says, what is made of it is a policy, line by line, that has no other
// hosts than the log.
func FuzzSuggest(f *testing.F) {
	for _, s := range []string{
		`{"event":"decision","verdict":"allow","direction":"out","proto":"tcp","addr":"10.0.0.5","port":443,"name":"a.example"}`,
		`{"event":"decision","verdict":"deny","direction":"out","proto":"icmp","addr":"2002:a00:1::1"}` + "\n" + `{"event":"dns","verdict":"allow","direction":"out","name":"any","type":"A"}`,
		`{"event":"decision","verdict":"allow","direction":"out","proto":"udp","addr":"198.18.0.1","port":53,"name":"*.com","via":"(default)"}`,
		`{"event":"close","verdict":"allow","direction":"out","proto":"tcp","addr":"::ffff:127.0.0.1%eth0","port":1,"name":"localhost","via":"a b\nallow any","error":"x"}`,
		`{"event":"decision","verdict":"allow","direction":"out","proto":"tcp","addr":"9.9.9.9","port":1,"via":"a\nallow any"}`,
		`{"event":"decision","verdict":"allow","direction":"out","proto":"tcp","port":22,"name":"xn--bcher-kva.example","via":"tor"}` + "\n{",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, log string) {
		l := newLearned()
		if err := l.read("log", strings.NewReader(log)); err != nil {
			return
		}
		text := l.suggest()
		for line := range strings.Lines(text) {
			if !regexp.MustCompile(`^(# [ -~]*|allow  [!-~]+( via=[a-z0-9_-]+)? +# (once|\d+ times)|default  deny|upstream URL)\n$`).MatchString(line) {
				t.Fatalf("odd line %q", line)
			}
		}
		lines, err := policy.ReadLines("made", strings.NewReader(strings.Replace(text, "\nupstream URL\n", "\nupstream x\n", 1)))
		if err != nil {
			t.Fatalf("%v in:\n%s", err, text)
		}
		ways := map[string]bool{}
		for _, line := range lines {
			if _, via, ok := strings.Cut(line.Arg, " via="); ok && via != policy.Direct && via != "tor" && !ways[via] {
				ways[via] = true
				lines = append(lines, policy.Line{Word: "upstream", Arg: via + "=x"})
			}
		}
		p, err := policy.Compile(policy.Config{Lines: lines})
		if err != nil {
			t.Fatalf("%v in:\n%s", err, text)
		}
		for _, name := range []policy.Name{"example.com", "com", "x.a.example"} {
			if p.DecideName(name).Allow && !strings.Contains(strings.ToLower(log), string(name)) {
				t.Fatalf("%s is allowed by:\n%s", name, text)
			}
		}
	})
}
