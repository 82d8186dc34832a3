package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/testdata/internet"
)

// visitorsPage is an nginx that says who came, and to which address, and logs it in
// visits.
func (w *world) visitorsPage() string {
	return w.write("published/nginx.conf", fmt.Sprintf(`
		user root; daemon off; pid %[1]s/nginx.pid; error_log stderr;
		events {}
		http {
			client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
			log_format who "visit by $remote_addr";
			access_log %[1]s/visits who;
			server {
				listen 8000; listen [::]:8000;
				location / { return 200 "$remote_addr at $server_addr\n"; }
			}
		}`, w.user.Home))
}

// get asks for a page of the host's, as a server of the internet, or as the host
// itself if that is nil.
func (w *world) get(from *internet.Host, at string) (page string, err error) {
	return w.getPath(from, at, "/")
}

func (w *world) getPath(from *internet.Host, at, path string) (page string, err error) {
	var conn net.Conn
	if from == nil {
		conn, err = w.DialFromHost("tcp", at)
	} else {
		conn, err = from.DialFrom("tcp", at)
	}
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	_, page, _ = strings.Cut(string(answer), "\r\n\r\n")
	return strings.TrimSpace(page), err
}

// Clients come to a published port from networks that may, and nginx sees who they
// are. Others are refused before it hears of them.
func TestPublish(t *testing.T) {
	both(t, func(w *world) {
		near := w.Host("11.22.7.7", "2a0d:aaaa:7::7")
		far := w.Host("11.22.8.8", "2a0d:aaaa:8::8")
		log := w.user.Home + "/log.json"
		s := w.session("--publish", "0.0.0.0:8080:8000", "--publish", "[::]:8080:8000", "--log", log,
			"--allow-from", "11.22.7.0/24:8080/tcp", "--allow-from", "2a0d:aaaa:7::/48", "--allow-from", "localhost",
			"--", "nginx", "-e", "stderr", "-p", w.user.Home, "-c", w.visitorsPage())
		at4, at6 := w.Addr4().String()+":8080", "["+w.Addr6().String()+"]:8080"
		s.awaitPage(near, at4)
		for _, c := range []struct {
			from     *internet.Host
			at, want string
		}{
			{near, at4, "11.22.7.7 at 192.0.0.2"},
			{near, at6, "2a0d:aaaa:7::7 at fd61:7070:6677::2"},
			{nil, "127.0.0.1:8080", "127.0.0.1 at 127.0.0.1"},
			{nil, "[::1]:8080", "::1 at ::1"},
		} {
			if page, err := w.get(c.from, c.at); page != c.want || err != nil {
				t.Errorf("%s: %q %v, want %q", c.at, page, err, c.want)
			}
		}
		for _, at := range []string{at4, at6} {
			started := time.Now()
			if page, err := w.get(far, at); err == nil || page != "" || time.Since(started) > failFast {
				t.Errorf("%s: %q %v after %v", at, page, err, time.Since(started))
			}
		}
		if page, err := w.get(nil, at4); err == nil { // no rule names the host's own address
			t.Errorf("%q", page)
		}
		s.says("appfw: denied tcp from 11.22.8.8 to port 8080: no rule allows it (to allow: --allow-from 11.22.8.8:8080)\n",
			"appfw: denied tcp from 2a0d:aaaa:8::8 to port 8080: no rule allows it (to allow: --allow-from [2a0d:aaaa:8::8]:8080)\n")
		s.signal(unix.SIGTERM)
		s.end()
		visits := string(mustRead(t, w.user.Home+"/visits"))
		if wants(t, visits, "visit by 11.22.7.7"); strings.Contains(visits, "8.8") || strings.Contains(visits, "8::8") {
			t.Errorf("nginx heard of %s", visits)
		}
		wants(t, string(mustRead(t, log)), `"event":"decision","verdict":"deny","direction":"in","proto":"tcp","addr":"11.22.8.8","port":8080,"client":"11.22.8.8:`,
			`"event":"close","verdict":"allow","direction":"in","proto":"tcp","addr":"11.22.7.7","port":8080`)
		// With the app, its ports are gone.
		if _, err := near.DialFrom("tcp", at4); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("after it ended: %v", err)
		}
	})
}

// awaitPage waits until the app serves.
func (s *session) awaitPage(from *internet.Host, at string) {
	s.t.Helper()
	for started := time.Now(); ; {
		page, err := s.get(from, at)
		if err == nil && page != "" {
			return
		}
		if time.Since(started) > patience {
			s.t.Fatalf("nobody serves at %s: %v\nstderr: %s", at, err, s.err)
		}
	}
}

// udpVisitors answers each datagram by whose it is.
const udpVisitors = `import socket, threading
def serve(family):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind(("", 7000))
    print("bound", flush=True)
    while True:
        data, who = s.recvfrom(65535)
        s.sendto(("%s says " % who[0]).encode() + data, who)
threading.Thread(target=serve, args=(socket.AF_INET6,)).start()
serve(socket.AF_INET)`

// Datagrams come in and are answered from the address that they came to.
func TestPublishUDP(t *testing.T) {
	both(t, func(w *world) {
		near, far := w.Host("11.22.7.7", "2a0d:aaaa:7::7"), w.Host("11.22.8.8", "2a0d:aaaa:8::8")
		s := w.session("--publish", "0.0.0.0:8080:7000/udp", "--publish", "[::]:8080:7000/udp", "--deny-from", "11.22.8.0/24", "--deny-from", "[2a0d:aaaa:8::]/48:8080/udp",
			"--", "python3", "-c", udpVisitors)
		s.await(s.out, "bound\nbound\n")
		for _, at := range []string{w.Addr4().String() + ":8080", "[" + w.Addr6().String() + "]:8080"} {
			conn, err := near.DialFrom("udp", at) // connected: it hears nothing from another address
			if err != nil {
				t.Fatal(err)
			}
			for _, say := range []string{"hello", strings.Repeat("x", 8000), "again"} {
				who := netip.MustParseAddrPort(conn.LocalAddr().String()).Addr()
				if answer := say1(t, conn, say); answer != who.String()+" says "+say {
					t.Errorf("%s: %.80q", at, answer)
				}
			}
			refused, err := far.DialFrom("udp", at)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if _, err := refused.Write([]byte("hello")); err != nil {
					t.Fatal(err)
				}
			}
		}
		s.await(s.err, "(?s)appfw: denied udp from 11.22.8.8 to port 8080: the rule --deny-from 11.22.8.0/24 .*denied udp from 2a0d:aaaa:8::8")
		local, err := w.DialFromHost("udp", "127.0.0.1:8080")
		if err != nil {
			t.Fatal(err)
		}
		defer local.Close()
		if answer := say1(t, local, "hello"); answer != "127.0.0.1 says hello" {
			t.Errorf("%q", answer)
		}
		s.signal(unix.SIGTERM)
		s.end()
		if strings.Contains(s.out.String(), "8.8") {
			t.Errorf("it heard: %s", s.out)
		}
	})
}

// say1 sends a datagram and returns the answer.
func say1(t *testing.T, conn net.Conn, say string) string {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte(say)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 65535)
	n, err := conn.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// Root's ports are low ones, though the app is somebody else; without an address,
// only the host itself can come.
func TestPublishAsRoot(t *testing.T) {
	w := newWorld(t)
	near := w.Host("11.22.7.7")
	s := w.session("--user", w.Ordinary().Name, "--publish", "0.0.0.0:80:8000", "--publish", "443:8000", "--", "python3", "-u", "-c", `
import http.server, os
print(os.getuid(), os.environ["HOME"], os.environ["USER"], flush=True)
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(self.client_address[0].encode())
http.server.HTTPServer(("", 8000), H).serve_forever()`)
	s.awaitPage(near, w.Addr4().String()+":80")
	if page, err := w.get(near, w.Addr4().String()+":80"); page != "11.22.7.7" {
		t.Errorf("%q %v", page, err)
	}
	if page, err := w.get(nil, "127.0.0.1:443"); page != "127.0.0.1" {
		t.Errorf("%q %v", page, err)
	}
	if page, err := w.get(nil, "[::1]:443"); page != "127.0.0.1" { // it listens to IPv4 alone
		t.Errorf("%q %v", page, err)
	}
	if _, err := near.DialFrom("tcp", w.Addr4().String()+":443"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("from elsewhere: %v", err)
	}
	user := w.Ordinary()
	wants(t, s.out.String(), fmt.Sprintln(user.UID, user.Home, user.Name)) // not root's home
	s.signal(unix.SIGTERM)
}

// What an app says before it exits arrives, whole.
func TestPublishLastWords(t *testing.T) {
	both(t, func(w *world) {
		near := w.Host("11.22.7.7")
		for range 5 {
			s := w.session("--publish", "0.0.0.0:8080:8000", "--", "python3", "-c", `
import socket, os
l = socket.create_server(("", 8000)); print("listening", flush=True)
c, _ = l.accept(); c.recv(1); c.sendall(b"x" * 300000); os._exit(0)`)
			s.await(s.out, "listening\n")
			conn, err := near.DialFrom("tcp", w.Addr4().String()+":8080")
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(patience))
			fmt.Fprint(conn, "?")
			if all, err := io.ReadAll(conn); len(all) != 300000 || err != nil {
				t.Errorf("%d bytes came, and %v", len(all), err)
			}
			s.end()
		}
	})
}

// A policy that changes cuts clients that may not come any more.
func TestPublishReload(t *testing.T) {
	asAnother(t, func(w *world, flags []string) {
		near := w.Host("11.22.7.7")
		policy := w.write("a.policy", "allow-from 11.22.7.0/24\n")
		s := w.session(append(flags, "--policy", policy, "--publish", "0.0.0.0:8080:8000", "--", "python3", "-c", `
import socket
l = socket.create_server(("", 8000)); print("listening", flush=True)
while True: c, _ = l.accept(); c.sendall(b"hello")`)...)
		s.await(s.out, "listening\n")
		at := w.Addr4().String() + ":8080"
		conn, err := near.DialFrom("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		w.write("a.policy", "allow-from 11.22.8.0/24\n")
		s.reload()
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the client: %v", err)
		}
		w.write("a.policy", "deny-from 11.22.8.0/24\n") // half a policy, perhaps
		s.signal(unix.SIGHUP)
		s.await(s.err, "the policy stays as it was: without an allow-from")
		s.signal(unix.SIGTERM)
	})
}

// What cannot be published is said, and nothing runs.
func TestPublishWrong(t *testing.T) {
	both(t, func(w *world) {
		taken, err := w.ListenOnHost("tcp", "127.0.0.1:8080")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		const form = "; it is [ADDR:]HOSTPORT:PORT[/udp], as 8080:80 or 0.0.0.0:25:25"
		for flag, want := range map[string]string{
			"8080":                "--publish 8080: there are two ports" + form,
			"0:80":                `"0" is no port` + form,
			"8080:65536":          `"65536" is no port` + form,
			"example.com:8080:80": `"example.com" is no address` + form,
			"::1:8080:80":         "an IPv6 address is written in brackets" + form,
			"8080:80/sctp":        `"sctp" is no protocol of ports` + form,
			"8080:80":             "--publish 8080:80: listen tcp4 127.0.0.1:8080: bind: address already in use",
			"11.22.0.99:8081:80":  "--publish 11.22.0.99:8081:80: listen tcp4 11.22.0.99:8081: bind: cannot assign requested address",
			"fd:web:80":           `--publish fd:web:80: the service manager passes no socket of the name "web"`,
		} {
			w.denied(w.run("--publish", flag, "--", "touch", w.user.Home+"/ran"), want)
		}
		w.denied(w.run("--allow-from", "example.com", "--", "touch", w.user.Home+"/ran"), `--allow-from: "example.com": a client is known by its address alone`)
	})
}

// A service manager opens the port, and starts appfw when somebody comes.
func TestPassedSockets(t *testing.T) {
	both(t, func(w *world) {
		near := w.Host("11.22.7.7")
		at := w.Addr4().String() + ":8080"
		s := w.talk("systemd-socket-activate", "--fdname=web", "--listen", at, program, "run", "--publish", "fd:web:8000", "--allow-from", "11.22.7.7", "--",
			"python3", "-c", `
import socket, os
assert not [v for v in os.environ if v.startswith("LISTEN_")]
l = socket.create_server(("", 8000))
while True: c, a = l.accept(); c.recv(1000); c.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + a[0].encode()); c.close()`)
		s.await(s.err, "Listening on")
		s.awaitPage(near, at)
		if page, err := w.get(near, at); page != "11.22.7.7" || err != nil {
			t.Errorf("%q %v", page, err)
		}
		s.signal(unix.SIGTERM)
		s.end()

		s = w.talk("systemd-socket-activate", "--listen", "127.0.0.1:1080", program, "serve", "--allow", "example.com")
		s.await(s.err, "Listening on")
		wants(t, w.ok(w.curl("-x", "socks5h://127.0.0.1:1080", "https://example.com/")), "hello from example.com")
		s.stop()
		s = w.talk("systemd-socket-activate", "--listen", at, program, "serve", "--allow", "example.com")
		s.await(s.err, "Listening on")
		if r := w.curl("-x", "socks5h://"+at, "https://example.com/"); r.code == 0 {
			t.Error("whoever comes may use it")
		}
		s.await(s.err, "the socket "+at+" was passed: others than this host could use it")
		s.end()
	})
}
