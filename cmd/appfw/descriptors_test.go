package main

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The program has the descriptors that its caller opened for it, with their numbers.
func TestDescriptors(t *testing.T) {
	both(t, func(w *world) {
		for script, want := range map[string]string{
			`"$@" diff <(echo a) <(echo b)`:                                                                      "1c1\n< a\n---\n> b\n",
			`"$@" cat <(seq 10000) | tail -n 1`:                                                                  "10000\n",
			`seq 3 | "$@" tee >(cat >&2) | wc -l`:                                                                "3\n",
			`exec 3>out; "$@" sh -c 'echo text >&3'; cat out; rm out`:                                            "text\n",
			`exec 9<>lock; "$@" flock -n 9 && ! flock -n lock true && echo locked`:                               "locked\n",
			`exec 7</etc/passwd 200>/dev/null 63</dev/zero; "$@" sh -c 'ls /proc/self/fd | grep -xE "7|200|63"'`: "200\n63\n7\n",
			`ulimit -Sn 100; exec 99</dev/null; ulimit -Sn 50; "$@" bash -c 'ulimit -n; cat <&99; echo'`:         "50\n\n",
			`exec 5<<<here; "$@" cat /dev/fd/5`:                                                                  "here\n",
			`exec 4< <("$@" sh -c 'exec 1>&-; read -r x' <<<x; echo ended); cat <&4`:                             "ended\n",
			// The pipe ends when the program closes it, though appfw goes on.
			`mkfifo p; (exec 8>p; "$@" sh -c 'exec 8>&-; cat go') & cat <p; echo closed; echo gone >go & wait; rm p go`: "",
			`printf 'all:\n\t+@"$$RUN" $(MAKE) -s -f sub\n' >Makefile; printf 'all: a b\na b:\n\t@echo $@ >$@; while ! [ -e a ] || ! [ -e b ]; do sleep 0.01; done\n' >sub
			printf '#!/bin/sh\nexec %s "$@"\n' "$*" >run; chmod +x run; RUN=./run make -s -j2 2>&1; cat a b; rm a b run sub Makefile`: "a\nb\n",
		} {
			if strings.Contains(script, "mkfifo") {
				script = strings.Replace(script, "cat go", "while ! [ -e go ]; do sleep 0.01; done; cat go", 1)
				want = "closed\ngone\n"
			}
			if out := w.aroundAsBare([]string{"-q"}, script); out != want {
				t.Errorf("%s\nprints %q, want %q", script, out, want)
			}
		}
	})
}

// Descriptors that lead out of the program's network or view are not the program's.
func TestDescriptorsThatLeadOut(t *testing.T) {
	both(t, func(w *world) {
		l, err := w.ListenOnHost("tcp", "127.0.0.1:4000")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c := w.Command(t.Context(), w.user, "env", "python3", "-c", `
import fcntl, os, socket, sys
files = [
    socket.create_connection(("127.0.0.1", 4000)), socket.socket(), socket.socketpair()[0],
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    os.open("/", os.O_RDONLY), os.open(".", os.O_PATH), os.open("/etc/passwd", os.O_PATH),
    os.open("/proc/self/mem", os.O_RDWR), os.open("/proc/self/ns/net", os.O_RDONLY), os.pidfd_open(os.getpid()),
    os.eventfd(0), os.open("/dev/ptmx", os.O_RDWR),
]
for f in files:
    fcntl.fcntl(f, fcntl.F_DUPFD, 300)
fcntl.fcntl(os.open("/etc/passwd", os.O_RDONLY), fcntl.F_DUPFD, 299)
os.execv(sys.argv[1], [sys.argv[1], "run", "--", "sh", "-c", "ls /proc/self/fd | grep -E '299|3..'"])
`, program)
		if out := w.ok(w.finish(c)); out != "299\n" { // which leads nowhere
			t.Errorf("descriptors: %q", out)
		}
	})
}

// A program of another user has none of root's descriptors, as by sudo(8).
func TestDescriptorsOfAnotherUser(t *testing.T) {
	w := newWorld(t)
	secret := w.user.Home + "/secret"
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := w.Command(t.Context(), w.user, "sh", "-c", `exec 7<"$1"; exec "$0" run --user nobody -- sh -c 'cat <&7'`, program, secret)
	if r := w.finish(c); r.code == 0 || r.stdout != "" {
		t.Errorf("%+v", r)
	}
	_ = unix.Unlink(secret)
}
