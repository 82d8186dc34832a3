package main

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// step is a row of a table: how a policy changes, what appfw says of that, and how
// the app fares then.
type step struct {
	name   string
	make   string // a script of root's in the world's directory, for whatever is not a.policy; "" is none
	policy string // what a.policy is then; "" is what it was
	says   string // what appfw says of it, a pattern, and the app fares so at once; "" is whatever, and by and by
	then   []check
}

// check is a line that an app is told, and the pattern of what it answers. A script
// that does not answer notFound must succeed, and one that does must not.
type check struct{ line, want string }

// steps takes the rows of a table in their order. appfw is sent the signal after each
// change, 0 being none; app tells the app a line.
func (s *session) steps(sig unix.Signal, app func(line string) (answer string, ok bool), steps []step) {
	s.t.Helper()
	for _, step := range steps {
		if step.make != "" {
			c := s.Command(s.t.Context(), s.Root(), "sh", "-ec", step.make)
			c.Dir = s.Dir()
			s.world.ok(s.finish(c))
		}
		if step.policy != "" {
			s.write("a.policy", step.policy)
		}
		if sig != 0 {
			s.signal(sig)
		}
		if step.says != "" {
			s.await(s.err, step.says)
		}
		s.fares(step.name, app, step.says == "", step.then)
	}
}

// fares fails the test unless the app fares so, at once or, with wait, in the end.
func (s *session) fares(when string, app func(line string) (answer string, ok bool), wait bool, checks []check) {
	s.t.Helper()
	for _, c := range checks {
		for started := time.Now(); ; {
			answer, ok := app(c.line)
			if regexp.MustCompile(c.want).MatchString(answer) && ok == (c.want != notFound) {
				break
			}
			if !wait || time.Since(started) > patience {
				s.t.Errorf("%s: %s: %q, and not %q\nstderr: %s", when, c.line, answer, c.want, s.err)
				break
			}
		}
	}
}

// A policy is read anew on SIGHUP; with a mistake in it, the old one stays.
func TestReload(t *testing.T) {
	asAnother(t, func(w *world, flags []string) {
		log := filepath.Join(w.user.Home, "log.json")
		policy := w.write("a.policy", "allow example.com\n")
		s := w.session(append(flags, "--policy", policy, "--log", log, "--", "sh")...)
		hello, helloOther := check{getExample, "hello from example.com"}, check{getOther, "hello from other.example"}
		s.fares("before", s.run, false, []check{hello, {getOther, notFound}})
		const stays = "appfw: the policy stays as it was: "
		s.steps(unix.SIGHUP, s.run, []step{
			{"one more name", "", "allow example.com\nallow other.example\n", readAnew, []check{helloOther, hello}},
			{"an unknown word", "", "allow example.com\n  alow other.example\n",
				stays + policy + `:2:3: "alow": unknown word \(did you mean allow\?\)\n`, []check{helloOther}},
			{"two mistakes", "", "alow example.com\nallow 10.0.0.1/8\n",
				stays + policy + `:1:1: "alow": unknown word \(did you mean allow\?\) \(and others\)\n`, []check{helloOther}},
			{"a list that is not there", "", "deny @nosuch\n",
				stays + policy + `:1:6: "@nosuch": cannot open ".*/nosuch": no such file or directory\n`, []check{helloOther}},
			{"half a policy, perhaps", "", "deny other.example\n", stays + `.*write default allow if that is meant\n`, []check{helloOther}},
			{"no file", "rm a.policy", "",
				`appfw: the policy (stays as it was: .*a\.policy.*no such file or directory|was not read anew: .*a\.policy is not there)\n`, []check{helloOther}},
			{"one name less", "", "allow other.example:80\n", "", []check{{getExample, notFound}, helloOther}},
		})
		if code := s.end(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		_, reloads := s.log(log)
		wants(t, strings.Join(reloads, "\n"), "the policy was read anew", "the policy stays as it was: "+policy+":2:3")
	})
}

// Whatever the policy was read from is watched: itself, what it includes, its
// lists and hosts files; written in place, replaced, or gone for a while.
func TestReloadWatches(t *testing.T) {
	w := newWorld(t)
	w.user = w.Ordinary()
	w.write("lists/ads", "ads.example.com\n")
	w.write("lists/names", "11.22.0.10 nas\n")
	w.write("lists/more", "allow example.com\n")
	policy := w.write("a.policy", "policy lists/more\ndeny @lists/ads\nhosts lists/names\nallow nas\n")
	s := w.session("--policy", policy, "--", "sh")
	const getWWW = "curl -sS http://www.example.com"
	s.fares("before", s.run, false, []check{{getExample, "hello"}})
	s.steps(0, s.run, []step{
		{"what it includes", `printf 'allow example.com\nallow www.example.com\n' >lists/more`, "", readAnew, []check{{getWWW, "hello from www.example.com"}}}, // within seconds
		{"a list", "echo www.example.com >lists/ads", "", "", []check{{getWWW, notFound}}},
		{"a hosts file", "echo 11.22.0.20 nas >lists/names", "", "", []check{{"getent hosts nas", `11\.22\.0\.20`}}},
		{"replaced", "echo allow other.example >new; mv new a.policy", "", "", []check{{getOther, "hello from other.example"}}},
		{"moved away", "mv a.policy a.policy.old", "policy a.policy.old\nallow example.com\n", "", []check{{getExample, "hello"}}},
		{"included since", "echo deny example.com >a.policy.old", "", "", []check{{getExample, notFound}}},
	})
	s.end()
	if strings.Contains(s.err.String(), "stays as it was") || strings.Contains(s.err.String(), "not read anew") {
		t.Errorf("stderr: %s", s.err)
	}
}

// What the host and the policy say of names is read anew, too, and nothing that
// was answered before is answered from the cache.
func TestReloadNames(t *testing.T) {
	asAnother(t, func(w *world, flags []string) {
		first, second := w.NewZone(), w.NewZone()
		w.Host("11.22.0.61").ServeDNS(first)
		w.Host("11.22.0.62").ServeDNS(second)
		first.Set("who.example. 3600 A 11.33.0.1")
		second.Set("who.example. 3600 A 11.33.0.2")
		w.SetFile("/etc/hosts", "127.0.0.1 localhost\n11.22.0.10 nas\n")
		policy := w.write("a.policy", "dns 11.22.0.61\nallow who.example\nallow nas\n")
		s := w.session(append(flags, "--policy", policy, "--", "sh")...)
		const ask = "dig +short who.example nas"
		s.fares("before", s.run, false, []check{{ask, `^11\.33\.0\.1\n11\.22\.0\.10\n$`}})
		s.steps(unix.SIGHUP, s.run, []step{
			{"another resolver, and the host's file", `printf '127.0.0.1 localhost\n11.22.0.20 nas\n' >/etc/hosts`,
				"dns 11.22.0.62\nallow who.example\nallow nas\n", readAnew, []check{{ask, `^11\.33\.0\.2\n11\.22\.0\.20\n$`}}},
			{"a file of the policy's", "echo 11.33.0.3 who.example nas >names",
				"dns 11.22.0.62\nallow who.example\nallow nas\nhosts names\n", "", []check{{ask, `^11\.33\.0\.3\n11\.33\.0\.3\n$`}}},
		})
		for _, q := range w.Zone().Queries() {
			t.Errorf("the host's resolver was asked %s", q)
		}
	})
}

// A flow that was not looked at may have shown any name: it is cut if names
// matter by now, and only then.
func TestReloadUnseenName(t *testing.T) {
	w := newWorld(t)
	w.user = w.Ordinary()
	w.example.ServeTCP(7, echo)
	policy := w.write("a.policy", "allow 11.22.0.10\n")
	s := w.session(append([]string{"--policy", policy, "--"}, probing("talk")...)...)
	opens, echoes := check{"open c tcp 11.22.0.10:7", "^open$"}, check{"say c word", "^word$"}
	s.fares("before", s.answer, false, []check{opens})
	s.steps(unix.SIGHUP, s.answer, []step{
		{"one more name", "", "allow 11.22.0.10\nallow www.example.com\n", readAnew, []check{echoes}},
		{"a name denied", "", "allow 11.22.0.10\ndeny shared.example\n",
			`appfw: denied tcp 11.22.0.10:7: the policy has changed, and .* the flow has shown`, []check{{"hear c", "^ECONNRESET$"}, opens, echoes}},
	})
}

// A change is told once, whether a signal or its time brought it first.
func TestReloadOnce(t *testing.T) {
	w := newWorld(t)
	w.user = w.Ordinary()
	policy, clock := w.write("a.policy", "allow example.com\n"), w.write("clock.policy", "allow example.com\n")
	watching := w.session("--policy", policy, "--policy", clock, "--", "sh")
	s := w.session("--policy", policy, "--", "sh")
	watching.ok(getExample)
	s.ok(getExample)
	w.write("a.policy", "allow other.example\n")
	s.reload()
	watching.await(watching.err, readAnew)
	w.write("clock.policy", "allow shared.example\n")
	watching.await(watching.err, readAnew) // another second later
	if n := strings.Count(s.err.String(), "read anew"); n != 1 {
		t.Errorf("%d lines for one change: %s", n, s.err)
	}
}

// Where there is no file to read, a signal says so, and ends nothing.
func TestReloadWithoutFile(t *testing.T) {
	both(t, func(w *world) {
		s := w.session("--allow", "example.com", "--", "sh")
		s.ok("trap 'echo the app got it' HUP")
		const says = `appfw: there is no file to read the policy anew from; it is all on the command line\n`
		s.steps(unix.SIGHUP, s.run, []step{
			{"once", "", "", says, nil},
			{"twice", "", "", says, []check{{getExample, `^hello from example\.com\n$`}}},
		})
		if code := s.end(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}
