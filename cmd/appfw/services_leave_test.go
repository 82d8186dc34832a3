package main

import (
	_ "embed"
	"strings"
	"testing"
)

// leaver tries to leave in all the ways that we know.
//
//go:embed testdata/leave.py
var leaver string

// leaving are units of a service that tries to leave, and of what is outside.
func leaving(w *world, user, ways string) map[string]string {
	return map[string]string{
		// The same user's, and traceable: it has fewer capabilities.
		"victim.service": "[Service]\nUser=" + user + "\nCapabilityBoundingSet=CAP_CHOWN\nExecStart=/bin/sleep infinity\n",
		"leave.service": "[Service]\nType=oneshot\nUser=" + user + "\nStandardOutput=truncate:/run/leave.out\nStandardError=inherit\n" +
			"ExecStart=/usr/bin/python3 /usr/local/lib/leave.py " + w.Addr4().String() + " " + ways + "\n",
	}
}

// A service that is root, and hostile, does not leave; nor does one of an ordinary user.
func TestServiceLeaves(t *testing.T) {
	for _, user := range []string{"root", "nobody"} {
		t.Run(user, func(t *testing.T) {
			w := newWorld(t)
			m := w.boot(leaving(w, user, ""))
			m.WriteFile("/usr/local/lib/leave.py", leaver)
			m.WriteFile("/etc/appfw/leave.policy", "allow example.com\n")
			w.ok(m.run("systemctl", "start", "victim"))
			for _, way := range []string{"proxy", "netns"} {
				w.ok(m.run("appfw", "systemd", way, "leave", "--policy", "/etc/appfw/leave.policy"))
				w.ok(m.run("systemctl", "start", "leave"))
				out := w.ok(m.run("cat", "/run/leave.out"))
				if kept := strings.Count(out, "kept "); strings.Contains(out, "OUT ") || kept != strings.Count(leaver[:strings.Index(leaver, "WAYS = [")], "\n    \"") {
					t.Errorf("%s: %d ways are kept:\n%s", way, kept, out)
				}
			}
			w.untouched(w.other)
		})
	}
}

// The ways lead out: without what appfw takes from the service, or with it given back, and
// then it says what that costs.
func TestServiceLeavesWithout(t *testing.T) {
	w := newWorld(t)
	m := w.boot(leaving(w, "root", "cgroup new_cgroup remount packet bus ptrace memory steal vsock unmapped_proc"))
	m.WriteFile("/usr/local/lib/leave.py", leaver)
	m.WriteFile("/etc/appfw/leave.policy", "allow example.com\n")
	m.WriteFile("/etc/systemd/system/leave.service.d/closed.conf", "[Service]\nIPAddressDeny=any\n")
	w.ok(m.run("systemctl", "daemon-reload"))
	w.ok(m.run("systemctl", "start", "victim", "leave"))
	if out := w.ok(m.run("cat", "/run/leave.out")); strings.Contains(out, "kept ") {
		t.Errorf("some ways lead nowhere:\n%s", out)
	}
	if w.Packets(w.other.Addr4()) == 0 {
		t.Error("nothing was sent")
	}
	for name, c := range map[string]struct{ way, cost string }{
		"ProtectControlGroups": {"cgroup", "as root it can leave its control group, and what systemd denies to that"},
		"/run/dbus":            {"", "as root it can have systemd start programs outside; others may resolve names for it"},
		"/proc":                {"memory", "it can write into other processes of its user, and have them work for it"},
		"RestrictNamespaces":   {"unmapped_proc", "as root it can have the kernel start programs outside, by a /proc of its own"},
		"AF_PACKET":            {"", "it can send packets that no filter of sockets sees"},
		"CAP_SYS_ADMIN":        {"remount", "it can leave, by mounts and namespaces"},
	} {
		r := m.run("appfw", "systemd", "proxy", "leave", "--policy", "/etc/appfw/leave.policy", "--keep", name)
		w.ok(r)
		wants(t, r.stderr, "appfw: note: --keep "+name+": "+c.cost)
		w.ok(m.run("systemctl", "start", "leave"))
		if out := w.ok(m.run("cat", "/run/leave.out")); c.way != "" && !strings.Contains(out, "OUT  "+c.way+" ") {
			t.Errorf("%s: %s", name, out)
		}
	}
}
