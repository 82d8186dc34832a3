package main

import (
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// sender sends a datagram to each address, and says whether systemd let it.
const sender = `import errno, socket, sys
for a in sys.argv[1:]:
	try:
		socket.socket(socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_DGRAM).sendto(b"?", (a, 9))
		print("allow", a)
	except OSError as e:
		print("deny" if e.errno == errno.EPERM else e, a)
`

// What the real systemd lets a unit reach, appfw does by the policy that import makes
// of it; and what export makes of that, systemd enforces as it did the unit's own.
func TestRealAddresses(t *testing.T) {
	w := newWorld(t)
	m := w.boot(nil)
	m.WriteFile("/usr/local/lib/sender.py", sender)
	lan := []string{"10.0.0.0", "10.0.0.7", "10.0.0.255"}
	localhost := []string{"127.0.0.1", "127.0.0.53", "127.255.255.254", "::1"}
	own := []string{w.Addr4().String(), w.Addr6().String()}
	others := []string{"1.1.1.1", "8.8.8.7", "8.8.8.8", "8.8.8.9", "9.9.9.9", "9.255.255.255", "10.0.1.0", "11.22.0.10", "126.255.255.255", "128.0.0.0",
		"169.254.169.254", "172.16.0.1", "192.168.1.1", "2a0d:aaaa::10", "2606:4700::1", "fd00::1"}
	addrs := slices.Concat(lan, localhost, own, others)
	verdicts := func(allowed []string) (lines string) {
		for _, a := range addrs {
			lines += map[bool]string{true: "allow ", false: "deny "}[slices.Contains(allowed, a)] + a + "\n"
		}
		return lines
	}
	allBut := func(denied ...string) []string {
		return slices.DeleteFunc(slices.Clone(addrs), func(a string) bool { return slices.Contains(denied, a) })
	}
	for unit, c := range map[string]struct {
		text       string
		allowed    []string
		byImported []string
	}{
		"a": {"IPAddressDeny=8.8.8.8\nIPAddressAllow=1.1.1.1\nIPAddressAllow=9.9.9.9\n",
			allBut("8.8.8.8"), allBut(append(own, "8.8.8.8")...)}, // as import says
		"b": {"IPAddressDeny=any\nIPAddressAllow=localhost\nIPAddressAllow=10.0.0.0/24\n",
			slices.Concat(lan, localhost), slices.Concat(lan, localhost)},
		"c": {"Environment=ALL_PROXY=socks://127.0.0.1:9050\nIPAddressDeny=any\nIPAddressAllow=localhost\n",
			localhost, localhost},
	} {
		start := "[Service]\nType=oneshot\nStandardOutput=truncate:/run/%N\nExecStart=/usr/bin/python3 /usr/local/lib/sender.py " + strings.Join(addrs, " ") + "\n"
		enforces := func(unit string) {
			t.Helper()
			w.ok(m.run("systemctl", "daemon-reload"))
			w.ok(m.run("systemctl", "start", unit))
			if got, want := w.ok(m.run("cat", "/run/"+unit)), verdicts(c.allowed); got != want {
				t.Errorf("%s: systemd enforces\n%swant\n%s", unit, got, want)
			}
		}
		m.WriteFile("/etc/systemd/system/"+unit+".service", start+c.text)
		enforces(unit)

		policy := "/run/" + unit + ".policy"
		m.WriteFile(policy, w.ok(m.run("appfw", "systemd", "import", unit+".service")))
		for _, proto := range []string{"tcp", "udp"} {
			var why strings.Builder
			for _, a := range addrs {
				verdict, _, _ := strings.Cut(m.run("appfw", "why", "--policy", policy, net.JoinHostPort(a, "443")+"/"+proto).stdout, " ")
				fmt.Fprintln(&why, verdict, a)
			}
			if want := verdicts(c.byImported); why.String() != want {
				t.Errorf("%s: %s: why says\n%swant\n%s", unit, proto, &why, want)
			}
		}

		exported := w.ok(m.run("appfw", "systemd", "export", "--policy", policy))
		m.WriteFile("/etc/systemd/system/"+unit+".service.d/net.conf", exported)
		enforces(unit)
		m.WriteFile("/etc/systemd/system/"+unit+"-again.service", start+exported)
		enforces(unit + "-again")
	}
}

// A unit's ALL_PROXY=socks://, which to curl is SOCKS4, leads it to appfw serve, also
// under the policy that import makes of the unit; and there it is the way out.
func TestImportedProxy(t *testing.T) {
	both(t, func(w *world) {
		unit := w.write("c.service", "[Service]\nEnvironment=ALL_PROXY=socks://127.0.0.1:9050\nIPAddressDeny=any\nIPAddressAllow=localhost\n")
		imported := w.ok(w.appfw("systemd", "import", unit))
		policy := w.write("c.policy", imported)
		s := w.serve("--listen", "127.0.0.1:9050", "--allow", "example.com", "--allow", "11.22.0.30:80")
		w.Host("11.22.0.30").ServeHTTP(80, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprintln(rw, "hello by address") }))

		socks := []string{"env", "ALL_PROXY=socks://127.0.0.1:9050", "curl", "-sS", "-m", "20"}
		host := func(url string) result {
			t.Helper()
			return w.finish(w.Command(t.Context(), w.user, socks[0], append(socks[1:], url)...))
		}
		under := func(url string) result {
			t.Helper()
			return w.run(append(append([]string{"--policy", policy, "--"}, socks...), url)...)
		}
		for _, curl := range []func(url string) result{host, under} {
			wants(t, w.ok(curl("http://11.22.0.30/")), "hello by address")
			w.denied(curl("http://11.22.0.20/"), "curl: (97)")
		}
		s.says("appfw: denied tcp 11.22.0.20:80: no rule allows it")
		w.denied(host("http://example.com/"), "curl: (97)") // SOCKS4 has the address that curl looked up, and no name
		s.says("appfw: denied tcp 11.22.0.10:80: no rule allows it")
		w.denied(w.run("--policy", policy, "--", "curl", "-sS", "http://11.22.0.30/"), "appfw: denied tcp 11.22.0.30:80: the rule deny 0.0.0.0/0")
		w.untouched(w.other)

		// Names as well, as the policy says that one does it.
		named := w.write("named.policy", regexp.MustCompile(`(?m)^deny .*\n`).ReplaceAllString(imported, "")+"allow example.com\nallow other.example\n")
		wants(t, w.ok(w.run("--policy", named, "--", "curl", "-sS", "https://example.com/")), "hello from example.com")
		w.denied(w.run("--policy", named, "--", "curl", "-sS", "https://other.example/"), "curl: (7)")
		s.says("appfw: denied tcp other.example:443: no rule allows it")
		w.untouched(w.other)
	})
}
