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

	"appfw/testdata/internet"
)

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
