package main

import (
	"context"
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
