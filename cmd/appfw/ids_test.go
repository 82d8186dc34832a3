package main

import (
	"strings"
	"testing"
)

// Who gives files away or becomes somebody else, and may not, hears so as without appfw:
// fakeroot(1) and others go on then.
func TestOtherUsers(t *testing.T) {
	w := newWorld(t)
	w.user = w.Ordinary()
	for _, script := range []string{
		`touch a; "$@" fakeroot sh -c 'chown root:root a; chown 1:1 . ; chgrp 5 a; stat -c %U:%G a .'`,
		`mkdir -p p/DEBIAN p/usr; printf 'Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m <m@example.org>\nDescription: d\n' >p/DEBIAN/control
			"$@" fakeroot sh -c 'chown -R 0:0 p; dpkg-deb -b p p.deb' && dpkg-deb -c p.deb | cut -d' ' -f2 | sort -u`,
		`touch a; "$@" sh -c 'for to in 0 0:0 :0 1000:1000 -h\ 7 :nogroup nobody; do chown $to a; done' 2>&1`,
		`touch a; "$@" sh -c 'chown "$(id -u):$(id -g)" a && chown "$(id -u)" a && chgrp "$(id -g)" a; echo $?'`,
		`"$@" cp -a /etc/hosts copy; echo $?; "$@" cp -pr /etc/ssl copies; echo $?; rm -rf copy copies`,
		`touch a; "$@" install -m 600 a b; echo $?; "$@" install -g 0 a c 2>&1; echo $?; rm -f a b c`,
		`touch a; "$@" unshare -r sh -c 'chown 0:0 a; echo $?; chown 5 a 2>&1; echo $?'`,
		`"$@" python3 -c 'import os
for call in [lambda: os.setuid(0), lambda: os.setgid(4), lambda: os.setreuid(-1, 3), lambda: os.setresgid(1, 2, -1), lambda: os.setgroups([]), lambda: os.setresuid(-1, -1, -1), lambda: os.fchown(0, 1, 1), lambda: os.setuid(os.getuid())]:
    try: print(call())
    except OSError as e: print(e)' </etc/hosts`,
	} {
		if out := w.aroundAsBare([]string{"-q"}, script); strings.Contains(out, "Invalid") && !strings.Contains(script, "unshare") {
			t.Errorf("%s: %s", script, out)
		}
	}
	// What its user may, and it may not, is said once.
	r := w.run("--", "sh", "-c", "touch a; chgrp 3000 a; chgrp 4000 a")
	if strings.Count(r.stderr, "another group: an ordinary user's run has one") != 1 || r.code == 0 {
		t.Errorf("%+v", r)
	}
}

// Root's run has no capabilities, and says so where they are missed.
func TestRootWithoutCapabilities(t *testing.T) {
	w := newWorld(t)
	const says = "appfw: note: root has no capabilities here"
	for script, said := range map[string]int{
		"touch a; chown 1000:1000 a; chown 1001 a":                               1,
		"setpriv --reuid 1000 --clear-groups true":                               1,
		"cd " + w.Ordinary().Home + " && \"$0\" run -- touch file":               1,
		"touch a; chown 0:0 a; cp -a a b; mkdir c; tar cf - a b | tar xf - -C c": 0,
	} {
		args := []string{"--", "sh", "-c", script}
		r := w.run(args...)
		if strings.HasPrefix(script, "cd ") {
			r = w.finish(w.Command(t.Context(), w.user, "sh", "-c", script, program))
		}
		if strings.Count(r.stderr, says) != said {
			t.Errorf("%s: %s", script, r.stderr)
		}
	}
	// With another user all is as ever.
	out := w.ok(w.finish(w.Command(t.Context(), w.user, "sh", "-c", `cd "$1" && "$0" run --user 20001 -- sh -c 'touch file && stat -c %u file'`, program, w.Ordinary().Home)))
	if out != "20001\n" {
		t.Error(out)
	}
}
