package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"appfw/testdata/internet"
)

// Programs that people use, against servers that people use.

func init() {
	probes["get"] = probeGet
}

// probeGet gets the URLs args, one after the other, by a client that keeps its
// connections and with Go's own resolver, and prints the answers.
func probeGet(args []string) error {
	dialer := net.Dialer{Resolver: &net.Resolver{PreferGo: true}}
	client := http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, ForceAttemptHTTP2: true}}
	for _, url := range args {
		response, err := client.Get(url)
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, response.Body)
		response.Body.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// refused runs a command that reaches the host at name and port, under policies
// that do not let it: it fails at once, and no packet arrives.
func (w *world) refused(h *internet.Host, name string, port int, command ...string) {
	w.t.Helper()
	w.denied(w.run(append([]string{"--allow", "example.com", "--"}, command...)...),
		fmt.Sprintf("appfw: denied dns %s: no rule allows it (to allow: --allow %[1]s)\n", name))
	w.denied(w.run(append([]string{"--allow", name + ":9", "--"}, command...)...),
		fmt.Sprintf("appfw: denied tcp %s:%d: no rule allows it (to allow: --allow %[1]s:%[2]d)\n", name, port))
	w.untouched(h)
}

// make runs a command as the machine's own root, to prepare a test.
func (w *world) make(name string, args ...string) {
	w.t.Helper()
	c := exec.CommandContext(w.t.Context(), name, args...)
	if out, err := c.CombinedOutput(); err != nil {
		w.t.Fatalf("%v: %v\n%s", c.Args, err, out)
	}
}

// write writes a file into the internet's directory.
func (w *world) write(name, text string) (path string) {
	w.t.Helper()
	path = filepath.Join(w.Dir(), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// text is n lines that are all different.
func text(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	return b.String()
}

// nginx starts a web server for the files in www of the internet's directory,
// as web.example.
func (w *world) nginx() *internet.Host {
	w.t.Helper()
	h := w.Host("11.22.0.40", "2a0d:aaaa::40").Name("web.example")
	cert, key, _ := w.Certificate("web.example")
	conf := w.write("nginx.conf", fmt.Sprintf(`
		user root;
		worker_processes 2;
		pid nginx.pid;
		error_log stderr;
		events {}
		http {
			access_log off;
			client_body_temp_path tmp;
			proxy_temp_path tmp;
			fastcgi_temp_path tmp;
			uwsgi_temp_path tmp;
			scgi_temp_path tmp;
			server {
				listen 11.22.0.40:80;
				listen [2a0d:aaaa::40]:80;
				listen 11.22.0.40:443 ssl http2;
				listen [2a0d:aaaa::40]:443 ssl http2;
				server_name web.example;
				ssl_certificate %s;
				ssl_certificate_key %s;
				root www;
				location = /count { return 200 "$server_protocol $connection_requests\n"; }
			}
		}`, cert, key))
	w.Server("nginx", "-p", w.Dir(), "-e", "stderr", "-c", conf, "-g", "daemon off;")
	w.AwaitTCP(80)
	w.AwaitTCP(443)
	return h
}

// Each of these has its own way to resolve, connect and speak TLS.
func TestWebClients(t *testing.T) {
	musl := filepath.Join(t.TempDir(), "get")
	if out, err := exec.CommandContext(t.Context(), "musl-gcc", "-static", "-Wall", "-o", musl, "testdata/get.c").CombinedOutput(); err != nil {
		t.Fatalf("musl-gcc: %v\n%s", err, out)
	}
	static, err := os.ReadFile(musl)
	if err != nil {
		t.Fatal(err)
	}
	both(t, func(w *world) {
		page := text(30_000)
		w.write("www/page", page)
		muslGet := w.write("get", string(static))
		if err := os.Chmod(muslGet, 0o755); err != nil {
			t.Fatal(err)
		}
		h := w.nginx()
		clients := []struct {
			port    int
			command []string
		}{
			{443, []string{"wget", "-q", "-O-", "--ca-certificate=" + w.CAFile(), "https://web.example/page"}},
			{80, []string{"wget", "-nv", "-O-", "http://web.example/page"}},
			{443, []string{"curl", "-sS", "--http2", "https://web.example/page"}},
			{443, []string{"curl", "-sS", "--http1.1", "https://web.example/page"}},
			{443, probing("get", "https://web.example/page")},
			{443, []string{"python3", "-c", `import sys, urllib.request as r; sys.stdout.buffer.write(r.urlopen("https://web.example/page").read())`}},
			{443, []string{"node", "-e", `require("https").get("https://web.example/page", r => r.pipe(process.stdout))`}},
			{443, []string{"node", "-e", `fetch("https://web.example/page").then(r => r.text()).then(t => process.stdout.write(t))`}},
			{443, []string{"busybox", "wget", "-q", "-O-", "https://web.example/page"}},
			{80, []string{"busybox", "wget", "-q", "-O-", "http://web.example/page"}},
			{80, []string{muslGet, "web.example", "80", "/page"}},
		}
		for _, c := range clients {
			w.refused(h, "web.example", c.port, c.command...)
		}
		for _, c := range clients {
			r := w.run(append([]string{"--allow", fmt.Sprintf("web.example:%d", c.port), "--"}, c.command...)...)
			if out := w.ok(r); !strings.HasSuffix(out, page) || r.stderr != "" && c.command[0] != "wget" && c.command[0] != "busybox" {
				t.Errorf("%v: %d bytes, not %d; stderr: %s", c.command, len(out), len(page), r.stderr)
			}
		}
	})
}

// Connections are kept and used again, by HTTP/1.1 and HTTP/2.
func TestKeepAlive(t *testing.T) {
	both(t, func(w *world) {
		w.nginx()
		thrice := func(scheme string) []string {
			url := scheme + "://web.example/count"
			return []string{url, url, url}
		}
		for _, c := range []struct {
			command []string
			want    string
		}{
			{append([]string{"curl", "-sS"}, thrice("http")...), "HTTP/1.1"},
			{append([]string{"curl", "-sS", "--http1.1"}, thrice("https")...), "HTTP/1.1"},
			{append([]string{"curl", "-sS", "--http2"}, thrice("https")...), "HTTP/2.0"},
			{append([]string{"wget", "-q", "-O-", "--ca-certificate=" + w.CAFile()}, thrice("https")...), "HTTP/1.1"},
			{probing("get", thrice("http")...), "HTTP/1.1"},
			{probing("get", thrice("https")...), "HTTP/2.0"},
		} {
			out := w.ok(w.run(append([]string{"--allow", "web.example", "--"}, c.command...)...))
			if want := fmt.Sprintf("%[1]s 1\n%[1]s 2\n%[1]s 3\n", c.want); out != want {
				t.Errorf("%v: %q", c.command, out)
			}
		}
	})
}

// Busybox links statically and asks by itself. Its ping is not here: it wants a
// raw socket, which only root has outside, and nobody inside.
func TestBusyboxNslookup(t *testing.T) {
	both(t, func(w *world) {
		r := w.run("--allow", "example.com", "--", "busybox", "nslookup", "other.example")
		w.denied(r, "denied dns other.example")
		wants(t, r.stdout, "NXDOMAIN")
		w.untouched(w.other)
		if w.Zone().Asked("other.example") {
			t.Error("a denied name was asked for")
		}
		wants(t, w.ok(w.run("--allow", "example.com", "--", "busybox", "nslookup", "example.com")), "11.22.0.10", "2a0d:aaaa::10")
	})
}

// A browser opens many connections at once. The server answers none before it
// has all, so that they are.
func TestBurst(t *testing.T) {
	both(t, func(w *world) {
		const conns = 200
		h := w.Host("11.22.0.41", "2a0d:aaaa::41").Name("*.burst.example")
		var mu sync.Mutex
		all, clients := make(chan struct{}), map[string]bool{}
		h.ServeHTTPS(443, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			mu.Lock()
			if clients[r.RemoteAddr] = true; len(clients) == conns {
				close(all)
			}
			mu.Unlock()
			select {
			case <-all:
				fmt.Fprintln(rw, r.Host)
			case <-r.Context().Done():
			}
		}), "*.burst.example")
		command := []string{"curl", "-sS", "--http1.1", "--no-progress-meter", "--parallel", "--parallel-immediate", "--parallel-max", fmt.Sprint(conns),
			fmt.Sprintf("https://s[1-%d].burst.example/?[1-4]", conns/4)}
		w.refused(h, "s1.burst.example", 443, command...)
		r := w.run(append([]string{"--allow", "*.burst.example:443/tcp", "--"}, command...)...)
		out := w.ok(r)
		for i := range conns / 4 {
			if name := fmt.Sprintf("s%d.burst.example\n", i+1); strings.Count(out, name) != 4 {
				t.Errorf("%d answers from %s", strings.Count(out, name), name)
			}
		}
		if len(r.stderr) > 0 {
			t.Errorf("stderr: %s", r.stderr)
		}
	})
}

// Content delivery networks have any number of names on an address.
func TestManyNamesOnOneAddress(t *testing.T) {
	both(t, func(w *world) {
		h := w.Host("11.22.0.41").Name("*.many.example")
		h.ServeHTTPS(443, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprintln(rw, r.Host) }), "*.many.example")
		script := `curl -sS https://s1.many.example; dig +short $(seq -f 's%.0f.many.example' 2 500) > /dev/null; curl -sS --resolve s1.many.example:443:11.22.0.41 https://s1.many.example`
		out := w.ok(w.run("--allow", "*.many.example", "--", "sh", "-c", script))
		if out != "s1.many.example\ns1.many.example\n" {
			t.Errorf("answers: %q", out)
		}
	})
}

// What one process of the app looked up, another may connect to.
func TestLookupByAnotherProcess(t *testing.T) {
	both(t, func(w *world) {
		out := w.ok(w.run("--allow", "example.com", "--", "sh", "-c", `curl -sS --resolve "example.com:443:$(dig +short example.com)" https://example.com`))
		wants(t, out, "hello from example.com")
	})
}
