package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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
