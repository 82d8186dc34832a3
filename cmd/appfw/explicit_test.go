package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/things-go/go-socks5/statute"
	xproxy "golang.org/x/net/proxy"

	"appfw/testdata/internet"
)

// Programs that know proxies ask appfw's own for their destinations.

func init() {
	probes["by"] = probeBy
	probes["associate"] = probeAssociate
}

// probeBy gets a URL by a proxy: net/http's own way to speak to it, or that of
// golang.org/x/net/proxy.
func probeBy(args []string) error {
	how, proxy, get := args[0], args[1], args[2]
	at, err := url.Parse(proxy)
	if err != nil {
		return err
	}
	transport := &http.Transport{Proxy: http.ProxyURL(at)}
	if how == "x" {
		dialer, err := xproxy.FromURL(at, xproxy.Direct)
		if err != nil {
			return err
		}
		transport = &http.Transport{DialContext: dialer.(xproxy.ContextDialer).DialContext}
	}
	response, err := (&http.Client{Transport: transport}).Get(get)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(os.Stdout, response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	return err
}

// explicitClient is a program that gets a URL of web.example by a proxy.
type explicitClient struct {
	command []string
	port    int
	// What it says when the proxy refuses. As a program that does not use the
	// proxy says something else, this also tells that it does.
	says  string
	local bool // it looks the name up first
}

// explicitClients are programs that use the proxy at an address.
func (w *world) explicitClients(at string) []explicitClient {
	w.t.Helper()
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		w.t.Fatal(err)
	}
	const page, secure = "http://web.example/page", "https://web.example/page"
	// What HTTP says of it, to those that show it.
	const words80 = "appfw: denied tcp web.example:80: no rule allows it (to allow: --allow web.example:80)"
	curl := func(args ...string) []string {
		return append([]string{"curl", "-sS", "--fail-with-body"}, args...)
	}
	python := `import sys, urllib.request as r
try: sys.stdout.buffer.write(r.urlopen(sys.argv[1]).read())
except r.HTTPError as e: print(e.code, e.read().decode()); sys.exit(1)
except OSError as e: print(e); sys.exit(1)`
	nodeGet := `require("http").get({host: "` + host + `", port: ` + port + `, path: "` + page + `", headers: {host: "web.example"}},
		r => { r.pipe(process.stdout); process.exitCode = r.statusCode == 200 ? 0 : 1 })`
	nodeConnect := `require("http").request({host: "` + host + `", port: ` + port + `, method: "CONNECT", path: "web.example:443"})
		.on("connect", (r, socket) => {
			if (r.statusCode != 200) throw new Error(r.statusCode)
			require("https").get("` + secure + `", {createConnection: o => require("tls").connect({...o, socket})}, r => r.on("end", () => socket.destroy()).pipe(process.stdout))
		}).end()`
	ncat := func(kind, options string) []string {
		return []string{"sh", "-c", `printf 'GET /page HTTP/1.0\r\nHost: web.example\r\n\r\n' | ncat -v --no-shutdown --proxy ` + at + ` --proxy-type ` + kind + options + ` web.example 80`}
	}
	chains := func(kind string) []string {
		conf := w.write("proxychains-"+kind+".conf", "strict_chain\nproxy_dns\n[ProxyList]\n"+kind+" "+host+" "+port+"\n")
		return []string{"proxychains4", "-f", conf, "curl", "-sS", secure}
	}
	clients := []explicitClient{
		{command: curl("-x", "socks5h://"+at, page), port: 80, says: "curl: (97)"},
		{command: curl("-x", "socks5h://"+at, secure), port: 443, says: "curl: (97)"},
		{command: curl("-x", "socks5://"+at, page), port: 80, says: "curl: (97)", local: true},
		{command: curl("-x", "socks5://"+at, secure), port: 443, says: "curl: (97)", local: true},
		{command: curl("-x", "socks4a://"+at, page), port: 80, says: "curl: (97)"},
		{command: curl("-x", "socks4a://"+at, secure), port: 443, says: "curl: (97)"},
		{command: curl("-x", "socks4://"+at, page), port: 80, says: "curl: (97)", local: true},
		{command: curl("-x", "http://"+at, page), port: 80, says: words80},
		{command: curl("-x", "http://"+at, "-p", page), port: 80, says: "response 403"},
		{command: curl("-x", "http://"+at, secure), port: 443, says: "response 403"},
		{command: []string{"env", "http_proxy=http://" + at, "wget", "-nv", "-t1", "-O-", page}, port: 80, says: "403"},
		{command: []string{"env", "https_proxy=http://" + at, "wget", "-nv", "-t1", "-O-", "--ca-certificate=" + w.CAFile(), secure}, port: 443, says: "Proxy tunneling failed: Forbidden"},
		{command: ncat("http", ""), port: 80, says: "403"},
		{command: ncat("socks4", ""), port: 80, says: "Proxy connection failed"},
		{command: ncat("socks5", ""), port: 80, says: "connection not allowed by ruleset"},
		{command: ncat("socks5", " --proxy-dns local"), port: 80, says: "connection not allowed by ruleset", local: true},
		{command: probing("by", "http", "http://"+at, page), port: 80, says: words80},
		{command: probing("by", "http", "http://"+at, secure), port: 443, says: "Forbidden"},
		{command: probing("by", "http", "socks5h://"+at, secure), port: 443, says: "not allowed by ruleset"},
		{command: probing("by", "x", "socks5://"+at, secure), port: 443, says: "not allowed by ruleset"},
		{command: []string{"env", "http_proxy=http://" + at, "python3", "-c", python, page}, port: 80, says: words80},
		{command: []string{"env", "https_proxy=http://" + at, "python3", "-c", python, secure}, port: 443, says: "403"},
		{command: []string{"node", "-e", nodeGet}, port: 80, says: words80},
		{command: []string{"node", "-e", nodeConnect}, port: 443, says: "Error: 403"},
	}
	if netip.MustParseAddr(host).Is6() { // which is nothing new to the rest
		return slices.DeleteFunc(clients, func(c explicitClient) bool { return c.command[0] != "curl" && c.command[0] != "sh" })
	}
	return append(clients, // these know no other
		explicitClient{command: chains("http"), port: 443, says: "denied"},
		explicitClient{command: chains("socks4"), port: 443, says: "denied"},
		explicitClient{command: chains("socks5"), port: 443, says: "<--socket error"},
		explicitClient{command: []string{"torsocks", "-a", host, "-P", port, "curl", "-sS", secure}, port: 443, says: "Connection not allowed by ruleset", local: true},
	)
}

// Real programs by the proxy of a run: what is allowed works, and of the rest they
// hear at once.
func TestExplicitClients(t *testing.T) {
	both(t, func(w *world) {
		page := text(3000)
		w.write("www/page", page)
		h := w.nginx()
		clients := w.explicitClients("192.0.0.1:1080")
		clients = append(clients, w.explicitClients("[fd61:7070:6677::1]:1080")...)
		for _, allow := range []string{"example.com", "web.example:9"} {
			for _, c := range clients {
				reason := fmt.Sprintf("appfw: denied tcp web.example:%d: no rule allows it (to allow: --allow web.example:%[1]d)\n", c.port)
				unknown := c.local && allow == "example.com" // and the client does not get as far as to the proxy
				if unknown {
					reason = "appfw: denied dns web.example: no rule allows it (to allow: --allow web.example)\n"
				}
				r := w.run(append([]string{"--allow", allow, "--"}, c.command...)...)
				w.denied(r, reason)
				if out := r.stdout + strings.ReplaceAll(r.stderr, reason, ""); !unknown && !strings.Contains(out, c.says) {
					t.Errorf("%q does not say %q: %s", c.command, c.says, out)
				}
			}
			if allow == "example.com" && w.Zone().Asked("web.example") {
				t.Error("a denied name was asked for")
			}
		}
		w.untouched(h)
		for _, c := range clients {
			r := w.run(append([]string{"--allow", fmt.Sprintf("web.example:%d", c.port), "--"}, c.command...)...)
			if r.code != 0 || !strings.HasSuffix(r.stdout, page) || strings.Contains(r.stderr, "appfw: ") {
				t.Errorf("%q: code %d, %d bytes, not %d; stderr: %s", c.command, r.code, len(r.stdout), len(page), r.stderr)
			}
		}
	})
}

// And by appfw serve, in whose clients' network nothing is denied but by it.
func TestExplicitAlone(t *testing.T) {
	both(t, func(w *world) {
		page := text(3000)
		w.write("www/page", page)
		h := w.nginx()
		socket := filepath.Join(w.user.Home, "socket")
		by := func(port string, flags ...string) *session {
			return w.proxyAlone(append([]string{"--listen", "127.0.0.1:" + port, "--listen", "[::1]:" + port}, flags...)...)
		}
		denies := by("1081", "--allow", "example.com", "--allow", "web.example:9")
		by("1080", "--allow", "web.example", "--listen", "unix:"+socket, "--dns", w.Resolver4().String())
		do := func(command ...string) result {
			t.Helper()
			return w.finish(w.Command(t.Context(), w.user, command[0], command[1:]...))
		}
		for _, host := range []string{"127.0.0.1", "[::1]"} {
			for _, c := range w.explicitClients(host + ":1081") {
				r := do(c.command...)
				r.stderr += r.stdout
				w.denied(r, c.says)
			}
		}
		for _, port := range []string{"80", "443"} {
			denies.says("appfw: denied tcp web.example:"+port+": no rule allows it (to allow: --allow web.example:"+port+")",
				"appfw: denied tcp web.example:"+port+": no rule allows it (to allow: --allow web.example:"+port+")")
		}
		denies.says("appfw: denied tcp 11.22.0.40:80: no rule allows it") // what a client itself looked up
		w.untouched(h)
		// What resolves no name does not get there but by the proxy.
		resolv := w.write("nobody.resolv", "nameserver 127.0.0.1\n")
		w.ok(w.finish(w.Command(t.Context(), w.Root(), "mount", "--bind", resolv, "/etc/resolv.conf")))
		if r := do("curl", "-sS", "http://web.example/page"); r.code == 0 {
			t.Error("names are resolved without the proxy")
		}
		clients := append(w.explicitClients("127.0.0.1:1080"), w.explicitClients("[::1]:1080")...)
		clients = append(clients, explicitClient{command: []string{"curl", "-sS", "-x", "socks5h://localhost" + socket, "https://web.example/page"}})
		for _, c := range clients {
			if !c.local || c.command[0] == "torsocks" { // which asks the proxy
				if r := do(c.command...); r.code != 0 || !strings.HasSuffix(r.stdout, page) {
					t.Errorf("%q: code %d, %d bytes, not %d; stderr: %s", c.command, r.code, len(r.stdout), len(page), r.stderr)
				}
			}
		}
	})
}

// proxyAlone starts appfw serve.
func (w *world) proxyAlone(flags ...string) *session {
	w.t.Helper()
	s := &session{world: w, cmd: w.Command(w.t.Context(), w.user, program, append([]string{"serve"}, flags...)...), out: newOutput(), err: newOutput()}
	s.cmd.Env = append(s.cmd.Env, raceEnv...)
	s.cmd.Stderr = s.err
	if err := s.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	s.await(s.err, `appfw: serving SOCKS and HTTP at .*\n`)
	return s
}

// git and ssh, which keep their connections for longer.
func TestExplicitGit(t *testing.T) {
	both(t, func(w *world) {
		page := text(3000)
		w.write("work/file", page)
		bare := filepath.Join(w.Dir(), "www/repo.git")
		w.make("sh", "-ec", `cd "$0/work"; export HOME="$0"
			git init -q -b main; git add file
			git -c user.name=a -c user.email=a@example.com commit -q -m first
			mkdir -p "$0/www"; git clone -q --bare . "$1"; git -C "$1" update-server-info`, w.Dir(), bare)
		web := w.nginx()
		server, ssh := w.sshd()
		type client struct {
			host    *internet.Host
			name    string
			port    int
			command []string
		}
		var clients []client
		for _, proxy := range []string{"socks5h://192.0.0.1:1080", "http://192.0.0.1:1080", "http://[fd61:7070:6677::1]:1080"} {
			for port, url := range map[int]string{80: "http://web.example/repo.git", 443: "https://web.example/repo.git"} {
				clients = append(clients, client{web, "web.example", port, []string{"git", "-c", "http.proxy=" + proxy, "clone", "-q", url}})
			}
		}
		for _, kind := range []string{"socks4", "socks5", "http"} {
			by := ssh + " -o 'ProxyCommand ncat --proxy 192.0.0.1:1080 --proxy-type " + kind + " %h %p'"
			clients = append(clients, client{server, "git.example", 22, []string{"env", "GIT_SSH_COMMAND=" + by, "git", "clone", "-q", "ssh://git.example" + bare}})
		}
		for i, c := range clients {
			into := filepath.Join(w.user.Home, fmt.Sprint(i))
			for _, allow := range []string{"example.com", c.name + ":9"} {
				w.denied(w.run(append([]string{"--allow", allow, "--"}, append(c.command, into)...)...),
					fmt.Sprintf("appfw: denied tcp %s:%d: no rule allows it (to allow: --allow %[1]s:%[2]d)\n", c.name, c.port))
			}
		}
		w.untouched(web)
		w.untouched(server)
		for i, c := range clients {
			into := filepath.Join(w.user.Home, fmt.Sprint(i))
			w.ok(w.run(append([]string{"--allow", fmt.Sprintf("%s:%d", c.name, c.port), "--"}, append(c.command, into)...)...))
			if got, err := os.ReadFile(filepath.Join(into, "file")); string(got) != page {
				t.Errorf("%q: %d bytes, not %d, %v", c.command, len(got), len(page), err)
			}
		}
	})
}

// --proxy-env tells programs of the proxy, whatever the caller's variables say;
// without it, those are the program's. They are advice, and no permission.
func TestExplicitEnv(t *testing.T) {
	both(t, func(w *world) {
		env := func(args ...string) string {
			t.Helper()
			c := w.Command(t.Context(), w.user, program, append([]string{"run"}, args...)...)
			for _, name := range []string{"ALL_PROXY", "https_proxy", "no_proxy"} {
				c.Env = append(c.Env, name+"=mine")
			}
			var lines []string
			for line := range strings.Lines(w.ok(w.finish(c))) {
				if name, _, _ := strings.Cut(line, "="); strings.HasSuffix(strings.ToUpper(name), "_PROXY") {
					lines = append(lines, line)
				}
			}
			slices.Sort(lines)
			return strings.Join(lines, "")
		}
		const want = "ALL_PROXY=socks5h://192.0.0.1:1080\nHTTPS_PROXY=http://192.0.0.1:1080\nHTTP_PROXY=http://192.0.0.1:1080\nNO_PROXY=localhost,127.0.0.1,::1\n" +
			"all_proxy=socks5h://192.0.0.1:1080\nhttp_proxy=http://192.0.0.1:1080\nhttps_proxy=http://192.0.0.1:1080\nno_proxy=localhost,127.0.0.1,::1\n"
		if got := env("--proxy-env", "--", "env"); got != want {
			t.Errorf("with it:\n%s", got)
		}
		if got := env("--", "env"); got != "ALL_PROXY=mine\nhttps_proxy=mine\nno_proxy=mine\n" {
			t.Errorf("without it:\n%s", got)
		}

		w.write("www/page", "the page\n")
		w.make("git", "init", "-q", "--bare", filepath.Join(w.Dir(), "www/repo.git"))
		w.make("git", "-C", filepath.Join(w.Dir(), "www/repo.git"), "update-server-info")
		h := w.nginx()
		const python = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
		var programs [][]string
		for _, scheme := range []string{"http", "https"} {
			page := scheme + "://web.example/page"
			programs = append(programs, []string{"curl", "-sSf", page}, []string{"python3", "-c", python, page},
				[]string{"wget", "-nv", "-t1", "-O-", "--ca-certificate=" + w.CAFile(), page},
				[]string{"git", "ls-remote", scheme + "://web.example/repo.git"})
		}
		for _, c := range programs {
			// Of a program that asks the proxy, no DNS is denied.
			w.denied(w.run(append([]string{"--proxy-env", "--allow", "example.com", "--"}, c...)...), "appfw: denied tcp web.example:")
		}
		w.untouched(h)
		for _, c := range programs {
			r := w.run(append([]string{"--proxy-env", "--allow", "web.example", "--"}, c...)...)
			if out := w.ok(r); c[0] != "git" && !strings.HasPrefix(out, "the page\n") {
				t.Errorf("%q: %q", c, out)
			}
		}
		// What is not a web client has its own variable, and the loopback is nobody's.
		wants(t, w.ok(w.run("--proxy-env", "--allow", "example.com", "--", "sh", "-c", `env -u http_proxy curl -sS http://example.com`)), "hello from example.com")
		wants(t, w.ok(w.run("--proxy-env", "--", "sh", "-ec", `ncat -l 127.0.0.1 8000 --sh-exec "printf 'HTTP/1.0 200 OK\r\n\r\nmine'" & until grep -q ':1F40 00000000:0000 0A' /proc/net/tcp; do :; done; curl -sS http://localhost:8000`)), "mine")
	})
}

// A program that sets the variables to something else gains nothing.
func TestExplicitForgedEnv(t *testing.T) {
	both(t, func(w *world) {
		p := w.proxied(viaSocks)
		local, err := w.ListenOnHost("tcp", "127.0.0.1:1080")
		if err != nil {
			t.Fatal(err)
		}
		go answer(local)
		for proxy, reason := range map[string]string{
			viaSocks:                      "appfw: denied tcp 11.22.0.60:1080: no rule allows it",
			"http://proxy.example:1080":   "appfw: denied dns proxy.example: no rule allows it",
			"socks5h://127.0.0.1:1080":    "appfw: denied tcp 127.0.0.1:1080: the host's loopback is reached only if a rule names it",
			"socks5h://192.0.0.1:1081":    "appfw: denied tcp 192.0.0.1:1081: it is an address of appfw's own",
			"socks5h://192.0.0.1:1080":    "appfw: denied tcp other.example:443: no rule allows it",
			"http://me:me@192.0.0.1:1080": "appfw: denied tcp other.example:443: no rule allows it",
		} {
			w.denied(w.run("--proxy-env", "--allow", "example.com", "--", "env", "https_proxy="+proxy, "curl", "-sS", "https://other.example"), reason)
		}
		w.denied(w.run("--proxy-env", "--allow", "example.com", "--", "curl", "-sS", "--noproxy", "*", "https://other.example"), "appfw: denied dns other.example")
		// Nor does one that asks the proxy for itself, the host, or another proxy.
		for to, reason := range map[string]string{
			"192.0.0.1:1080":  "it is an address of appfw's own",
			"127.0.0.1:1080":  "the host's loopback is reached only if a rule names it",
			"localhost:1080":  "the host's loopback is reached only if a rule names it",
			"11.22.0.60:1080": "no rule allows it",
		} {
			for _, kind := range []string{"socks4a", "socks5h"} {
				w.denied(w.run("--allow", "example.com", "--", "curl", "-sS", "-x", kind+"://192.0.0.1:1080", "--noproxy", "", "http://"+to), reason)
			}
		}
		w.untouched(p.host)
		w.untouched(w.other)
	})
}

// Inside what was asked for by an allowed name, other names are refused.
func TestExplicitShownName(t *testing.T) {
	both(t, func(w *world) {
		for _, at := range []string{"192.0.0.1:1080", "[fd61:7070:6677::1]:1080"} {
			for _, scheme := range []string{"socks5h", "socks5", "socks4a", "http"} {
				curl := func(args ...string) result {
					t.Helper()
					return w.run(append([]string{"--allow", "example.com", "--", "curl", "-sS", "-p", "-x", scheme + "://" + at}, args...)...)
				}
				for port, r := range map[int]result{
					443: curl("--connect-to", "shared.example:443:example.com:443", "https://shared.example"),
					80:  curl("-H", "Host: shared.example", "http://example.com"),
				} {
					w.denied(r, fmt.Sprintf("appfw: denied tcp shared.example:%d: no rule allows it (to allow: --allow shared.example:%[1]d)\n", port))
					if strings.Contains(r.stdout, "hello") {
						t.Errorf("%s: %s", scheme, r.stdout)
					}
				}
				wants(t, w.ok(curl("https://example.com", "http://example.com")), "hello from example.com\nhello from example.com\n")
			}
			// Of a request for a URL, the URL says the name (RFC 9112, 3.2.2).
			out := w.ok(w.run("--allow", "example.com", "--", "curl", "-sS", "-x", "http://"+at, "-H", "Host: shared.example", "http://example.com"))
			wants(t, out, "hello from example.com")
		}
	})
}

// A refused CONNECT has the reason in its body.
func TestExplicitRefusal(t *testing.T) {
	both(t, func(w *world) {
		for port, request := range map[int]string{
			443: `CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n`,
			80:  `GET http://other.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n`,
		} {
			r := w.run("--allow", "example.com", "--", "sh", "-c", "printf '"+request+"' | ncat 192.0.0.1 1080")
			reason := fmt.Sprintf("appfw: denied tcp other.example:%d: no rule allows it (to allow: --allow other.example:%[1]d)\n", port)
			wants(t, r.stdout, "HTTP/1.1 403 Forbidden\r\n", "\r\n\r\n"+reason)
			wants(t, r.stderr, reason)
		}
		w.untouched(w.other)
	})
}

// What is asked for by name goes by name to an upstream.
func TestExplicitUpstream(t *testing.T) {
	both(t, func(w *world) {
		p := w.proxied(viaSocks)
		flags := []string{"--upstream", viaSocks, "--allow", "example.com"}
		w.proxyAlone(append(flags, "--listen", "127.0.0.1:1090")...)
		clients := func(host, port string) (all [][]string) {
			for _, scheme := range []string{"socks5h", "socks4a", "http"} {
				all = append(all, []string{"curl", "-sSf", "-x", scheme + "://" + host + ":" + port})
			}
			return append(all, []string{"torsocks", "-a", host, "-P", port, "curl", "-sSf"})
		}
		inside := func(command []string, url string) result {
			return w.run(append(append(slices.Clone(flags), "--"), append(command, url)...)...)
		}
		for _, url := range []string{"http://example.com", "https://example.com"} {
			for _, c := range clients("192.0.0.1", "1080") {
				wants(t, w.ok(inside(c, url)), "hello from example.com")
			}
			for _, c := range clients("127.0.0.1", "1090") {
				wants(t, w.ok(w.finish(w.Command(t.Context(), w.user, c[0], append(c[1:], url)...))), "hello from example.com")
			}
		}
		p.indirect()
		if !p.zone.Asked("example.com") {
			t.Error("the upstream had no part in it")
		}
		for _, c := range clients("192.0.0.1", "1080") {
			w.denied(inside(c, "https://other.example"), "other.example")
		}
		if p.zone.Asked("other.example") {
			t.Error("the upstream was asked for a denied name")
		}
		p.indirect()
	})
}

// probeAssociate has the proxy at args[0] relay datagrams. It reads lines: an
// address to send the line's second word to. It prints what arrives, and from where.
func probeAssociate(args []string) error {
	// command sends a request of SOCKS5, and returns the reply's code and port.
	command := func(c net.Conn, number byte) (code byte, port uint16, err error) {
		if _, err = c.Write([]byte{5, 1, 0, 5, number, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
			return 0, 0, err
		}
		head := make([]byte, 2+4) // the choice of a method, and the reply up to its address
		if _, err = io.ReadFull(c, head); err != nil {
			return 0, 0, err
		}
		rest := make([]byte, net.IPv4len+2)
		if head[5] == statute.ATYPIPv6 {
			rest = make([]byte, net.IPv6len+2)
		}
		_, err = io.ReadFull(c, rest)
		return head[3], binary.BigEndian.Uint16(rest[len(rest)-2:]), err
	}
	bind, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	code, _, err := command(bind, statute.CommandBind)
	if err != nil {
		return err
	}
	fmt.Println("bind", code)
	c, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	code, port, err := command(c, statute.CommandAssociate)
	if err != nil || code != 0 {
		return fmt.Errorf("ASSOCIATE: %d %w", code, err)
	}
	host, _, _ := net.SplitHostPort(args[0])
	u, err := net.Dial("udp", net.JoinHostPort(host, fmt.Sprint(port)))
	if err != nil {
		return err
	}
	fmt.Println("associated")
	go func() {
		b := make([]byte, 65535)
		for {
			n, err := u.Read(b)
			if err != nil {
				fmt.Println(err)
				return
			}
			d, err := statute.ParseDatagram(b[:n])
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Println(d.DstAddr.String(), string(d.Data))
		}
	}()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		to, word, _ := strings.Cut(in.Text(), " ")
		d, err := statute.NewDatagram(to, []byte(word))
		if err != nil {
			return err
		}
		if _, err := u.Write(d.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// Datagrams by UDP ASSOCIATE, which hardly a program knows.
func TestExplicitUDP(t *testing.T) {
	both(t, func(w *world) {
		answer := func(c net.PacketConn, from net.Addr, b []byte) { _, _ = c.WriteTo([]byte("echo-"+string(b)), from) }
		w.example.ServeUDP(7, answer)
		w.other.ServeUDP(7, answer)
		for _, at := range []string{"192.0.0.1:1080", "[fd61:7070:6677::1]:1080"} {
			s := w.session(append([]string{"--allow", "example.com", "--allow", "11.22.0.10/udp", "--allow", "[2a0d:aaaa::10]:7/udp", "--"}, probing("associate", at)...)...)
			s.await(s.out, `^bind 7\nassociated\n`)
			said := s.ask("example.com:7 one")
			if !regexp.MustCompile(`^(11\.22\.0\.10|\[?2a0d:aaaa::10\]?):7 echo-one$`).MatchString(said) {
				t.Errorf("by name: %q", said)
			}
			for _, denied := range []string{"other.example:7", "11.22.0.20:7", "[2a0d:aaaa::20]:7", "192.0.0.1:53", "127.0.0.1:7"} {
				s.tell(denied + " two")
				s.await(s.err, "appfw: denied udp "+regexp.QuoteMeta(denied)+": ")
			}
			// The next that arrives is the answer to the next, so nothing did before.
			if said := s.ask("11.22.0.10:7 three"); said != "11.22.0.10:7 echo-three" {
				t.Errorf("by address: %q", said)
			}
			if said := s.ask("[2a0d:aaaa::10]:7 four"); said != "[2a0d:aaaa::10]:7 echo-four" && said != "2a0d:aaaa::10:7 echo-four" {
				t.Errorf("by address: %q", said)
			}
			if code := s.end(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		}
		w.untouched(w.other)
		if w.Zone().Asked("other.example") {
			t.Error("a denied name was asked for")
		}
	})
}

// npm fetches a package and its tarball by the explicit proxy, in a run and alone.
func TestExplicitNpm(t *testing.T) {
	both(t, func(w *world) {
		var archive bytes.Buffer
		zipped := gzip.NewWriter(&archive)
		files := tar.NewWriter(zipped)
		const manifest = `{"name":"hello","version":"1.0.0"}`
		if err := errors.Join(
			files.WriteHeader(&tar.Header{Name: "package/package.json", Mode: 0o644, Size: int64(len(manifest))}),
			second(files.Write([]byte(manifest))), files.Close(), zipped.Close(),
		); err != nil {
			w.t.Fatal(err)
		}
		sum := sha512.Sum512(archive.Bytes())
		registry := w.Host("11.22.0.33").Name("registry.example")
		registry.ServeHTTPS(443, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/hello":
				fmt.Fprintf(rw, `{"name":"hello","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"hello","version":"1.0.0",
					"dist":{"tarball":"https://registry.example/hello.tgz","integrity":"sha512-%s"}}}}`, base64.StdEncoding.EncodeToString(sum[:]))
			case "/hello.tgz":
				_, _ = rw.Write(archive.Bytes())
			default:
				http.NotFound(rw, r)
			}
		}), "registry.example")
		install := []string{"npm", "install", "hello", "--prefix", w.user.Home, "--registry", "https://registry.example/", "--cafile", w.CAFile(),
			"--fetch-retries", "0", "--no-audit", "--no-fund", "--no-update-notifier"}

		denied := w.run(append([]string{"--allow", "example.com", "--proxy-env", "--"}, install...)...)
		if denied.code == 0 {
			t.Errorf("it is installed: %s", denied.stdout)
		}
		wants(t, denied.stderr, "appfw: denied tcp registry.example:443: no rule allows it (to allow: --allow registry.example:443)", "403")
		w.untouched(registry)
		w.ok(w.run(append([]string{"--allow", "registry.example", "--proxy-env", "--"}, install...)...))

		log := w.user.Home + "/log.json"
		s := w.serve("--listen", "127.0.0.1:1080", "--allow", "registry.example", "--log", log)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		alone := w.Command(ctx, w.user, install[0], append(install[1:], "--https-proxy", "http://127.0.0.1:1080", "--force", "--prefer-online")...)
		w.ok(w.finish(alone))
		if b := mustRead(t, w.user.Home+"/node_modules/hello/package.json"); string(b) != manifest {
			t.Errorf("it has %s", b)
		}
		s.stop()
		wants(t, string(mustRead(t, log)), `"verdict":"allow","direction":"out","proto":"tcp","addr":"11.22.0.33","port":443,"name":"registry.example","client":"127.0.0.1:`)
	})
}

// second is the error of two results.
func second(_ int, err error) error { return err }
