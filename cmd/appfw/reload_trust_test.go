package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"appfw/testdata/internet"
)

// A policy that the program could have changed itself is not read anew.
func TestReloadRefused(t *testing.T) {
	const first, second = "allow example.com\n", "allow example.com\nallow other.example\n"
	w := newWorld(t)
	ordinary, nobody := w.Ordinary(), internet.User{Name: "nobody", UID: 65534, GID: 65534}
	cases := []struct {
		name string
		user internet.User
		// prepare is a script that makes the policy of first, where root owns
		// everything but own/, which is the user's.
		prepare string
		flags   string // DIR is where that ran; they stand in own/
		file    string // where the new policy is written
		could   string // what the program could change; "" is nothing
	}{
		{"own file", ordinary, "cp first a; chown 20001 a", "--policy DIR/a", "a", "/a"},
		{"own read-only file", ordinary, "cp first a; chown 20001 a; chmod 400 a", "--policy DIR/a", "a", "/a"},
		{"everybody's file", ordinary, "cp first a; chmod 666 a", "--policy DIR/a", "a", "/a"},
		{"his group's file", ordinary, "cp first a; chgrp 20001 a; chmod 664 a", "--policy DIR/a", "a", "/a"},
		{"root's file in own directory", ordinary, "cp first own/a", "--policy a", "own/a", "/own"},
		{"root's directory in own directory", ordinary, "mkdir own/etc; cp first own/etc/a", "--policy etc/a", "own/etc/a", "/own"},
		{"root's file in everybody's directory", ordinary, "mkdir -m 777 all; cp first all/a", "--policy DIR/all/a", "all/a", "/all"},
		{"link in own directory", ordinary, "cp first a; ln -s ../a own/link", "--policy link", "a", "/own"},
		{"link to own directory", ordinary, "cp first own/a; ln -s own/a link", "--policy DIR/link", "own/a", "/own"},
		{"by way of a link to own directory", ordinary, "cp first own/a; ln -s own link", "--policy DIR/link/a", "own/a", "/own"},
		{"dots after a link", ordinary, "mkdir own/etc; cp first own/a; cp first a; ln -s own/etc link", "--policy DIR/link/../a", "own/a", "/own"},
		{"link with dots after a link", ordinary, "mkdir own/etc; cp first own/a; cp first a; ln -s own/etc link; ln -s link/../a policy", "--policy DIR/policy", "own/a", "/own"},
		{"own link in a sticky directory", ordinary, "mkdir -m 1777 tmp; cp first a; ln -s ../a tmp/link; chown -h 20001 tmp/link", "--policy DIR/tmp/link", "a", "/tmp/link"},
		{"own file in a sticky directory", ordinary, "mkdir -m 1777 tmp; cp first tmp/a; chown 20001 tmp/a", "--policy DIR/tmp/a", "tmp/a", "/tmp/a"},
		{"own list", ordinary, "cp first a; echo ads.example > own/list", "--policy DIR/a --deny @list", "a", "/own"},
		{"own hosts file", ordinary, "echo hosts own/names | cat - first > a; : > own/names", "--policy DIR/a", "a", "/own"},
		{"own included file", ordinary, "echo policy own/more > a; cp first own/more", "--policy DIR/a", "a", "/own"},

		{"root's file", ordinary, "cp first a", "--policy DIR/a", "a", ""},
		{"root's file that only root reads", w.Root(), "mkdir -m 700 etc; cp first etc/a; chmod 600 etc/a", "--user ordinary --policy DIR/etc/a", "etc/a", ""},
		{"root's file in a sticky directory", ordinary, "mkdir -m 1777 tmp; cp first tmp/a", "--policy DIR/tmp/a", "tmp/a", ""},
		{"somebody else's file", ordinary, "cp first a; chown 20002 a", "--policy DIR/a", "a", ""},
		{"links of root's", ordinary, "mkdir etc; cp first etc/a; ln -s etc c; ln -s c/../etc/a link", "--policy DIR/link", "etc/a", ""},
		{"root as root", w.Root(), "cp first a", "--policy DIR/a", "a", "/"},
		{"root as the file's owner", w.Root(), "cp first a; chown 20001 a", "--user ordinary --policy DIR/a", "a", "/a"},
		{"nobody", nobody, "cp first a", "--policy DIR/a", "a", ""},
		{"nobody's file", nobody, "cp first a; chown 65534 a", "--policy DIR/a", "a", "/a"},
	}
	sessions := make([]*session, len(cases))
	dir := func(i int) string { return filepath.Join(w.Dir(), fmt.Sprint("case", i)) }
	for i, c := range cases {
		w.write(fmt.Sprintf("case%d/first", i), first)
		w.make("sh", "-ec", fmt.Sprintf("cd %s; mkdir own; %s; chown %d own", dir(i), c.prepare, c.user.UID))
		w.user = c.user
		w.user.Home = dir(i) + "/own"
		flags := strings.ReplaceAll(c.flags, "DIR", dir(i))
		sessions[i] = w.session(append(strings.Fields(flags), "--", "sh")...)
	}
	for i, c := range cases {
		wants(t, sessions[i].ok(getExample), "hello")
		w.write(fmt.Sprintf("case%d/%s", i, c.file), second)
		sessions[i].signal(unix.SIGHUP)
	}
	for i, c := range cases {
		s := sessions[i]
		said := s.await(s.err, `appfw: the policy .*`)[0]
		want := "read anew"
		if c.could != "" {
			want = "not read anew: the program itself could change " + dir(i) + c.could
		}
		if c.user.UID == 0 && c.could == "/" { // the first directory that leads there is root's, too
			want = "not read anew: the program itself could change /"
		}
		if said != "appfw: the policy was "+want {
			t.Errorf("%s: %q", c.name, said)
		}
		if out, ok := s.run(getOther); ok != (c.could == "") {
			t.Errorf("%s: %q", c.name, out)
		}
		wants(t, s.ok(getExample), "hello")
	}
}

// Nor is such a policy read when it changes; that is said once.
func TestReloadNotWatched(t *testing.T) {
	w := newWorld(t)
	policy := w.write("a.policy", "allow example.com\n")
	w.make("chown", fmt.Sprint(w.Ordinary().UID), policy)
	asNobody := w.session("--user", "nobody", "--policy", policy, "--", "sh") // who cannot change it
	asNobody.ok(getExample)
	w.user = w.Ordinary()
	s := w.session("--policy", policy, "--", "sh")
	s.ok(getExample)
	for range 2 { // it is looked at every second, and both began at the same time
		w.write("a.policy", "allow other.example\n")
		asNobody.until(getOther, "hello")
		w.write("a.policy", "allow example.com\n")
		asNobody.until(getExample, "hello")
	}
	if out, ok := s.run(getOther); ok {
		t.Errorf("the app's own policy is in force: %s", out)
	}
	if n := strings.Count(s.err.String(), "appfw: the policy was not read anew: the program itself could change "+policy); n != 1 || strings.Count(s.err.String(), "the policy") != 1 {
		t.Errorf("stderr: %s", s.err)
	}
}

// A program that changes its policy, or everything that it can get at, gains nothing: it
// cannot have appfw read that anew, nor is it read when somebody else asks.
func TestReloadHostile(t *testing.T) {
	both(t, func(w *world) {
		home := w.user.Home
		policy := home + "/a.policy"
		if err := os.WriteFile(policy, []byte("allow example.com\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		w.make("chown", fmt.Sprint(w.user.UID), policy)
		s := w.session("--policy", policy, "--", "sh")
		const hup = `gateway=$PPID; appfw=$(sed -n 's/^PPid:\t//p' /proc/$gateway/status); ! kill -HUP $gateway && ! kill -HUP $appfw`
		for _, attack := range []string{
			"echo 'allow any' > " + policy,
			"rm " + policy + "; echo 'default allow' > x; ln -s x " + policy,
			"rm " + policy + "; mkfifo " + policy,
			"rm " + policy,
		} {
			s.ok(attack + "; " + hup)
			s.signal(unix.SIGHUP)
			s.await(s.err, `appfw: the policy was not read anew: the program itself could change .*\n`)
			if out, ok := s.run(getOther); ok {
				t.Fatalf("%s: %s", attack, out)
			}
		}
		wants(t, s.ok(getExample), "hello from example.com")
		w.untouched(w.other)
	})
	// Of a policy that is root's, it can change nothing.
	asAnother(t, func(w *world, flags []string) {
		policy := w.write("etc/a.policy", "allow example.com\n")
		s := w.session(append(flags, "--policy", policy, "--", "sh")...)
		out, _ := s.run(fmt.Sprintf(`cd %s; echo 'allow any' > a.policy; echo 'allow any' >> a.policy; rm -f a.policy; mv a.policy b; ln -sf /dev/null a.policy; chmod 777 a.policy; mv ../etc ../x
			mount -t tmpfs none . ; mount --bind %s %[1]s; true`, filepath.Dir(policy), w.Ordinary().Home))
		s.signal(unix.SIGHUP)
		s.await(s.err, readAnew) // the same
		if o, ok := s.run(getOther); ok {
			t.Errorf("%s: %s", out, o)
		}
		wants(t, s.ok(getExample), "hello")
		if b, err := os.ReadFile(policy); string(b) != "allow example.com\n" {
			t.Errorf("the policy is %q, %v", b, err)
		}
		w.untouched(w.other)
	})
}
