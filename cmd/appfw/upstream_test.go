package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"appfw/testdata/internet"
)

// proxies are real proxies on a host of the internet, with a resolver that nobody
// else asks.
type proxies struct {
	*world
	host   *internet.Host // proxy.example
	zone   *internet.Zone
	resolv string // the file that names the resolver
}

// Where the proxies listen, when they are started.
const (
	viaSocks   = "socks5h://11.22.0.60:1080"            // microsocks
	viaDante   = "socks5h://me:geheim@11.22.0.60:1081"  // with UDP
	viaHTTP    = "http://me:geheim@11.22.0.60:8080"     // tinyproxy
	viaHTTPS   = "https://me:geheim@proxy.example:8443" // ncat
	viaSocksV6 = "socks5://[2a0d:aaaa::60]:1082"        // microsocks
)

// proxied starts proxies.
func (w *world) proxied(upstreams ...string) *proxies {
	w.t.Helper()
	p := &proxies{world: w, zone: w.NewZone(), host: w.Host("11.22.0.60", "2a0d:aaaa::60").Name("proxy.example")}
	w.Host("11.22.0.61").ServeDNS(p.zone)
	p.zone.Set("example.com. 300 A 11.22.0.10", "shared.example. 300 A 11.22.0.10", "other.example. 300 A 11.22.0.20",
		"git.example. 300 A 11.22.0.42", "abcdefghij.onion. 300 A 11.22.0.10", "proxy.example. 300 A 11.22.0.60")
	p.resolv = w.write("proxies.resolv", "nameserver 11.22.0.61\n")
	for _, u := range upstreams {
		p.start(u)
	}
	return p
}

// start starts the proxy that an upstream names.
func (p *proxies) start(upstream string) (proxy *internet.Cmd) {
	p.t.Helper()
	var port int
	switch upstream {
	case viaSocks:
		port, proxy = 1080, p.serve("microsocks", "-i", "11.22.0.60", "-p", "1080")
	case viaSocksV6:
		port, proxy = 1082, p.serve("microsocks", "-i", "2a0d:aaaa::60", "-p", "1082")
	case viaDante:
		port, proxy = 1081, p.serve("danted", "-f", p.write("danted.conf", `
			logoutput: stderr
			internal: 11.22.0.60 port = 1081
			external: 11.22.0.60
			socksmethod: username
			clientmethod: none
			user.privileged: root
			user.unprivileged: nobody
			client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
			socks block { from: 0.0.0.0/0 to: 11.22.0.20/32 }
			socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
		`))
	case viaHTTP:
		port, proxy = 8080, p.serve("tinyproxy", "-d", "-c", p.write("tinyproxy.conf", "User root\nListen 11.22.0.60\nPort 8080\nTimeout 60\nBasicAuth me geheim\n"))
	case viaHTTPS:
		cert, key, _ := p.Certificate("proxy.example")
		port, proxy = 8443, p.serve("ncat", "-lk", "11.22.0.60", "8443", "--proxy-type", "http", "--proxy-auth", "me:geheim", "--ssl", "--ssl-cert", cert, "--ssl-key", key)
	}
	p.AwaitTCP(port)
	return proxy
}

// serve starts a server that knows the proxies' resolver and the user me.
func (p *proxies) serve(command ...string) *internet.Cmd {
	p.t.Helper()
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		p.t.Fatal(err)
	}
	users := p.write("proxies.passwd", string(passwd)+"me:x:20002:20002::/:/bin/false\n")
	// openssl passwd -6 geheim
	secrets := p.write("proxies.shadow", "root:*:20000::::::\nme:$6$JMleji4AS/euAD8A$zvmfiaGMwi/7./7vJcacGWv0HiygyDJGC3Y747oEjNY3xfEBnMVdN3Yh482UKc26/O1/dZk1gkrpGpPso14E70:20000::::::\n")
	args := []string{"--mount", "sh", "-ec", `mount --bind "$0" /etc/resolv.conf
		mount --bind "$1" /etc/passwd; mount --bind "$2" /etc/shadow
		shift 2; exec "$@"`, p.resolv, users, secrets}
	return p.Server("unshare", append(args, command...)...)
}

// indirect fails the test if something went beside the proxies: a packet to a
// server, or a question to the host's resolver.
func (p *proxies) indirect() {
	p.t.Helper()
	p.untouched(p.example)
	p.untouched(p.other)
	for _, q := range p.Zone().Queries() {
		if !strings.HasPrefix(q, "proxy.example.") && !strings.HasPrefix(q, "git.example.") {
			p.t.Errorf("the host's resolver was asked %s", q)
		}
	}
}

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
		w.resolv = p.resolv
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

// Nothing goes direct while the proxy is down, programs fail at once, and all is
// well when it is up again.
func TestUpstreamDown(t *testing.T) {
	both(t, func(w *world) {
		p := w.proxied()
		s := w.session("--upstream", viaSocks, "--allow", "example.com", "--allow", "11.22.0.10", "--", "sh")
		dials := strings.Join(probing("dial", "example.com:80", "11.22.0.10:80"), " ")
		down := func() {
			t.Helper()
			out := s.ok(dials)
			if strings.Count(out, "network is unreachable") != 2 {
				t.Errorf("while it is down: %s", out)
			}
			for _, dial := range []string{"curl -sS http://example.com", "curl -sS http://11.22.0.10", "curl -sS https://example.com"} {
				if out, ok := s.run("timeout 1 " + dial); ok || !strings.Contains(out, "curl: (7)") {
					t.Errorf("%s: %q", dial, out)
				}
			}
			p.indirect()
		}
		down()
		s.says("appfw: denied tcp example.com:80: the upstream failed: socks5h://11.22.0.60:1080: connect: connection refused\n")
		for range 2 {
			proxy := p.start(viaSocks)
			wants(t, s.ok("curl -sS http://example.com"), "hello from example.com")
			wants(t, s.ok("curl -sS http://11.22.0.10"), "hello from 11.22.0.10")
			if err := proxy.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = proxy.Wait()
			down()
		}
	})
}

// An upstream that is not what it should be, or wants another password, is told of.
func TestUpstreamWrong(t *testing.T) {
	w := newWorld(t)
	p := w.proxied(viaDante, viaHTTP, viaSocks)
	for upstream, want := range map[string]string{
		"socks5h://me:falsch@11.22.0.60:1081": "denied tcp example.com:80: the upstream failed: socks5h://11.22.0.60:1081: it does not take the user and password",
		"http://me:falsch@11.22.0.60:8080":    "denied tcp example.com:80: the upstream failed: http://11.22.0.60:8080: it does not take the user and password",
		"http://me:falsch@11.22.0.60:1080":    "the upstream failed: http://11.22.0.60:1080: ",
		"https://me:falsch@11.22.0.60:1080":   "the upstream failed: https://11.22.0.60:1080: ",
		"http://me:falsch@11.22.0.60:9":       "the upstream failed: http://11.22.0.60:9: connect: connection refused",
	} {
		r := w.run("--upstream", upstream, "--allow", "example.com", "--", "curl", "-sS", "http://example.com")
		w.denied(r, want)
		if strings.Contains(r.stderr, "falsch") {
			t.Errorf("the password shows: %s", r.stderr)
		}
	}
	for upstream, want := range map[string]string{
		"me:falsch@h:1":               "appfw: --upstream: it has no scheme",
		"ftp://me:falsch@h:1":         `appfw: --upstream: "ftp" is no scheme`,
		"a=socks5h://me:falsch@h:x":   "appfw: --upstream: the URL cannot be understood",
		"Direct=socks5h://me:fal@h:1": "appfw: --upstream: \"Direct\": the name of an upstream",
	} {
		r := w.run("--upstream", upstream, "--", "true")
		if r.code != exitFailed || !strings.Contains(r.stderr, want) || strings.Contains(r.stderr, "falsch") {
			t.Errorf("%s: code %d: %s", upstream, r.code, r.stderr)
		}
	}
	p.indirect()
}

// What stands for a name is an address like any other to programs; the names that
// connections show are judged there, too; and only it leads anywhere.
func TestUpstreamNames(t *testing.T) {
	both(t, func(w *world) {
		p := w.proxied(viaSocks)
		run := func(args ...string) result {
			t.Helper()
			return w.run(append([]string{"--upstream", viaSocks, "--allow", "example.com", "--allow", "shared.example", "--"}, args...)...)
		}
		out := w.ok(run("sh", "-ec", `a=$(dig +short example.com) b=$(dig +short AAAA example.com); echo $a $b $(dig +short -x $a) $(dig +short -x $b)
			dig example.com TXT; dig example.com HTTPS; dig -x 198.18.0.0; dig +short shared.example`))
		if !regexp.MustCompile(`^198\.1[89]\.\d+\.\d+ fd61:7070:6677:ff00:\S+ example\.com\. example\.com\.\n`).MatchString(out) {
			t.Error(out)
		}
		if strings.Count(out, "status: NOERROR, ") != 2 || strings.Count(out, "ANSWER: 0") != 3 || !strings.Contains(out, "status: NXDOMAIN") {
			t.Error(out)
		}
		again := w.ok(run("dig", "+short", "example.com"))
		if strings.HasPrefix(out, strings.TrimSpace(again)+" ") {
			t.Errorf("two runs gave out %s", again)
		}
		for _, family := range []string{"-4", "-6"} {
			wants(t, w.ok(run("curl", "-sS", family, "https://example.com")), "hello from example.com")
		}

		// A name that is allowed, but has another address.
		const other = "the name shared.example was not resolved to this address"
		w.denied(run("curl", "-sS", "--connect-to", "shared.example:443:example.com:443", "https://shared.example"), other)
		w.denied(run("curl", "-sS", "-H", "Host: shared.example", "http://example.com"), other)
		w.denied(run("curl", "-sS", "-H", "Host: other.example", "http://example.com"), "denied tcp other.example:80")
		w.denied(run("curl", "-sS", "http://198.18.0.0"), "denied tcp 198.18.0.0:80: it is an address that stands for a name, and was given out for none")

		// Neither the name nor the address can be pinged by a proxy.
		for _, to := range []string{"example.com", "11.22.0.10"} {
			r := w.run("--upstream", viaSocks, "--allow", "example.com", "--allow", "11.22.0.10", "--", "ping", "-4", "-c", "1", "-W", "2", to)
			w.denied(r, "denied icmp "+to+": upstreams carry no ICMP")
			wants(t, r.stdout, "Packet filtered")
		}
		p.indirect()
		if p.zone.Asked("other.example") || p.zone.Asked("shared.example") {
			t.Errorf("the proxy asked %v", p.zone.Queries())
		}

		why := w.ok(w.appfw("why", "--upstream", viaDante, "--allow", "example.com", "example.com:443"))
		if why != "allow tcp example.com:443: the rule --allow example.com (command line) allows it, by socks5h://11.22.0.60:1081\n" {
			t.Error(why)
		}
		wants(t, w.ok(w.appfw("why", "--upstream", viaSocks, "--allow", "any", "--allow", "example.com:25 via=direct", "abcdefghij.onion:80")), "allow tcp abcdefghij.onion:80: ")
		p.indirect()
	})
}

// A rule says by which way what it allows goes.
func TestUpstreamVia(t *testing.T) {
	both(t, func(w *world) {
		p := w.proxied(viaSocks, viaHTTP)
		run := func(lines string, command ...string) result {
			t.Helper()
			return w.run(append([]string{"--policy", w.write("via.policy", lines), "--"}, command...)...)
		}
		const get = "curl -sS http://example.com; curl -sS http://other.example"
		at := func(port uint16) int { return w.PacketsTo(p.host.Addr4(), unix.IPPROTO_TCP, port) }

		// By one of two; without a via, directly.
		lines := "upstream a=" + viaSocks + "\nupstream b=" + viaHTTP + "\nallow example.com via=a\nallow other.example\n"
		wants(t, w.ok(run(lines, "sh", "-ec", get)), "hello from example.com", "hello from other.example")
		if at(1080) == 0 || at(8080) != 0 || w.Packets(w.other.Addr4())+w.Packets(w.other.Addr6()) == 0 || !w.Zone().Asked("other.example") || p.zone.Asked("other.example") {
			t.Errorf("%d and %d packets went to the proxies", at(1080), at(8080))
		}
		// By the policy's, but for one.
		before := w.Packets(w.other.Addr4()) + w.Packets(w.other.Addr6())
		lines = "upstream " + viaHTTP + "\nallow .example via=direct\nallow any\nallow shared.example via=tor\n"
		wants(t, w.ok(run(lines, "sh", "-ec", get)), "hello from example.com", "hello from other.example")
		if at(8080) == 0 || w.Packets(w.other.Addr4())+w.Packets(w.other.Addr6()) == before {
			t.Errorf("%d packets went to the proxy", at(8080))
		}
		w.denied(run(lines, "curl", "-sS", "http://shared.example"), "the upstream failed: tor: connect: connection refused")
		// Another way at another port: resolved when it is dialled.
		lines = "upstream " + viaSocks + "\nallow other.example:80\nallow other.example:443 via=direct\n"
		before = w.Packets(w.other.Addr4()) + w.Packets(w.other.Addr6())
		wants(t, w.ok(run(lines, "curl", "-sS", "http://other.example")), "hello")
		if w.Packets(w.other.Addr4())+w.Packets(w.other.Addr6()) != before {
			t.Error("port 80 went directly")
		}
		wants(t, w.ok(run(lines, "curl", "-sS", "https://other.example")), "hello")
		if w.Packets(w.other.Addr4())+w.Packets(w.other.Addr6()) == before {
			t.Error("port 443 did not go directly")
		}
		// Two ways, of which none is the narrower.
		w.denied(run("allow shared.example via=tor\nallow shared.example via=direct\n", "curl", "-sS", "http://shared.example"), "rules of which none is the narrower send it different ways (via)")
		w.untouched(w.example)
		for _, name := range []string{"example.com", "shared.example"} {
			if w.Zone().Asked(name) {
				t.Errorf("the host's resolver was asked for %s", name)
			}
		}
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

// A policy that names another upstream cuts what goes by the old one.
func TestUpstreamReload(t *testing.T) {
	asAnother(t, func(w *world, flags []string) {
		p := w.proxied(viaSocks, viaHTTP, viaDante)
		w.example.ServeTCP(7, func(c net.Conn) { _, _ = io.Copy(c, c) })
		policy := w.write("a.policy", "upstream "+viaSocks+"\nallow example.com\n")
		s := w.session(append(append(flags, "--policy", policy, "--"), probing("talk")...)...)
		talk := func(id string) {
			t.Helper()
			if out := s.ask("open " + id + " tcp example.com:7"); out != "open" {
				t.Fatalf("open: %s", out)
			}
			if out := s.ask("say " + id + " hello"); out != "hello" {
				t.Fatalf("say: %s", out)
			}
		}
		at := func(port uint16) int { return w.PacketsTo(p.host.Addr4(), unix.IPPROTO_TCP, port) }
		talk("1")
		// What does not touch the upstream leaves it.
		w.write("a.policy", "upstream "+viaSocks+"\nallow example.com\nallow other.example\n")
		s.reload()
		if out := s.ask("say 1 again"); out != "again" {
			t.Errorf("say: %s", out)
		}
		for i, lines := range []string{"upstream " + viaHTTP + "\nallow example.com\n", "upstream x=" + viaDante + "\nallow example.com via=x\n"} {
			w.write("a.policy", lines)
			s.reload()
			if out := s.ask(fmt.Sprintf("hear %d", i+1)); out != "ECONNRESET" {
				t.Errorf("after %q: %s", lines, out)
			}
			s.says("the policy has changed, and it would go out another way now")
			before := at([]uint16{8080, 1081}[i])
			talk(fmt.Sprint(i + 2))
			if at([]uint16{8080, 1081}[i]) == before {
				t.Errorf("not by the upstream of %q", lines)
			}
		}
		p.indirect()
		// And directly: then it is resolved here.
		w.write("a.policy", "allow example.com\n")
		s.reload()
		if out := s.ask("hear 3"); out != "ECONNRESET" {
			t.Error(out)
		}
		talk("4")
		if !w.Zone().Asked("example.com") {
			t.Error("not resolved here")
		}
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

// A flow that goes out directly to a name that has an upstream at other ports is cut
// when its address is denied, which the program never saw.
func TestUpstreamDirectDenied(t *testing.T) {
	asAnother(t, func(w *world, flags []string) {
		w.proxied(viaSocks)
		w.example.ServeTCP(7, func(c net.Conn) { _, _ = io.Copy(c, c) })
		lines := "upstream x=" + viaSocks + "\nallow example.com:80 via=x\nallow example.com:7\n"
		policy := w.write("a.policy", lines)
		s := w.session(append(append(flags, "--policy", policy, "--"), probing("talk")...)...)
		if out := s.ask("open 1 tcp example.com:7"); out != "open" {
			t.Fatalf("open: %s", out)
		}
		w.write("a.policy", lines+"deny 11.22.0.99\n")
		s.reload()
		if out := s.ask("say 1 hello"); out != "hello" {
			t.Errorf("another address was denied, and %s", out)
		}
		w.write("a.policy", lines+"deny 11.22.0.10\ndeny 2a0d:aaaa::10\n")
		s.reload()
		if out := s.ask("hear 1"); out != "ECONNRESET" {
			t.Errorf("hear: %s", out)
		}
	})
}
