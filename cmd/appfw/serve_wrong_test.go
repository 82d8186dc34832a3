package main

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What cannot be served is said, with a hint, and nothing listens.
func TestServeWrong(t *testing.T) {
	both(t, func(w *world) {
		w.write("users", "alice secret\n")
		bad := w.write("bad.users", "alice secret\nbob\n")
		none := w.write("none.users", "# nobody\n")
		for _, name := range []string{bad, none} {
			if err := os.Chown(name, int(w.user.UID), int(w.user.GID)); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(name, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		open := w.write("open.users", "alice secret\n")
		if err := os.Chmod(open, 0o644); err != nil {
			t.Fatal(err)
		}
		taken, err := w.ListenOnHost("tcp", "127.0.0.1:1090")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		file := w.write("file", "not a socket")
		for want, args := range map[string][]string{
			"where to listen is not said: appfw serve --listen 127.0.0.1:1080":                   {},
			"--listen 0.0.0.0:1080: others than this host could use it; have them give":          {"--listen", "0.0.0.0:1080"},
			"--listen [::]:1080: others than this host could use it":                             {"--listen", "[::]:1080"},
			"--listen 1080: it is neither ADDR:PORT":                                             {"--listen", "1080"},
			"--listen localhost:1080: it is neither ADDR:PORT":                                   {"--listen", "localhost:1080"},
			"--listen unix:: a socket needs a path":                                              {"--listen", "unix:"},
			"--listen unix:" + file + ": listen unix " + file + ": bind: address already in use": {"--listen", "unix:" + file},
			"--listen 127.0.0.1:1090: listen tcp4 127.0.0.1:1090: bind: address already in use":  {"--listen", "127.0.0.1:1080", "--listen", "127.0.0.1:1090"},
			`serve runs no command: "curl" is too much (appfw run does)`:                         {"--listen", "127.0.0.1:1080", "curl"},
			"is where appfw itself listens":                                                      {"--listen", "127.0.0.1:1080", "--upstream", "socks5h://localhost:1080"},
			"isolate process: a client's processes are not known":                                {"--listen", "127.0.0.1:1080", "--upstream", "tor", "--isolate", "process"},
			bad + ":2:1: a password must follow the name":                                        {"--listen", "127.0.0.1:1080", "--users", bad},
			none + " has no user": {"--listen", "127.0.0.1:1080", "--users", none},
			"others can read the passwords in " + open + " (chmod 600 " + open + ")": {"--listen", "127.0.0.1:1080", "--users", open},
			"did you mean --listen?": {"--lisen", "127.0.0.1:1080"},
		} {
			w.denied(w.appfw(append([]string{"serve"}, args...)...), want)
		}
		if b := mustRead(t, file); string(b) != "not a socket" {
			t.Errorf("the file is %q now", b)
		}
		// A socket that is in use stays; one that was left is replaced.
		socket := filepath.Join(w.user.Home, "proxy")
		s := w.serve("--listen", "unix:"+socket, "--allow", "example.com")
		w.denied(w.appfw("serve", "--listen", "unix:"+socket), "--listen unix:"+socket+": another process listens there")
		if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v %v", info.Mode(), err)
		}
		s.signal(unix.SIGKILL)
		s.end()
		s = w.serve("--listen", "unix:"+socket, "--allow", "example.com")
		wants(t, w.ok(w.curl("-x", "socks5h://localhost"+socket, "http://example.com/")), "hello from example.com")
		s.stop()
	})
}
