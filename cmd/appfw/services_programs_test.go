package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Debian's nginx, as its own unit starts it, serves clients of a published port, and
// gets from elsewhere what the policy allows. A server that shares the namespace is
// reached by nginx alone.
func TestServiceNginx(t *testing.T) {
	w := newWorld(t)
	client := w.Host("11.22.7.7")
	plain := w.Host("11.22.0.30")
	plain.ServeHTTP(80, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprintln(rw, "hello by address") }))
	m := w.boot(map[string]string{"backend.service": `[Service]
User=nobody
ExecStart=/usr/bin/python3 -m http.server 8000 --bind 127.0.0.1 --directory /usr/share/doc/base-files
`})
	m.WriteFile("/etc/nginx/nginx.conf", `user nobody nogroup;
pid /run/nginx.pid;
events {}
http {
	access_log off;
	resolver 192.0.0.1;
	server {
		listen 80;
		location = / { return 200 "hello $remote_addr\n"; }
		location /backend/ { proxy_pass http://127.0.0.1:8000/; }
		location ~ ^/to/(.+)$ { proxy_pass http://$1/; }
	}
}
`)
	m.WriteFile("/etc/appfw/nginx.policy", "allow example.com\nallow 11.22.0.30:80\n")
	w.ok(m.run("appfw", "systemd", "netns", "nginx.service", "--policy", "/etc/appfw/nginx.policy", "--publish", "0.0.0.0:80:80"))
	w.ok(m.run("appfw", "systemd", "netns", "backend", "--name", "nginx"))
	w.ok(m.run("systemctl", "start", "nginx", "backend"))
	at := w.Addr4().String() + ":80"
	serves := func(path, want string) bool {
		page, err := w.getPath(client, at, path)
		return err == nil && strings.Contains(page, want)
	}
	m.until(func() bool { return serves("/backend/", "copyright") }) // Python takes its time
	for range 2 {
		for path, want := range map[string]string{
			"/":                 "hello 11.22.7.7",
			"/to/example.com":   "hello from example.com",
			"/to/11.22.0.30":    "hello by address",
			"/to/other.example": "502 Bad Gateway",
			"/to/11.22.0.20":    "502 Bad Gateway",
		} {
			if !serves(path, want) {
				page, err := w.getPath(client, at, path)
				t.Errorf("%s: %q %v, want %q", path, page, err, want)
			}
		}
		w.ok(m.run("systemctl", "reload", "nginx"))
	}
	w.untouched(w.other)
	wants(t, m.Journal("appfw-netns@nginx"), "denied dns other.example: no rule allows it", "denied tcp 11.22.0.20:80: no rule allows it")
	w.denied(m.run("curl", "-sS", "http://127.0.0.1:8000/"), "Couldn't connect to server")

	// The first one leaves, and the other goes on.
	w.ok(m.run("appfw", "systemd", "netns", "nginx", "--remove"))
	w.ok(m.run("systemctl", "stop", "nginx"))
	wants(t, w.ok(m.run("ip", "netns", "exec", "nginx", "curl", "-sS", "http://127.0.0.1:8000/")), "copyright")
	w.ok(m.run("appfw", "systemd", "netns", "backend", "--remove"))
	if left := w.ok(m.run("ls", "/etc/systemd/system")); strings.Contains(left, "appfw") || strings.Contains(left, ".service.d") {
		t.Errorf("left: %s", left)
	}
}

// What a timer starts reaches only its proxy, be it that it knows proxies or not.
func TestServiceTimer(t *testing.T) {
	w := newWorld(t)
	const oneshot, timer = "[Service]\nType=oneshot\nUser=nobody\nExecStart=", "[Timer]\nOnActiveSec=0\nAccuracySec=1us\n"
	m := w.boot(map[string]string{
		"good.service": oneshot + "/usr/bin/curl -sS -m 20 https://example.com/\n",
		"bad.service":  oneshot + "/usr/bin/curl -sS -m 20 https://other.example/\n",
		// Of Python, some takes notice of variables, and some does not.
		"beside.service": oneshot + "/usr/bin/python3 /usr/local/lib/beside.py\n",
		"good.timer":     timer,
		"bad.timer":      timer,
		"beside.timer":   timer,
	})
	m.WriteFile("/usr/local/lib/beside.py", `import http.client, urllib.request
print(urllib.request.urlopen("https://example.com/", timeout=20).read().decode())
for host in "example.com", "11.22.0.10":
	try:
		http.client.HTTPConnection(host, timeout=0.3).request("GET", "/")
		print(host, "reached")
	except OSError as e:
		print(host, "not reached:", e)
`)
	m.WriteFile("/etc/appfw/fetch.policy", "allow example.com\n")
	for _, unit := range []string{"good", "bad", "beside"} {
		w.ok(m.run("appfw", "systemd", "proxy", unit+".service", "--policy", "/etc/appfw/fetch.policy"))
		w.ok(m.run("systemctl", "start", unit+".timer"))
	}
	ended := func(unit, how string) {
		t.Helper()
		m.until(func() bool { return strings.Contains(m.Journal(unit), how) })
	}
	ended("good", "Finished good.service")
	ended("bad", "Failed to start bad.service")
	ended("beside", "Finished beside.service")
	wants(t, m.Journal("good"), "hello from example.com")
	wants(t, m.Journal("bad"), "CONNECT tunnel failed, response 403")
	wants(t, m.Journal("appfw-serve@bad"), "denied tcp other.example:443: no rule allows it")
	wants(t, m.Journal("beside"), "hello from example.com", "example.com not reached: [Errno -3]", "11.22.0.10 not reached: timed out")
	if w.untouched(w.other); w.PacketsTo(w.example.Addr4(), unix.IPPROTO_TCP, 80) != 0 || w.Zone().Asked("other.example") {
		t.Error("packets were sent beside the proxy")
	}
}
