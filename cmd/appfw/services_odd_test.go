package main

import (
	"fmt"
	"strings"
	"testing"
)

// turner answers who connects, by a socket that systemd opens; then it makes that one a
// client, and leaves by it if it can.
const turner = `[Service]
User=nobody
ExecStart=/usr/bin/python3 -uc 'import socket; s = socket.socket(fileno=3); \
  c, a = s.accept(); c.send(b"hello " + a[0].encode()); c.close(); s.shutdown(2); s.settimeout(1); s.connect(("11.22.0.20", 80)); print("it left")'
`

// What systemd listens at for a service is in its namespace, where allow-from holds, and
// leads nowhere else.
func TestServiceSockets(t *testing.T) {
	w := newWorld(t)
	near, far := w.Host("11.22.7.7"), w.Host("11.22.8.8")
	m := w.boot(map[string]string{"echo.service": turner, "echo.socket": "[Socket]\nListenStream=0.0.0.0:7000\nListenStream=/run/echo\n"})
	m.WriteFile("/etc/appfw/echo.policy", "allow example.com\nallow-from 11.22.7.0/24\n")
	w.ok(m.run("systemctl", "start", "echo.socket"))
	w.denied(m.run("appfw", "systemd", "proxy", "echo", "--policy", "/etc/appfw/echo.policy"),
		"echo.socket listens for it at 0.0.0.0:7000 (Stream), and such a socket leads past appfw: use appfw systemd netns (or --keep echo.socket if that is meant)")
	r := m.run("appfw", "systemd", "netns", "echo", "--policy", "/etc/appfw/echo.policy", "--publish", "0.0.0.0:80:7000")
	wants(t, r.stderr, "appfw: note: echo.socket listens in the namespace from its next start on: clients of the host come to it by --publish alone")
	if started := m.run("systemctl", "start", "echo"); started.code == 0 {
		t.Error("it starts with the socket that was open before")
	}
	wants(t, m.Journal("appfw-check@echo"), "echo.socket still listens outside of the namespace: systemctl restart echo.socket echo.service")
	w.ok(m.run("systemctl", "restart", "echo.socket"))
	for _, at := range []string{":80", ":7000"} {
		if conn, err := far.DialFrom("tcp", w.Addr4().String()+at); err == nil {
			b := make([]byte, 10)
			if n, _ := conn.Read(b); n > 0 {
				t.Errorf("at %s a client that may not came: %s", at, b[:n])
			}
			conn.Close()
		}
	}
	conn, err := near.DialFrom("tcp", w.Addr4().String()+":80")
	if err != nil {
		t.Fatal(err)
	}
	if got := say1(t, conn, "?"); got != "hello 11.22.7.7" {
		t.Errorf("%q", got)
	}
	conn.Close()
	m.until(func() bool { return strings.Contains(m.Journal("echo"), "Failed with result") })
	w.untouched(w.other)
	m.advised(m.run("appfw", "systemd", "netns", "echo", "--remove"))
	if out := w.ok(m.run("ls", "/etc/systemd/system")); strings.Contains(out, "appfw") || strings.Contains(out, "echo.socket.d") {
		t.Errorf("left: %s", out)
	}
}

// A unit's own IPAddressDeny= holds besides the policy, but leaves it its resolver.
func TestServiceOwnAddresses(t *testing.T) {
	w := newWorld(t)
	w.goodAndBad()
	m := w.boot(map[string]string{"says.service": says + "IPAddressDeny=any\nIPAddressAllow=11.22.0.30\n"})
	m.WriteFile("/etc/appfw/both.policy", "allow good.example\nallow bad.example\n")
	r := m.run("appfw", "systemd", "netns", "says", "--policy", "/etc/appfw/both.policy")
	w.ok(r)
	wants(t, r.stderr, "appfw: note: IPAddressDeny=0.0.0.0/0 ::/0 of says.service holds besides the policy, for clients of published ports as well")
	w.ok(m.run("systemctl", "start", "says"))
	m.next("says", "good: hello", "bad: curl: (28)")
}

// A policy with passwords need not be readable by all; a mistake in one is told by reload.
func TestServicePolicies(t *testing.T) {
	w := newWorld(t)
	w.goodAndBad()
	m := w.boot(map[string]string{"says.service": says, "busy.service": "[Service]\nExecStart=/usr/bin/python3 -m http.server 1080\n"})
	proxy := func(policy string, args ...string) result {
		t.Helper()
		return m.run("appfw", append([]string{"systemd", "proxy", "says", "--policy", policy}, args...)...)
	}
	m.WriteFile("/etc/appfw/closed/secret.policy", "policy part.policy\n")
	m.WriteFile("/etc/appfw/closed/part.policy", "allow good.example\n")
	w.ok(m.run("chmod", "-R", "go=", "/etc/appfw/closed"))
	m.advised(proxy("/etc/appfw/closed/secret.policy"))
	m.next("says", "good: hello", "bad: appfw: denied")
	m.WriteFile("/etc/appfw/closed/part.policy", "alow bad.example\n")
	w.denied(m.run("systemctl", "reload", "appfw-serve@says"), "failed")
	m.next("says", "good: hello", "bad: appfw: denied")
	m.WriteFile("/etc/appfw/closed/part.policy", "allow bad.example\n")
	w.ok(m.run("systemctl", "reload", "appfw-serve@says"))
	m.next("says", "bad: hello", "good: appfw: denied")

	m.WriteFile("/etc/appfw/clients.policy", "allow good.example\nallow-from 10.0.0.0/8\n")
	w.denied(proxy("/etc/appfw/clients.policy"), "the policy lets the service itself not come to its proxy (allow-from localhost:1080 would)")
	m.WriteFile("/etc/appfw/open.policy", "allow good.example\nallow-from localhost\n")
	w.ok(proxy("/etc/appfw/open.policy", "--log", "/var/log/appfw-says/log.json", "--quiet"))
	m.next("says", "good: hello")
	wants(t, w.ok(m.run("cat", "/var/log/appfw-says/log.json")), `"name":"good.example"`)
	if said := m.Journal("appfw-serve@says"); strings.Contains(said[strings.LastIndex(said, "Starting"):], "denied") {
		t.Errorf("it is not quiet: %s", said)
	}
	w.ok(proxy("/etc/appfw/open.policy", "--remove"))
	w.ok(m.run("systemctl", "start", "busy"))
	m.until(func() bool { return strings.Contains(m.run("ss", "-ltn").stdout, "0.0.0.0:1080") })
	r := proxy("/etc/appfw/open.policy")
	w.denied(r, "something listens there, or at port 1080 of all addresses (ss -ltnp 'sport = 1080' shows it): give another port, as --listen 127.100.249.250:1081")
	m.advised(proxy("/etc/appfw/open.policy", "--listen", "127.100.249.250:1081"))
	m.next("says", "good: hello")

	// The bounds of appfw's own units, with how much it takes.
	shown := w.ok(m.run("systemctl", "show", "--property=MemoryMax,MemoryCurrent,TasksMax,TasksCurrent", "appfw-serve@says"))
	wants(t, shown, "MemoryMax=1073741824\n", "TasksMax=256\n")

	m.WriteFile("/root/.config/systemd/user/mine.service", "[Service]\nExecStart=/bin/true\n")
	w.denied(m.run("appfw", "systemd", "proxy", "mine", "--policy", "/etc/appfw/open.policy"), "mine.service is a unit of users (systemctl --user), whose managers can put nothing behind appfw: have its ExecStart= run the program by appfw run")
	m.WriteFile("/etc/systemd/system/bus.service", "[Service]\nType=dbus\nBusName=org.example\nExecStart=/bin/true\n")
	w.ok(m.run("systemctl", "daemon-reload"))
	w.denied(m.run("appfw", "systemd", "netns", "bus", "--policy", "/etc/appfw/open.policy"), "bus.service needs D-Bus (Type=dbus): ")
}

// Templates as a whole; other names of units; servers of several kinds.
func TestServiceKinds(t *testing.T) {
	w := newWorld(t)
	w.goodAndBad()
	m := w.boot(map[string]string{
		"many@.service": strings.ReplaceAll(says, "$name: ", "%i $name: "),
		"says.service":  says,
		"dynamic.service": `[Service]
Type=oneshot
DynamicUser=yes
StateDirectory=dynamic
ExecStart=/usr/bin/python3 -c 'import urllib.request; page = urllib.request.urlopen("http://good.example/", timeout=20).read(); \
  open("/var/lib/dynamic/page", "wb").write(page); print(page)'
`,
		"root.service": "[Service]\nType=oneshot\nExecStart=/usr/bin/su nobody -s /bin/sh -c 'id -un; curl -sS -m 20 http://good.example/'\n",
	})
	m.WriteFile("/etc/appfw/good.policy", "allow good.example\n")
	behind := func(way, unit string, args ...string) result {
		t.Helper()
		return m.run("appfw", append([]string{"systemd", way, unit, "--policy", "/etc/appfw/good.policy"}, args...)...)
	}
	w.ok(m.run("systemctl", "start", "many@1"))
	for _, way := range []string{"proxy", "netns"} {
		r := behind(way, "many@")
		wants(t, r.stdout, "many@.service is behind appfw from its next start on: systemctl restart 'many@*.service'\n")
		m.advised(r)
		w.ok(m.run("systemctl", "start", "many@2"))
		for _, i := range []string{"1", "2"} {
			m.next("many@"+i, i+" good: hello", i+" bad: "+map[string]string{"proxy": "appfw: denied", "netns": "curl: (6)"}[way])
		}
		w.ok(behind(way, "dynamic"))
		w.ok(m.run("systemctl", "start", "dynamic"))
		m.until(func() bool {
			return strings.Count(m.Journal("dynamic"), "hello from good") == map[string]int{"proxy": 1, "netns": 2}[way]
		})
	}
	m.advised(m.run("appfw", "systemd", "netns", "many@", "--remove"))
	m.next("many@1", "1 bad: hello")

	w.ok(m.run("ln", "-s", "says.service", "/etc/systemd/system/alias.service"))
	w.ok(m.run("systemctl", "daemon-reload"))
	m.advised(behind("proxy", "alias"))
	m.next("says", "good: hello", "bad: appfw: denied")
	wants(t, w.ok(m.run("appfw", "systemd", "proxy", "alias", "--remove")), "says.service.d/zz-appfw.conf")

	// Root becomes others, and opens sessions.
	w.ok(behind("netns", "root"))
	w.ok(m.run("systemctl", "start", "root"))
	wants(t, m.Journal("root"), "nobody\n", "hello from good")
	w.ok(m.run("sh", "-c", "ssh-keygen -A && mkdir -m 700 -p /root/.ssh && ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id && cp /root/.ssh/id.pub /root/.ssh/authorized_keys"))
	r := behind("netns", "ssh", "--publish", "0.0.0.0:22:22", "--publish", fmt.Sprintf("[::ffff:%s]:23:22", w.Addr4()), "--publish", "11.22.33.44:24:22")
	wants(t, r.stderr, "appfw: note: ssh.service opens sessions of users (PAM), for which /proc is writable:", "appfw: note: --keep /proc: it can write into other processes of its user, and have them work for it")
	m.advised(r)
	wants(t, m.Journal("appfw-netns@ssh"), "appfw: --publish 11.22.33.44:24:22: this host has no such address yet; clients come when it has")
	w.ok(m.run("ip", "address", "add", "11.22.33.44/32", "dev", "lo"))
	for _, to := range []string{"-p22 127.0.0.1", "-p23 " + w.Addr4().String(), "-p24 11.22.33.44"} {
		out := w.ok(m.run("sh", "-c", "ssh -o StrictHostKeyChecking=no -i /root/.ssh/id "+to+" 'curl -sS http://good.example/; curl -sS http://bad.example/ 2>&1 || true'"))
		wants(t, out, "hello from good", "Could not resolve host: bad.example")
	}
}
