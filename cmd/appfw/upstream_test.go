package main

import (
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// Programs that know nothing of it go out by a proxy, which resolves the names.
func TestUpstream(t *testing.T) {
	for about, upstreams := range map[string][]string{
		"microsocks":     {viaSocks},
		"dante":          {viaDante},
		"tinyproxy":      {viaHTTP},
		"https":          {viaHTTPS},
		"IPv6":           {viaSocksV6},
		"chain of three": {viaSocks, viaHTTP, viaDante},
		"chain with TLS": {viaDante, viaHTTPS, viaSocks},
	} {
		t.Run(about, func(t *testing.T) {
			both(t, func(w *world) {
				p := w.proxied(upstreams...)
				var by []string
				for _, u := range upstreams {
					by = append(by, "--upstream", u)
				}
				run := func(args ...string) result {
					t.Helper()
					r := w.run(append(by, args...)...)
					if strings.Contains(r.stdout+r.stderr, "geheim") {
						t.Errorf("the password shows: %s%s", r.stdout, r.stderr)
					}
					return r
				}
				wants(t, w.ok(run("--allow", "example.com", "--", "curl", "-sS", "http://example.com")), "hello from example.com")
				wants(t, w.ok(run("--allow", "example.com:443", "--", "curl", "-sS", "https://example.com")), "hello from example.com")
				p.indirect()
				if !p.zone.Asked("example.com") || w.Packets(p.host.Addr4())+w.Packets(p.host.Addr6()) == 0 {
					t.Error("the proxy had no part in it")
				}
				wants(t, w.ok(run("--allow", "11.22.0.10:80", "--", "curl", "-sS", "http://11.22.0.10")), "hello from 11.22.0.10")
				wants(t, w.ok(run("--allow", ".onion", "--", "curl", "-sS", "http://abcdefghij.onion")), "hello from abcdefghij.onion")

				w.denied(run("--allow", "example.com", "--", "curl", "-sS", "http://other.example"), "denied dns other.example: no rule allows it (to allow: --allow other.example)")
				w.denied(run("--allow", "example.com:443", "--", "curl", "-sS", "http://example.com"), "denied tcp example.com:80: no rule allows it (to allow: --allow example.com:80)")
				w.denied(run("--allow", "example.com", "--", "curl", "-sS", "http://11.22.0.20"), "denied tcp 11.22.0.20:80: no rule allows it (to allow: --allow 11.22.0.20:80)")
				if p.zone.Asked("other.example") {
					t.Error("a denied name was asked for")
				}
				r := run(append([]string{"--allow", "example.com", "--"}, probing("dial", "example.com:81")...)...)
				if strings.HasPrefix(upstreams[len(upstreams)-1], "socks") {
					wants(t, r.stdout, "connection refused")
				} else {
					wants(t, r.stdout, "no route to host") // HTTP has no word for it
				}
				if r.took > failFast || strings.Contains(r.stderr, "appfw: ") {
					t.Errorf("nobody listens: after %v: %s", r.took, r.stderr)
				}
				p.indirect()
			})
		})
	}
}

// What a SOCKS proxy itself does not allow is a permission that is denied.
func TestUpstreamRuleset(t *testing.T) {
	both(t, func(w *world) {
		p := w.proxied(viaDante)
		out := w.ok(w.run(append([]string{"--upstream", viaDante, "--allow", "any", "--"}, probing("dial", "11.22.0.20:80", "11.22.0.10:81", "11.22.0.99:80", "11.22.0.10:80")...)...))
		wants(t, out, "11.22.0.10:81: connect: connection refused", "11.22.0.10:80 connected", "11.22.0.99:80: connect: no route to host")
		if strings.Contains(out, "11.22.0.20:80 connected") {
			t.Error(out)
		}
		p.indirect()
	})
}

// ssh -D on the host's own loopback, alone and as the first of three.
func TestUpstreamSSH(t *testing.T) {
	both(t, func(w *world) {
		p := w.proxied(viaSocks, viaHTTP)
		w.resolv = proxiesResolv
		_, ssh := w.sshd()
		w.ok(w.finish(w.Command(t.Context(), w.user, "sh", "-ec", ssh+" -fN -D 127.0.0.1:1080 -o ExitOnForwardFailure=yes git.example > /dev/null 2>&1")))
		const local = "socks5h://127.0.0.1:1080"
		for _, by := range [][]string{{"--upstream", local}, {"--upstream", local, "--upstream", viaHTTP, "--upstream", viaSocks}} {
			wants(t, w.ok(w.run(append(by, "--allow", "example.com", "--", "curl", "-sS", "https://example.com")...)), "hello from example.com")
			wants(t, w.ok(w.run(append(by, "--allow", "11.22.0.10", "--", "curl", "-sS", "http://11.22.0.10")...)), "hello from 11.22.0.10")
			p.indirect()
		}
		if n := w.Packets(p.host.Addr4()); n != 0 {
			t.Errorf("%d packets went to the second proxy beside the first", n)
		}
		if !p.zone.Asked("example.com") {
			t.Error("the proxy asked nobody")
		}
		// The proxy itself is on the host's loopback, and so is not the program's to use.
		out := w.ok(w.run(append([]string{"--upstream", local, "--allow", "any", "--"}, probing("dial", "127.0.0.1:1080")...)...))
		wants(t, out, "127.0.0.1:1080: connect: connection refused")
		w.denied(w.run(append([]string{"--upstream", local, "--allow", "any", "--"}, append(probing("udp", "11.22.0.10:7"), "x")...)...), "the upstream carries no UDP")
		p.indirect()
	})
}

// A proxy may listen on a socket.
func TestUpstreamUnixSocket(t *testing.T) {
	both(t, func(w *world) {
		p := w.proxied(viaSocks)
		path := filepath.Join(w.user.Home, "socks")
		ncat := w.Command(t.Context(), w.user, "ncat", "-lkU", path, "--sh-exec", "exec ncat 11.22.0.60 1080")
		if err := ncat.Start(); err != nil {
			t.Fatal(err)
		}
		w.ok(w.finish(w.Command(t.Context(), w.user, "sh", "-c", `until [ -S "$0" ]; do :; done`, path)))
		wants(t, w.ok(w.run("--upstream", "socks5h://unix:"+path, "--allow", "example.com", "--", "curl", "-sS", "https://example.com")), "hello")
		p.indirect()
	})
}

// UDP goes by the proxies that can carry it, and is refused by the others.
func TestUpstreamUDP(t *testing.T) {
	both(t, func(w *world) {
		p := w.proxied(viaDante, viaSocks, viaHTTP)
		answer := func(c net.PacketConn, from net.Addr, b []byte) { _, _ = c.WriteTo([]byte("echo "+string(b)), from) }
		w.example.ServeUDP(7, answer)
		allow := []string{"--allow", "example.com", "--allow", "11.22.0.10", "--"}
		out := w.ok(w.run(append(append([]string{"--upstream", viaDante}, allow...), probing("udp", "example.com:7", "11.22.0.10:7")...)...))
		wants(t, out, "example.com:7 echo ping <nil>", "11.22.0.10:7 echo ping <nil>")
		const large = `import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
s.connect(("example.com", 7)); s.send(b"x" * 1400); print(len(s.recv(65535)))`
		if out := w.ok(w.run(append(append([]string{"--upstream", viaDante}, allow...), "python3", "-c", large)...)); out != "1405\n" {
			t.Errorf("%s bytes came back", out)
		}
		for _, by := range [][]string{{viaSocks}, {viaHTTP}, {viaDante, viaDante}} {
			var flags []string
			for _, u := range by {
				flags = append(flags, "--upstream", u)
			}
			for _, to := range []string{"example.com:7", "11.22.0.10:7"} {
				r := w.run(append(append(flags, allow...), probing("udp", to)...)...)
				wants(t, r.stdout, to, "o route to host")
				wants(t, r.stderr, "denied udp "+to+": the upstream carries no UDP")
				if r.took > failFast {
					t.Errorf("refused after %v", r.took)
				}
			}
		}
		p.indirect()
	})
}

// Much data arrives whole, also through TLS to the proxy. The client ends only when
// it has all: microsocks and ncat pass on no end of one direction.
func TestUpstreamBulk(t *testing.T) {
	const script = `import socket, sys, threading
data = b"\xff123456789abcde\n" * (1 << 18)
s = socket.create_connection(("example.com", 7))
threading.Thread(target=s.sendall, args=(data,)).start()
got = b""
while len(got) < len(data):
    more = s.recv(1 << 20)
    if not more: break
    got += more
print(got == data)`
	w := newWorld(t)
	w.proxied(viaSocks, viaHTTPS)
	w.example.ServeTCP(7, func(c net.Conn) { _, _ = io.Copy(c, c) })
	for _, u := range []string{viaSocks, viaHTTPS} {
		if out := w.ok(w.run("--upstream", u, "--allow", "example.com:7", "--", "python3", "-c", script)); out != "True\n" {
			t.Errorf("%s: %s", u, out)
		}
	}
}
