package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

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
		const want = "ALL_PROXY=http://192.0.0.1:1080\nHTTPS_PROXY=http://192.0.0.1:1080\nHTTP_PROXY=http://192.0.0.1:1080\nNO_PROXY=localhost,127.0.0.1,::1\n" +
			"all_proxy=http://192.0.0.1:1080\nhttp_proxy=http://192.0.0.1:1080\nhttps_proxy=http://192.0.0.1:1080\nno_proxy=localhost,127.0.0.1,::1\n"
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
		const httpx = "import sys, httpx; r = httpx.get(sys.argv[1], verify=sys.argv[2]); r.raise_for_status(); print(r.text)" // of Debian, which may not be the first python3
		var programs [][]string
		for _, scheme := range []string{"http", "https"} {
			page := scheme + "://web.example/page"
			programs = append(programs, []string{"curl", "-sSf", page}, []string{"python3", "-c", python, page},
				[]string{"wget", "-nv", "-t1", "-O-", "--ca-certificate=" + w.CAFile(), page},
				[]string{"git", "ls-remote", scheme + "://web.example/repo.git"},
				[]string{"/usr/bin/python3", "-c", httpx, page, w.CAFile()},
				[]string{"sh", "-c", "aria2c -q --max-tries=1 --no-conf --allow-overwrite=true --ca-certificate=" + w.CAFile() + " -d /tmp -o appfw-aria2-$$ " + page + " && cat /tmp/appfw-aria2-$$; r=$?; rm -f /tmp/appfw-aria2-$$; exit $r"})
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
		w.serve(append(flags, "--listen", "127.0.0.1:1090")...)
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
