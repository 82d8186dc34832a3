package main

import (
	"testing"
	"time"

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
	confined = append(confined, "Environment=ALL_PROXY=socks5h://127.100.90.50:1080")
	wants(t, w.ok(curl(confined, "https://example.com/")), "hello from example.com")
	w.denied(curl(confined, "https://other.example/"), "Can't complete SOCKS5 connection to other.example")
	w.denied(curl(confined, beside...), "Timeout was reached")
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
