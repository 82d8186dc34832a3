package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	xproxy "golang.org/x/net/proxy"
)

// Programs that know proxies ask appfw's own for their destinations.

func init() {
	probes["by"] = probeBy
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
			return w.serve(append([]string{"--listen", "127.0.0.1:" + port, "--listen", "[::1]:" + port}, flags...)...)
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
		w.SetFile("/etc/resolv.conf", "nameserver 127.0.0.1\n")
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
