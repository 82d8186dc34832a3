package main

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"appfw/testdata/internet"
	"appfw/testdata/machine"
)

// booted is a machine with systemd in the simulated host.
type booted struct {
	*machine.Machine
	t *testing.T
}

// boot boots a machine that has appfw, and these units by their names.
func (w *world) boot(units map[string]string) *booted {
	w.t.Helper()
	files := []machine.File{{Path: "/usr/local/bin/appfw", Text: string(mustRead(w.t, program)), Mode: 0o755}}
	for name, text := range units {
		files = append(files, machine.File{Path: "/etc/systemd/system/" + name, Text: text})
	}
	return &booted{machine.Boot(w.t, w.Internet, files...), w.t}
}

// run runs a command in the machine.
func (m *booted) run(name string, args ...string) result {
	m.t.Helper()
	started := time.Now()
	stdout, stderr, code := m.Run(name, args...)
	return result{stdout, stderr, code, time.Since(started)}
}

// service runs a command in the machine as a service with these properties.
func (m *booted) service(properties []string, command ...string) result {
	m.t.Helper()
	args := []string{"--quiet", "--wait", "--pipe", "--collect"}
	for _, p := range properties {
		args = append(args, "--property="+p)
	}
	return m.run("systemd-run", append(append(args, "--"), command...)...)
}

// A service that can send to nothing but the explicit proxy reaches what that allows;
// one in a named namespace what the policy of that allows.
func TestMachine(t *testing.T) {
	w := newWorld(t)
	m := w.boot(map[string]string{"proxy.service": `[Service]
Type=notify
DynamicUser=yes
ExecStart=/usr/local/bin/appfw serve --listen 127.100.90.50:1080 --allow example.com
`})
	curl := func(properties []string, args ...string) result {
		t.Helper()
		return m.service(append(properties, "User=nobody"), append([]string{"curl", "-sS", "-m", "20"}, args...)...)
	}
	wants(t, w.ok(curl(nil, "http://11.22.0.20/")), "hello from 11.22.0.20")
	sent := w.Packets(w.other.Addr4())

	// To the kernel, what IPAddressDeny= drops of TCP is as good as lost on the way:
	// connect(2) tries again until it gives up.
	confined := []string{"IPAddressDeny=any", "IPAddressAllow=127.100.90.50"}
	beside := []string{"--noproxy", "*", "--connect-timeout", "0.3", "http://11.22.0.20/"}
	w.denied(curl(confined, beside...), "Timeout was reached")
	w.denied(m.service(confined, "python3", "-c", `import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b"?", ("11.22.0.20", 53))`),
		"Operation not permitted")
	w.ok(m.run("systemctl", "start", "proxy"))
	confined = append(confined, "Environment=ALL_PROXY=http://127.100.90.50:1080")
	wants(t, w.ok(curl(confined, "https://example.com/")), "hello from example.com")
	w.denied(curl(confined, "https://other.example/"), "CONNECT tunnel failed, response 403")
	w.denied(curl(confined, beside...), "curl: (28) ")
	wants(t, m.Journal("proxy"), "denied tcp other.example:443: no rule allows it")

	m.WriteFile("/etc/systemd/system/web.service", `[Service]
Type=notify
ExecStart=/usr/local/bin/appfw netns web --allow example.com
`)
	w.ok(m.run("systemctl", "daemon-reload"))
	named := []string{"Requires=web.service", "After=web.service", "NetworkNamespacePath=/run/netns/web",
		"BindReadOnlyPaths=/run/appfw/netns/web/resolv.conf:/etc/resolv.conf"}
	wants(t, w.ok(curl(named, "https://example.com/")), "hello from example.com")
	w.denied(curl(named, "https://other.example/"), "Could not resolve host")
	w.denied(curl(named, "http://11.22.0.20/"), "Couldn't connect to server")
	wants(t, m.Journal("web"), "denied tcp 11.22.0.20:80: no rule allows it")

	if w.Packets(w.other.Addr4()) != sent || w.Packets(w.other.Addr6()) != 0 || w.Zone().Asked("other.example") {
		t.Error("packets were sent for what is denied")
	}
	w.ok(m.run("systemctl", "stop", "proxy", "web"))
	wants(t, w.ok(m.run("systemctl", "show", "--property=Result", "proxy", "web")), "Result=success\n\nResult=success\n")
}

// A unit of the tests': it fetches pages, by proxy or not as it sees fit.
const fetcher = `[Service]
Type=oneshot
User=nobody
ExecStart=/usr/bin/python3 -c 'import sys, urllib.request; print(urllib.request.urlopen("https://%s.example/", timeout=20).read().decode())'
`

// The first way: a service may reach only its proxy.
func TestServiceProxy(t *testing.T) {
	w := newWorld(t)
	page := func(h *internet.Host, name string) {
		h.ServeHTTPS(443, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprintf(rw, "hello from %s\n", name) }), name)
	}
	good, bad := w.Host("11.22.0.30").Name("good.example"), w.Host("11.22.0.31").Name("bad.example")
	page(good, "good.example")
	page(bad, "bad.example")
	m := w.boot(map[string]string{
		"good.service": fmt.Sprintf(fetcher, "good"),
		"bad.service":  fmt.Sprintf(fetcher, "bad"),
		// It takes no notice of variables.
		"beside.service": "[Service]\nType=oneshot\nUser=nobody\nExecStart=/usr/bin/curl -sS -m 20 --connect-timeout 0.3 --noproxy * -k https://11.22.0.30/\n",
	})
	m.WriteFile("/etc/appfw/fetch.policy", "allow good.example\n")
	for _, unit := range []string{"good", "bad", "beside"} {
		w.ok(m.run("appfw", "systemd", "proxy", unit, "--policy", "/etc/appfw/fetch.policy"))
	}
	files := []string{"/etc/systemd/system/appfw-serve@good.service", "/etc/systemd/system/appfw-serve@good.socket"}
	if out := w.ok(m.run("systemd-analyze", append([]string{"verify"}, files...)...)); out != "" {
		t.Errorf("verify: %s", out)
	}
	security := w.ok(m.run("systemd-analyze", "security", "--no-pager", "appfw-serve@good.service"))
	if level := regexp.MustCompile(`Overall exposure level for appfw-serve@good.service: ([\d.]+)`).FindStringSubmatch(security); level == nil || level[1] > "2.0" || len(level[1]) > 3 {
		t.Errorf("security: %q", security)
	}
	w.ok(m.run("systemctl", "start", "good"))
	wants(t, m.Journal("good"), "hello from good.example")
	for _, unit := range []string{"bad", "beside"} {
		if r := m.run("systemctl", "start", unit); r.code == 0 {
			t.Errorf("%s: %s", unit, m.Journal(unit))
		}
	}
	w.untouched(bad)
	wants(t, m.Journal("appfw-serve@bad"), "denied tcp bad.example:443: no rule allows it (to allow: allow bad.example:443 in /etc/appfw/fetch.policy)")
	fields := w.ok(m.run("journalctl", "--output=json", "APPFW_VERDICT=deny"))
	wants(t, fields, `"APPFW_NAME":"bad.example"`, `"APPFW_PORT":"443"`, `"APPFW_REASON":"no rule allows it"`, `"_SYSTEMD_UNIT":"appfw-serve@bad.service"`)

	// Another policy, by reload; and what crashed is started again by its socket.
	m.WriteFile("/etc/appfw/fetch.policy", "allow good.example\nallow bad.example\n")
	w.ok(m.run("systemctl", "reload", "appfw-serve@bad"))
	m.until(func() bool { return strings.Contains(m.Journal("appfw-serve@bad"), "the policy was read anew") })
	w.ok(m.run("systemctl", "start", "bad"))
	wants(t, m.Journal("bad"), "hello from bad.example")
	w.ok(m.run("systemctl", "kill", "--signal=KILL", "appfw-serve@good"))
	w.ok(m.run("systemctl", "start", "good"))
	// Hung, it is ended by the watchdog.
	w.ok(m.run("systemctl", "start", "appfw-serve@beside"))
	m.WriteFile("/run/systemd/system/appfw-serve@beside.service.d/soon.conf", "[Service]\nWatchdogSec=1\n")
	w.ok(m.run("systemctl", "daemon-reload"))
	w.ok(m.run("systemctl", "restart", "appfw-serve@beside"))
	w.ok(m.run("systemctl", "kill", "--signal=STOP", "appfw-serve@beside"))
	m.until(func() bool { return strings.Contains(m.Journal("appfw-serve@beside"), "Watchdog timeout") })

	// Where systemd does not keep addresses, nothing is written.
	m.WriteFile("/usr/local/bin/systemd-run", "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done; shift; exec \"$@\"\n")
	w.ok(m.run("chmod", "+x", "/usr/local/bin/systemd-run"))
	w.ok(m.run("appfw", "systemd", "proxy", "good", "--remove"))
	w.denied(m.run("appfw", "systemd", "proxy", "good", "--policy", "/etc/appfw/fetch.policy"), "this systemd does not keep IPAddressDeny=any, so that the service would reach everything")
	if r := m.run("ls", "/etc/systemd/system/good.service.d"); r.code == 0 {
		t.Errorf("written: %s", r.stdout)
	}

	w.ok(m.run("appfw", "systemd", "proxy", "beside", "--remove"))
	if r := m.run("systemctl", "is-active", "appfw-serve@beside.socket", "appfw-serve@beside.service"); r.stdout != "inactive\ninactive\n" {
		t.Errorf("left running: %s", r.stdout)
	}
	wants(t, w.ok(m.run("systemctl", "start", "beside")), "")
	wants(t, m.Journal("beside"), "hello from")
}

// until waits until something in the machine is so.
func (m *booted) until(is func() bool) {
	m.t.Helper()
	for started := time.Now(); !is(); {
		if time.Since(started) > 3*patience {
			m.t.Fatal("it did not come")
		}
		time.Sleep(5 * time.Millisecond) // to ask takes the machine's time
	}
}

// The second way: services in a namespace, of which one is a server.
func TestServiceNetns(t *testing.T) {
	w := newWorld(t)
	near, far := w.Host("11.22.7.7"), w.Host("11.22.8.8")
	m := w.boot(map[string]string{
		"web.service": `[Service]
User=nobody
ExecStart=/usr/bin/python3 -m http.server 8000 --directory /usr/share/doc/base-files
Restart=no
`,
		"fetch.service": "[Service]\nType=oneshot\nUser=nobody\nExecStart=/usr/bin/curl -sS -m 20 https://example.com/\n",
		"other.service": "[Service]\nType=oneshot\nUser=nobody\nExecStart=/usr/bin/curl -sS -m 20 https://other.example/\n",
		// Root, which would leave if it could.
		"leave.service": "[Service]\nType=oneshot\nExecStart=/usr/bin/nsenter --net=/proc/1/ns/net /usr/bin/curl -sS -m 20 http://11.22.0.20/\n",
	})
	m.WriteFile("/etc/appfw/web.policy", "allow example.com\nallow-from 11.22.7.0/24\n")
	w.ok(m.run("appfw", "systemd", "netns", "web", "--policy", "/etc/appfw/web.policy", "--publish", "0.0.0.0:80:8000"))
	for _, unit := range []string{"fetch", "other", "leave"} {
		w.ok(m.run("appfw", "systemd", "netns", unit, "--policy", "/etc/appfw/web.policy", "--name", "web", "--publish", "0.0.0.0:80:8000"))
	}
	if out := w.ok(m.run("systemd-analyze", "verify", "/etc/systemd/system/appfw-netns@web.service")); out != "" {
		t.Errorf("verify: %s", out)
	}
	w.ok(m.run("systemctl", "start", "web"))
	w.ok(m.run("systemctl", "start", "fetch"))
	wants(t, m.Journal("fetch"), "hello from example.com")
	for _, unit := range []string{"other", "leave"} {
		if r := m.run("systemctl", "start", unit); r.code == 0 {
			t.Errorf("%s: %s", unit, m.Journal(unit))
		}
	}
	w.untouched(w.other)
	at := w.Addr4().String() + ":80"
	serves := func(from *internet.Host) bool { page, err := w.get(from, at); return err == nil && page != "" }
	m.until(func() bool { return serves(near) })
	if serves(far) {
		t.Error("a client that may not came")
	}
	wants(t, m.Journal("appfw-netns@web"), "denied dns other.example: no rule allows it", "denied tcp from 11.22.8.8 to port 80: no rule allows it")
	main := func(unit string) string {
		return w.ok(m.run("systemctl", "show", "--value", "--property=MainPID", unit))
	}

	// It crashes, and is started again. The service goes on.
	web := main("web")
	for _, signal := range []string{"KILL", "SEGV", "ABRT"} {
		gateway := main("appfw-netns@web")
		w.ok(m.run("systemctl", "kill", "--signal="+signal, "appfw-netns@web"))
		m.until(func() bool { now := main("appfw-netns@web"); return now != gateway && now != "0\n" })
		m.until(func() bool { return serves(near) })
		w.ok(m.run("systemctl", "start", "fetch"))
		if now := main("web"); now != web {
			t.Errorf("after %s of appfw, the service runs as %q, not as %q", signal, now, web)
		}
	}
	// While it cannot start, systemd does not give up: longer than the 10 s, 16 times in
	// which would be too often.
	m.WriteFile("/etc/appfw/web.policy", "alow example.com\n")
	w.ok(m.run("systemctl", "kill", "--signal=KILL", "appfw-netns@web"))
	m.until(func() bool { return strings.Count(m.Journal("appfw-netns@web"), `"alow": unknown word`) > 17 })
	m.WriteFile("/etc/appfw/web.policy", "allow example.com\nallow-from 11.22.7.0/24\n")
	m.until(func() bool { return serves(near) })
	if now := main("web"); now != web {
		t.Errorf("the service runs as %q, not as %q", now, web)
	}
	// Restarted, it takes the service along.
	w.ok(m.run("systemctl", "restart", "appfw-netns@web"))
	m.until(func() bool { return serves(near) })
	if now := main("web"); now == web || now == "0\n" {
		t.Errorf("the service was not started again: %s", now)
	}
	// Another policy.
	m.WriteFile("/etc/appfw/web.policy", "allow example.com\nallow-from 11.22.8.0/24\n")
	w.ok(m.run("systemctl", "reload", "appfw-netns@web"))
	m.until(func() bool { return serves(far) })
	if serves(near) {
		t.Error("the old policy still holds")
	}
	// Stopped, it takes the service with it.
	w.ok(m.run("systemctl", "stop", "appfw-netns@web"))
	m.until(func() bool { return main("web") == "0\n" })
	if r := m.run("ip", "netns", "exec", "web", "curl", "-sS", "-m", "5", "http://11.22.0.10/"); r.code == 0 {
		t.Error("without appfw there is a network")
	}
	w.ok(m.run("systemctl", "start", "web"))
	m.until(func() bool { return serves(far) })
	w.ok(m.run("systemctl", "stop", "web"))

	for _, unit := range []string{"web", "fetch", "other", "leave"} {
		w.ok(m.run("appfw", "systemd", "netns", unit, "--remove"))
	}
	if out := w.ok(m.run("sh", "-c", "ls /etc/systemd/system | grep -e appfw -e '[.]d$' || true")); strings.Contains(out, "appfw") {
		t.Errorf("left: %s", out)
	}
	w.ok(m.run("systemctl", "start", "other"))
	wants(t, m.Journal("other"), "hello from other.example")
}
