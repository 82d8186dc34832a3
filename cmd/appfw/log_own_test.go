package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A log that root has written for a program of somebody else's is that user's: what he puts
// there before leads root nowhere, and keeps nobody waiting.
func TestLogOfAnother(t *testing.T) {
	w := newWorld(t)
	user := w.Ordinary()
	secret := w.write("secret", "")
	in := filepath.Join(user.Home, "logs")
	w.make("setpriv", fmt.Sprint("--reuid=", user.UID), fmt.Sprint("--regid=", user.GID), "--clear-groups", "sh", "-ec",
		fmt.Sprintf("mkdir %[1]s; ln -s %[2]s %[1]s/link.json; ln -s %[3]s %[1]s/up; mkfifo %[1]s/fifo.json", in, secret, filepath.Dir(secret)))
	run := func(log string) result {
		return w.run("--user", user.Name, "--quiet", "--log", log, "--allow", "example.com", "--", "sh", "-c", "echo it ran; curl -s http://11.22.0.20/'evil'")
	}
	for log, want := range map[string]string{
		in + "/link.json":   "leads by a link",
		in + "/fifo.json":   "is no regular file",
		in + "/up/new.json": "permission denied for the program's user, and root does not write there for him, as others could change " + user.Home,
		in + "/nowhere/x":   "no such file or directory",
	} {
		r := run(log)
		w.denied(r, want)
		if r.stdout != "" {
			t.Errorf("%s: %s", log, r.stdout)
		}
	}
	if b, err := os.ReadFile(secret); err != nil || len(b) != 0 {
		t.Errorf("%q, %v", b, err)
	}
	if names, err := filepath.Glob(filepath.Dir(secret) + "/new*"); err != nil || len(names) != 0 {
		t.Errorf("there is %q, %v", names, err)
	}
	run(in + "/app.json")
	run(in + "/app.json") // it is added to
	var st unix.Stat_t
	if err := unix.Stat(in+"/app.json", &st); err != nil || int(st.Uid) != int(user.UID) || st.Mode&0o777 != 0o600 {
		t.Errorf("of %d, mode %o, %v", st.Uid, st.Mode, err)
	}
	if n := strings.Count(string(mustRead(t, in+"/app.json")), `"verdict":"deny"`); n != 2 {
		t.Errorf("%d denials", n)
	}
	// Root's own directory is root's to write in.
	run(filepath.Join(filepath.Dir(secret), "own.json"))
	if len(mustRead(t, filepath.Join(filepath.Dir(secret), "own.json"))) == 0 {
		t.Error("nothing was written")
	}
	w.untouched(w.other)
}

// A program that fills the log fills no disk.
func TestLogMax(t *testing.T) {
	both(t, func(w *world) {
		log := filepath.Join(w.user.Home, "log.json")
		const flood = `import socket
for i in range(4000):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try: s.sendto(b"x", ("11.%d.%d.1" % (i >> 8, i & 255), 9))
    except OSError: pass
    s.close()`
		r := w.run("--log", log, "--log-max", "64K", "--allow", "example.com", "--", "sh", "-c", "python3 -c '"+flood+"'; curl -sS http://example.com")
		wants(t, r.stdout, "hello from example.com")
		wants(t, r.stderr, "appfw: --log lacks ", "it is as large as it may be (--log-max)")
		text := string(mustRead(t, log))
		if len(text) > 64<<10 {
			t.Errorf("%d bytes", len(text))
		}
		if !strings.Contains(text, `"name":"example.com"`) {
			t.Error("the log lacks what was allowed")
		}
		for line := range strings.Lines(text) {
			if !json.Valid([]byte(line)) {
				t.Errorf("%q", line)
			}
		}
	})
	w := newWorld(t)
	w.denied(w.run("--log-max", "1GB", "--", "echo", "it ran"), `invalid argument "1GB" for "--log-max" flag: "1GB" is no size; it is a number of bytes, as 500000, 64K, 10M or 1G`)
}
