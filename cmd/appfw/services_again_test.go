package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// says is a service that fetches pages, and says what it got, until it is stopped.
const says = `[Service]
User=nobody
ExecStart=/bin/sh -c 'while :; do for name in good bad; do echo "$name: $(curl -sS -m 5 http://$name.example/ 2>&1)"; done; sleep 0.2; done'
`

// goodAndBad are the sites of services that say.
func (w *world) goodAndBad() {
	for i, name := range []string{"good", "bad"} {
		h := w.Host([]string{"11.22.0.30", "11.22.0.31"}[i]).Name(name + ".example")
		h.ServeHTTP(80, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprintln(rw, "hello from "+name) }))
	}
}

// next is what a service says from now on, until it has said all of parts.
func (m *booted) next(unit string, parts ...string) {
	m.t.Helper()
	from := len(m.Journal(unit))
	m.until(func() bool {
		for _, p := range parts {
			if !strings.Contains(m.Journal(unit)[from:], p) {
				return false
			}
		}
		return true
	})
}

// advised runs the command that appfw printed.
func (m *booted) advised(r result) {
	m.t.Helper()
	_, command, ok := strings.Cut(r.stdout, ": systemctl ")
	if r.code != 0 || !ok {
		m.t.Fatalf("no command in %+v", r)
	}
	if r := m.run("sh", "-c", "systemctl "+command); r.code != 0 {
		m.t.Fatalf("systemctl %s: %+v", command, r)
	}
}

// What is in force is what was asked for last: of appfw's own at once, without the service;
// and of the service, after the command that is printed.
func TestServiceAgain(t *testing.T) {
	w := newWorld(t)
	w.goodAndBad()
	m := w.boot(map[string]string{"says.service": says})
	m.WriteFile("/etc/appfw/good.policy", "allow good.example\n")
	m.WriteFile("/etc/appfw/bad.policy", "allow bad.example\n")
	main := func() string {
		return w.ok(m.run("systemctl", "show", "--value", "--property=MainPID", "says"))
	}
	behind := func(args ...string) result {
		t.Helper()
		return m.run("appfw", append([]string{"systemd"}, args...)...)
	}

	m.advised(behind("netns", "says", "--policy", "/etc/appfw/good.policy"))
	m.next("says", "good: hello", "bad: curl: (6)")
	before := main()
	r := behind("netns", "says", "--policy", "/etc/appfw/bad.policy", "--publish", "0.0.0.0:80:8000")
	wants(t, r.stdout, "restarted appfw-netns@says.service\n", "says.service is behind appfw from its next start on: systemctl restart says.service\n")
	m.next("says", "bad: hello", "good: curl: (6)")
	if main() != before {
		t.Error("the service was restarted")
	}
	wants(t, w.ok(m.run("ss", "-ltn")), "0.0.0.0:80")
	m.advised(r)
	m.next("says", "bad: hello", "good: curl: (6)")
	// The same once more is nothing new.
	if r := behind("netns", "says", "--policy", "/etc/appfw/bad.policy", "--publish", "0.0.0.0:80:8000"); strings.Contains(r.stdout, "restarted") {
		t.Errorf("restarted for nothing: %s", r.stdout)
	}
	// A mistake is told, and what is in force stays.
	m.WriteFile("/etc/appfw/bad.policy", "alow bad.example\n")
	w.denied(m.run("systemctl", "reload", "appfw-netns@says"), "failed")
	wants(t, m.Journal("appfw-netns@says"), `/etc/appfw/bad.policy:1:1: "alow": unknown word`)
	m.next("says", "bad: hello", "good: curl: (6)")
	m.WriteFile("/etc/appfw/bad.policy", "allow bad.example\n")
	w.ok(m.run("systemctl", "reload", "appfw-netns@says"))

	m.advised(behind("proxy", "says", "--policy", "/etc/appfw/good.policy"))
	m.next("says", "good: hello", "bad: appfw: denied")
	if out := w.ok(m.run("sh", "-c", "ls /run/netns /etc/netns; ls /run/appfw || true")); strings.Contains(out, "says") {
		t.Errorf("of the namespace is left: %s", out)
	}
	behind("proxy", "says", "--policy", "/etc/appfw/bad.policy")
	m.next("says", "bad: hello", "good: appfw: denied")
	r = behind("proxy", "says", "--policy", "/etc/appfw/bad.policy", "--listen", "127.100.9.9:3128", "--quiet")
	wants(t, r.stdout, "restarted appfw-serve@says.socket\n")
	m.advised(r)
	m.next("says", "bad: hello", "good: appfw: denied")
	wants(t, w.ok(m.run("systemctl", "show", "--property=Environment", "says")), "http_proxy=http://127.100.9.9:3128")

	// Undone, all is undone, once or twice, and also what somebody began.
	undo := func(want string) result {
		t.Helper()
		r := behind("proxy", "says", "--remove")
		w.ok(r)
		wants(t, r.stdout, want)
		if out := w.ok(m.run("sh", "-c", "ls /etc/systemd/system /run/netns /etc/netns | grep -e appfw -e '^says' -e '[.]d$' || true")); out != "says.service\n" {
			t.Errorf("left: %s", out)
		}
		return r
	}
	m.advised(undo("says.service runs as it was started, behind an appfw that has ended: systemctl restart says.service\n"))
	m.next("says", "bad: hello", "good: hello")
	undo("nothing is written for says.service\n")
	w.ok(behind("netns", "says", "--policy", "/etc/appfw/good.policy"))
	w.ok(m.run("systemctl", "restart", "says"))
	w.ok(m.run("rm", "-r", "/etc/systemd/system/says.service.d"))
	undo("removed /etc/systemd/system/appfw-netns@says.service\n")
	w.ok(m.run("systemctl", "restart", "says"))
	m.next("says", "bad: hello", "good: hello")
	w.denied(behind("proxy", "nosuch", "--remove"), "there is no unit nosuch.service")
}

// What is read later, or in slices, undoes nothing: the service does not start then, and
// the command that would put it behind appfw changes nothing, and says why.
func TestServiceUndone(t *testing.T) {
	w := newWorld(t)
	w.goodAndBad()
	m := w.boot(map[string]string{"says.service": says})
	m.WriteFile("/etc/appfw/good.policy", "allow good.example\n")
	const dropIns = "/etc/systemd/system/says.service.d/"
	type later struct{ file, text, why string }
	try := func(way string, all ...later) {
		t.Helper()
		w.ok(m.run("appfw", "systemd", way, "says", "--policy", "/etc/appfw/good.policy"))
		w.ok(m.run("systemctl", "restart", "says"))
		for _, l := range all {
			m.WriteFile(l.file, l.text)
			w.ok(m.run("systemctl", "daemon-reload"))
			r := m.run("systemctl", "restart", "says")
			again := m.run("appfw", "systemd", way, "says", "--policy", "/etc/appfw/good.policy", "--quiet")
			if l.why == "" {
				w.ok(r)
				w.ok(again)
			} else if wants(t, again.stderr, "appfw: says.service: "+l.why); again.code == 0 || r.code == 0 || !strings.Contains(m.Journal("appfw-check@says"), l.why) || !strings.Contains(again.stderr, "; nothing was changed") {
				t.Errorf("%s: it starts, or does not say why not: %+v\n%s", l.text, r, m.Journal("appfw-check@says"))
			}
			w.ok(m.run("rm", l.file))
			w.ok(m.run("systemctl", "daemon-reload"))
		}
		if text := w.ok(m.run("cat", "/etc/systemd/system/appfw-check@.service")); text == "" {
			t.Error("the check is gone")
		}
	}
	undoes := func(key string) string { return "something undoes appfw's " + key + "=: it is " }
	try("netns",
		later{dropIns + "override.conf", "[Service]\nNetworkNamespacePath=\nCapabilityBoundingSet=CAP_SYS_ADMIN\nSystemCallFilter=\n", ""},
		later{dropIns + "zzz.conf", "[Service]\nNetworkNamespacePath=\n", undoes("NetworkNamespacePath")},
		later{dropIns + "zzz.conf", "[Service]\nCapabilityBoundingSet=\nCapabilityBoundingSet=CAP_SYS_ADMIN\n", undoes("CapabilityBoundingSet")},
		later{dropIns + "zzz.conf", "[Service]\nInaccessiblePaths=\n", undoes("InaccessiblePaths")},
		later{dropIns + "zzz.conf", "[Service]\nRestrictAddressFamilies=AF_PACKET\n", undoes("RestrictAddressFamilies")},
		later{dropIns + "zzz.conf", "[Service]\nRestrictAddressFamilies=\nRestrictAddressFamilies=AF_UNIX AF_INET\n", ""},
		later{dropIns + "zzz.conf", "[Service]\nSystemCallFilter=@system-service @io-event ptrace\n", undoes("SystemCallFilter")},
		later{dropIns + "zzz.conf", "[Service]\nProtectControlGroups=no\n", undoes("ProtectControlGroups")},
		later{dropIns + "zzz.conf", "[Service]\nRestrictNamespaces=no\n", undoes("RestrictNamespaces")},
		later{dropIns + "a.conf", "[Service]\nAmbientCapabilities=CAP_NET_ADMIN\n", "AmbientCapabilities= gives it CAP_NET_ADMIN: it can change the network that it is in"},
		later{dropIns + "a.conf", "[Service]\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n", ""},
		later{dropIns + "a.conf", "[Service]\nBindPaths=/sys/fs/cgroup:/mnt\n", "BindPaths=/sys/fs/cgroup:/mnt:rbind gives it back what appfw takes from it"},
		later{dropIns + "a.conf", "[Service]\nBindReadOnlyPaths=/run/dbus:/mnt\n", "BindReadOnlyPaths=/run/dbus:/mnt:rbind gives it back what appfw takes from it"},
		later{dropIns + "a.conf", "[Service]\nReadWritePaths=-/etc/cron.d\n", "ReadWritePaths=-/etc/cron.d gives it back what appfw takes from it"},
		later{dropIns + "a.conf", "[Service]\nReadWritePaths=/var/log\nBindPaths=/var/log:/mnt\n", ""},
		later{dropIns + "a.conf", "[Service]\nExecStart=\nExecStart=+/bin/sleep infinity\n", "it starts with all privileges (ExecStart=+), so nothing keeps it in"},
		later{"/run/systemd/system/service.d/zzz.conf", "[Service]\nNetworkNamespacePath=\n", undoes("NetworkNamespacePath")},
	)
	const opened = "which opens that to it, too: take it away there, or give it another slice (Slice=)"
	try("proxy",
		later{dropIns + "override.conf", "[Service]\nIPAddressAllow=any\n", ""},
		later{dropIns + "zzz.conf", "[Service]\nIPAddressAllow=any\n", undoes("IPAddressAllow")},
		later{dropIns + "zzz.conf", "[Service]\nIPAddressDeny=\n", undoes("IPAddressDeny")},
		later{"/etc/systemd/system/system.slice.d/a.conf", "[Slice]\nIPAddressAllow=11.22.0.0/16\n", "the slice system.slice that it is in has IPAddressAllow=11.22.0.0/16, " + opened},
		later{"/etc/systemd/system/-.slice.d/a.conf", "[Slice]\nIPAddressAllow=::/0\n", "the slice -.slice that it is in has IPAddressAllow=::/0, " + opened},
		later{"/etc/systemd/system/system.slice.d/a.conf", "[Slice]\nIPAddressDeny=8.8.8.8\n", ""},
	)
	// As it runs.
	w.ok(m.run("systemctl", "restart", "says"))
	w.ok(m.run("appfw", "systemd", "check", "says"))
	w.ok(m.run("systemctl", "set-property", "--runtime", "says", "IPAddressAllow=11.22.0.31"))
	w.denied(m.run("appfw", "systemd", "check", "says"), undoes("IPAddressAllow"))
	if r := m.run("systemctl", "restart", "says"); r.code == 0 {
		t.Error("it starts")
	}
}
