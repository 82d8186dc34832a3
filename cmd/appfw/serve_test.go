package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/testdata/internet"
)

const serving = `appfw: serving SOCKS and HTTP at (\S+)\n`

// serve starts a proxy, and waits until it listens everywhere.
func (w *world) serve(args ...string) *session {
	w.t.Helper()
	s := w.start(append([]string{"serve"}, args...)...)
	for _, a := range args {
		if a == "--listen" {
			s.await(s.err, serving)
		}
	}
	return s
}

// stop tells a proxy to end, and fails the test unless it does so well.
func (s *session) stop() {
	s.t.Helper()
	s.signal(unix.SIGTERM)
	if code := s.end(); code != 0 {
		s.t.Errorf("it ended with %d: %s", code, s.err)
	}
}

// curl runs curl on the host, beside appfw.
func (w *world) curl(args ...string) result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	return w.finish(w.Command(ctx, w.user, "curl", append([]string{"-sS", "-m", "20", "--noproxy", ""}, args...)...))
}

// A proxy alone serves what the policy allows by all its protocols, by TCP and by
// a socket, and sends nothing to where it does not.
func TestServe(t *testing.T) {
	both(t, func(w *world) {
		socket := filepath.Join(w.user.Home, "proxy")
		log := filepath.Join(w.user.Home, "log.json")
		s := w.serve("--listen", "127.0.0.1:1080", "--listen", "[::1]:1080", "--listen", "unix:"+socket, "--log", log,
			"--allow", "example.com", "--allow", "11.22.0.20:80")
		for _, by := range [][]string{
			{"-x", "socks5h://127.0.0.1:1080"}, {"-x", "socks5h://[::1]:1080"}, {"-x", "socks5h://localhost" + socket},
			{"-x", "socks4a://127.0.0.1:1080"}, {"-x", "http://127.0.0.1:1080"}, {"-p", "-x", "http://127.0.0.1:1080"},
		} {
			for _, url := range []string{"http://example.com/", "https://example.com/"} {
				wants(t, w.ok(w.curl(append(by, url)...)), "hello from example.com")
			}
			if by[1] != "socks4a://127.0.0.1:1080" { // it has the name as such, and no literal beside it
				wants(t, w.ok(w.curl(append(by, "http://11.22.0.20/")...)), "hello from 11.22.0.20")
			}
		}
		for _, by := range []string{"socks5h://127.0.0.1:1080", "socks4a://127.0.0.1:1080", "http://[::1]:1080"} {
			for what, url := range map[string]string{
				"a name":                       "https://other.example/",
				"an address":                   "https://11.22.0.20/",
				"an address of an allowed one": "https://11.22.0.10/",
			} {
				if r := w.curl("-k", "-x", by, url); r.code == 0 || r.took > failFast {
					t.Errorf("%s by %s: code %d after %v: %s", what, by, r.code, r.took, r.stdout)
				}
			}
		}
		if w.PacketsTo(w.other.Addr4(), unix.IPPROTO_TCP, 443) != 0 || w.Packets(w.other.Addr6()) != 0 || w.Zone().Asked("other.example") {
			t.Error("packets were sent for what is denied")
		}
		s.says("appfw: denied tcp other.example:443: no rule allows it (to allow: --allow other.example:443)\n",
			"appfw: denied tcp 11.22.0.10:443: no rule allows it (to allow: --allow 11.22.0.10:443)\n")
		wants(t, w.curl("-x", "http://127.0.0.1:1080", "http://other.example/").stdout,
			"appfw: denied tcp other.example:80: no rule allows it (to allow: --allow other.example:80)\n")
		s.stop()
		lines := string(mustRead(t, log))
		wants(t, lines, `"name":"other.example","client":"127.0.0.1:`, `"client":"unix"`, `"client":"[::1]:`, `"event":"close"`)
		if _, err := os.Lstat(socket); !os.IsNotExist(err) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
}

func mustRead(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What rotates logs moves them away, and sends SIGHUP; if the log cannot be opened
// anew, it goes on in the old file.
func TestServeLogRotated(t *testing.T) {
	both(t, func(w *world) {
		log := filepath.Join(w.user.Home, "log.json")
		s := w.serve("--listen", "127.0.0.1:1080", "--log", log, "--allow", "example.com")
		get := func(path string) {
			t.Helper()
			w.ok(w.curl("-x", "socks5h://127.0.0.1:1080", "http://example.com/"+path))
		}
		hangUp := func() {
			t.Helper()
			s.signal(unix.SIGHUP)
			s.await(s.err, "there is no file to read the policy anew from")
		}
		get("")
		if err := os.Rename(log, log+".1"); err != nil {
			t.Fatal(err)
		}
		hangUp()
		get("")
		for _, name := range []string{log, log + ".1"} {
			if n := strings.Count(string(mustRead(t, name)), `"event":"decision"`); n != 1 {
				t.Errorf("%d flows in %s", n, name)
			}
		}
		if err := os.Rename(log, log+".2"); err != nil {
			t.Fatal(err)
		}
		elsewhere := filepath.Join(w.user.Home, "elsewhere")
		for i, instead := range []func() error{
			func() error { return os.Mkdir(log, 0o755) },
			func() error { return os.Symlink(elsewhere, log) },
			func() error { return unix.Mkfifo(log, 0o666) }, // which nobody reads
			func() error { return errors.Join(os.WriteFile(elsewhere, nil, 0o666), os.Link(elsewhere, log)) },
		} {
			if err := instead(); err != nil {
				t.Fatal(err)
			}
			s.signal(unix.SIGHUP)
			s.await(s.err, "appfw: --log goes on in the file that was open: .*\n(?s:.*)there is no file to read the policy anew from")
			get("")
			if n := strings.Count(string(mustRead(t, log+".2")), `"event":"decision"`); n != i+2 {
				t.Errorf("%d flows in the last, after %d reopenings", n, i+1)
			}
			if err := os.Remove(log); err != nil {
				t.Fatal(err)
			}
		}
		s.stop()
		if text := mustRead(t, elsewhere); len(text) > 0 {
			t.Errorf("it was led elsewhere: %s", text)
		}
	})
}

// It listens where it is told to, and not at all addresses of the other family besides.
func TestServeListens(t *testing.T) {
	w := newWorld(t)
	for listen, other := range map[string]string{"0.0.0.0:1080": "[::1]:1080", "[::]:1080": "127.0.0.1:1080"} {
		s := w.serve("--listen", listen, "--anyone", "--allow", "example.com")
		s.says("appfw: serving SOCKS and HTTP at " + listen + "\n")
		if c, err := w.DialFromHost("tcp", other); err == nil {
			c.Close()
			t.Errorf("--listen %s: %s is open", listen, other)
		}
		s.stop()
	}
	s := w.serve("--listen", "0.0.0.0:1080", "--listen", "[::]:1080", "--anyone", "--allow", "example.com")
	for _, by := range []string{"127.0.0.1", "[::1]"} {
		wants(t, w.ok(w.curl("-x", "socks5h://"+by+":1080", "http://example.com/")), "hello")
	}
	s.stop()
}

// An address that is the host's only as one of a prefix is the host's, too.
func TestLocalPrefix(t *testing.T) {
	w := newWorld(t)
	w.ok(w.finish(w.Command(t.Context(), w.Root(), "ip", "addr", "add", "11.55.0.1/24", "dev", "lo")))
	l, err := w.ListenOnHost("tcp4", "0.0.0.0:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var reached atomic.Int32
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			reached.Add(1)
			c.Close()
		}
	}()
	w.Zone().Set("vip.example. A 11.55.0.9", "vip1.example. A 11.55.0.1")
	for _, to := range []string{"vip.example", "vip1.example", "11.55.0.9", "11.55.0.1", "127.0.0.9"} {
		for _, flags := range [][]string{{"--allow", "*.example"}, {"--default", "allow"}} {
			w.denied(w.run(append(flags, "--", "ncat", "-w5", to, "8080")...), "appfw: denied")
		}
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("the host was reached %d times", n)
	}
	// Where sockets may have any address, the others are not the host's yet.
	w.ok(w.finish(w.Command(t.Context(), w.Root(), "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_nonlocal_bind")))
	w.ok(w.run("--allow", "example.com", "--", "curl", "-sS", "http://example.com"))
	w.denied(w.run("--allow", "*.example", "--", "ncat", "-w5", "vip.example", "8080"), "appfw: denied")
	w.ok(w.run("--allow", "11.55.0.0/24", "--", "ncat", "-w5", "11.55.0.9", "8080"))
	if n := reached.Load(); n != 1 {
		t.Errorf("by a rule for the address, it was reached %d times", n)
	}

	s := w.serve("--listen", "0.0.0.0:1080", "--anyone", "--allow", "any", "--allow", "localhost")
	for _, own := range []string{"127.0.0.1", "127.0.0.2", "11.55.0.9", w.Addr4().String()} {
		if r := w.curl("-x", "socks5h://127.0.0.1:1080", "http://"+own+":1080/"); r.code == 0 {
			t.Errorf("%s: it reached itself: %s", own, r.stdout)
		}
	}
	s.says("appfw: denied tcp 127.0.0.2:1080: it is a port of appfw's own\n", "appfw: denied tcp 11.55.0.9:1080: it is a port of appfw's own\n")
	s.stop()
	if r := w.appfw("serve", "--listen", "0.0.0.0:1080", "--anyone", "--upstream", "socks5h://127.0.0.2:1080", "--allow", "any"); r.code != 125 {
		t.Errorf("an upstream that is itself: %+v", r)
	}
}

// A client cannot fill the terminal or the memory by what it takes for names.
func TestServeLongNames(t *testing.T) {
	w := newWorld(t)
	log := filepath.Join(w.user.Home, "log.json")
	s := w.serve("--listen", "127.0.0.1:1080", "--log", log, "--allow", "example.com")
	for i := range 5 {
		w.tunnel(fmt.Sprintf("CONNECT %d%s:443 HTTP/1.1\r\n\r\n", i, strings.Repeat("!", 60000)), "HTTP/1.1 403 ")
	}
	s.stop()
	if stderr, text := s.err.String(), mustRead(t, log); strings.Count(stderr, "denied") != 5 || len(stderr) > 5*1000 || len(text) > 5*2000 {
		t.Errorf("%d bytes on stderr, %d in the log: %.1000s", len(stderr), len(text), stderr)
	}
}

// The proxy is no way to the host's loopback, nor to itself.
func TestServeHost(t *testing.T) {
	both(t, func(w *world) {
		l, err := w.ListenOnHost("tcp", "127.0.0.1:8080")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var reached atomic.Int32
		go func() {
			_ = http.Serve(l, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				reached.Add(1)
				fmt.Fprintln(rw, "hello from the host")
			}))
		}()
		w.Zone().Set("inside.example. 300 A 127.0.0.1", "mine.example. 300 A "+w.Addr4().String())
		s := w.serve("--listen", "127.0.0.1:1080", "--listen", w.Addr4().String()+":1081", "--anyone", "--default", "allow", "--allow", "any")
		for _, url := range []string{
			"http://127.0.0.1:8080/", "http://localhost:8080/", "http://inside.example:8080/", "http://[::ffff:127.0.0.1]:8080/", "http://0.0.0.0:8080/",
			"http://127.0.0.1:1080/", "http://mine.example:1081/", "http://" + w.Addr4().String() + ":1081/",
		} {
			for _, by := range []string{"socks5h://127.0.0.1:1080", "http://127.0.0.1:1080"} {
				if r := w.curl("-x", by, url); r.code == 0 && !strings.Contains(r.stdout, "appfw: denied") {
					t.Errorf("%s by %s: %s", url, by, r.stdout)
				}
			}
		}
		if n := reached.Load(); n != 0 {
			t.Errorf("the loopback was reached %d times", n)
		}
		s.says("it is a port of appfw's own")
		s.stop()
		s = w.serve("--listen", "127.0.0.1:1080", "--allow", "localhost:8080")
		for _, host := range []string{"127.0.0.1", "localhost"} {
			wants(t, w.ok(w.curl("-x", "socks5h://127.0.0.1:1080", "http://"+host+":8080/")), "hello from the host")
		}
		s.stop()
	})
}

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

// Each user has a policy; without a password, nobody has any.
func TestServeUsers(t *testing.T) {
	both(t, func(w *world) {
		w.write("other.policy", "allow other.example\n")
		users := w.secret("users", "# the two of us\nalice open:sesame\nbob hunter2 "+filepath.Join(w.Dir(), "other.policy")+"\n")
		at := w.Addr4().String() + ":1080"
		s := w.serve("--listen", at, "--users", users, "--allow", "example.com")
		for _, scheme := range []string{"socks5h", "http"} {
			wants(t, w.ok(w.curl("-x", scheme+"://alice:open%3Asesame@"+at, "https://example.com/")), "hello from example.com")
			wants(t, w.ok(w.curl("-x", scheme+"://bob:hunter2@"+at, "https://other.example/")), "hello from other.example")
		}
		for _, by := range []string{
			"socks5h://bob:hunter2@", "socks5h://bob:hunter@", "socks5h://bob:@", "socks5h://carol:hunter2@", "socks5h://", "socks4a://bob@",
			"http://bob:hunter2@", "http://bob:open%3Asesame@", "http://alice@", "http://",
		} {
			if r := w.curl("-x", by+at, "http://example.com/"); r.code == 0 && !strings.Contains(r.stdout, "appfw: ") || r.took > failFast {
				t.Errorf("by %s: code %d after %v: %s", by, r.code, r.took, r.stdout)
			}
		}
		if w.PacketsTo(w.example.Addr4(), unix.IPPROTO_TCP, 80)+w.PacketsTo(w.other.Addr4(), unix.IPPROTO_TCP, 80) != 0 {
			t.Error("packets were sent for nobody")
		}
		wants(t, w.curl("-i", "-x", "http://"+at, "http://example.com/").stdout, "407 Proxy Authentication Required", `Proxy-Authenticate: Basic realm="appfw"`, "appfw: it needs a user and a password\n")
		wants(t, w.curl("-x", "http://nobody:x@"+at, "http://example.com/").stdout, "appfw: the user or the password is wrong\n")
		s.says("appfw: denied client " + w.Addr4().String() + ": the user and the password are nobody's\n")

		// A user who is gone has to go, and one who comes may come.
		w.example.ServeTCP(7, func(c net.Conn) { _, _ = io.Copy(c, c) })
		tunnel, err := w.DialFromHost("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer tunnel.Close()
		_ = tunnel.SetDeadline(time.Now().Add(patience))
		fmt.Fprint(tunnel, "\x05\x01\x02\x01\x05alice\x0bopen:sesame\x05\x01\x00\x03\x0bexample.com\x00\x07")
		if _, err := io.ReadFull(tunnel, make([]byte, 2+2+10)); err != nil {
			t.Fatal(err)
		}
		w.secret("users", "carol 12345\n")
		s.signal(unix.SIGHUP)
		const cut = "denied tcp example.com:7 for alice: its user may not use the proxy any more"
		s.await(s.err, "(?s)"+cut+".*the users were read anew|the users were read anew.*"+cut) // it may just begin
		if _, err := io.ReadAll(tunnel); err == nil {
			t.Error("her tunnel ended as if all were well")
		}
		wants(t, w.ok(w.curl("-x", "http://carol:12345@"+at, "https://example.com/")), "hello from example.com")
		if r := w.curl("-x", "http://alice:open%3Asesame@"+at, "https://example.com/"); r.code == 0 {
			t.Error("alice still gets in")
		}
		w.secret("users", "carol\n")
		s.signal(unix.SIGHUP)
		s.await(s.err, "the users stay as they were: .*users:1:1: a password must follow the name")
		wants(t, w.ok(w.curl("-x", "http://carol:12345@"+at, "https://example.com/")), "hello from example.com")
		s.stop()
	})
}

// Who may come to the proxy is said by allow-from, too.
func TestServeFrom(t *testing.T) {
	both(t, func(w *world) {
		near, far := w.Host("11.22.7.7"), w.Host("11.22.8.8")
		at := w.Addr4().String() + ":1080"
		s := w.serve("--listen", at, "--anyone", "--allow", "example.com", "--allow-from", "11.22.7.0/24")
		for from, want := range map[*internet.Host]string{near: "HTTP/1.1 200", far: ""} {
			conn, err := from.DialFrom("tcp", at)
			if want == "" && errors.Is(err, unix.ECONNRESET) {
				continue // faster than connect(2)
			}
			if err != nil {
				w.t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(patience))
			fmt.Fprint(conn, "CONNECT example.com:443 HTTP/1.1\r\n\r\n")
			answer := make([]byte, len("HTTP/1.1 200"))
			if n, err := io.ReadFull(conn, answer); string(answer[:n]) != want || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: %q %v", conn.LocalAddr(), answer[:n], err)
			}
		}
		s.says("appfw: denied tcp from 11.22.8.8 to port 1080: no rule allows it (to allow: --allow-from 11.22.8.8:1080)\n")
		s.stop()
	})
}

// secret writes a file that only the world's user can read.
func (w *world) secret(name, text string) string {
	w.t.Helper()
	name = filepath.Join(w.user.Home, name)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Chown(name, int(w.user.UID), int(w.user.GID)); err != nil {
		w.t.Fatal(err)
	}
	return name
}

// A policy that changes cuts what it denies: tunnels, and what is kept open for
// requests.
func TestServeReload(t *testing.T) {
	both(t, func(w *world) {
		w.example.ServeTCP(7, func(c net.Conn) { _, _ = io.Copy(c, c) })
		policy := w.write("a.policy", "allow example.com\n")
		s := w.serve("--listen", "127.0.0.1:1080", "--policy", policy)
		socks := w.tunnel("CONNECT example.com:7 HTTP/1.1\r\n\r\n", "HTTP/1.1 200 Connection established\r\n\r\n")
		forward := w.tunnel("GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n", "HTTP/1.1 200 OK\r\n")
		w.write("a.policy", "allow other.example\n")
		s.reload()
		if _, err := io.ReadAll(socks); err == nil {
			t.Error("the tunnel ended as if all were well")
		}
		fmt.Fprint(forward, "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\nGET http://other.example/ HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n")
		answers, err := io.ReadAll(forward)
		if err != nil {
			t.Fatal(err)
		}
		wants(t, string(answers), "HTTP/1.1 403 Forbidden", "appfw: denied tcp example.com:80: no rule allows it", "hello from other.example")
		s.stop()
	})
}

// tunnel says something to the proxy at port 1080 of the host's loopback, and
// waits until it has answered so.
func (w *world) tunnel(say, answer string) net.Conn {
	w.t.Helper()
	conn, err := w.DialFromHost("tcp", "127.0.0.1:1080")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	got := make([]byte, len(answer))
	if _, err := io.WriteString(conn, say); err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != answer {
		w.t.Fatalf("%q: %q %v", say, got, err)
	}
	return conn
}

// When it is told to end, it takes in nobody, and who is connected may go on for a
// while.
func TestServeEnds(t *testing.T) {
	both(t, func(w *world) {
		w.example.ServeTCP(7, func(c net.Conn) { _, _ = io.Copy(c, c) })
		connect := func() net.Conn {
			return w.tunnel("CONNECT example.com:7 HTTP/1.1\r\n\r\n", "HTTP/1.1 200 Connection established\r\n\r\n")
		}
		refused := func() {
			t.Helper()
			for started := time.Now(); ; {
				conn, err := w.DialFromHost("tcp", "127.0.0.1:1080")
				if err != nil {
					return
				}
				conn.Close()
				if time.Since(started) > patience {
					t.Fatal("it still takes in clients")
				}
			}
		}
		s := w.serve("--listen", "127.0.0.1:1080", "--allow", "example.com", "--grace", "1h")
		running, idle := connect(), w.tunnel("\x05\x01\x00", "\x05\x00")
		s.signal(unix.SIGTERM)
		refused()
		if _, err := idle.Read(make([]byte, 1)); err == nil {
			t.Error("a client that wants nothing is kept")
		}
		fmt.Fprint(running, "still here")
		if _, err := io.ReadFull(running, make([]byte, 10)); err != nil {
			t.Errorf("the connection was cut: %v", err)
		}
		running.Close()
		if code := s.end(); code != 0 {
			t.Errorf("it ended with %d: %s", code, s.err)
		}

		for _, how := range []struct {
			grace  string
			signal bool // a second one
		}{{"10ms", false}, {"1h", true}} {
			s = w.serve("--listen", "127.0.0.1:1080", "--allow", "example.com", "--grace", how.grace)
			running = connect()
			s.signal(unix.SIGTERM)
			if refused(); how.signal {
				s.signal(unix.SIGINT)
			}
			if _, err := running.Read(make([]byte, 1)); err == nil {
				t.Error("the connection goes on")
			}
			if code := s.end(); code != 0 {
				t.Errorf("it ended with %d: %s", code, s.err)
			}
		}
	})
}
