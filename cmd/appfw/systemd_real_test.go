package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The real systemd, which can say what it makes of units without running any,
// reads them as readUnit does, and finds nothing wrong in what export writes.
func TestRealSystemd(t *testing.T) {
	const manager = "/lib/systemd/systemd"
	if _, err := os.Stat(manager); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "appfw-units-") // not t.TempDir, which is root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })

	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	texts := []string{
		"\ufeff# [Unit]\r\n[Service]\r\n;IPAddressAllow=9.9.9.9\r\n  # x \\\nIPAddressAllow=1.1.1.1 \\\r\n# between \\\r\n  2.2.2.2\\\r\n3.3.3.3\r\n",
		"[Service]\rIPAddressAllow=1.1.1.1\r\r\n\n\rIPAddressAllow=2.2.2.2", "[Service]\nIPAddressAllow=\\\n1.1.1.1 \\",
		"[Service]\n IPAddressAllow = 10.1.2.3/8\t2001:db8::1/32 ::ffff:1.2.3.4 \nIPAddressDeny=any\nIPAddressDeny=  \n",
		"[Service]\nIPAddressAllow=LocalHost. x.localhost.localdomain link-local multicast localhost.localdomain.\n",
		"[X-Mine]\nnot an assignment\n[Service]\nIPAddressAllow=1.1.1.1\n[Unit]\nIPAddressDeny=any", "[Service]\nIPAddressAllow=1.1.1.1\n\\\nIPAddressAllow=2.2.2.2",
		"[Service]\nEnvironment=A=1 \"B=2 3\" 'C=\"' D=a\\x41\\s\\u00e9\\101 E=\\\"x\\\\\\\n F=1\nEnvironment=A=4 G=a\"b c\"d'e f'\n", "[Service]\nEnvironment=A=1\nEnvironment=\nEnvironment=B=%%",
		"[Service]\nEnvironment=ALL_PROXY=socks://127.0.0.1:9050\nIPAddressDeny=any\nIPAddressAllow=localhost\n",
	}
	for range 60 {
		texts = append(texts, randomUnit(r))
	}
	for i := range 20 { // what export makes of what import made of some
		imported, _, err := unitOf(t, texts[len(texts)-1-i]).policyText()
		if err != nil {
			t.Fatal(err)
		}
		exported, _, err := dropIn(mustCompile(t, imported), false)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, exported)
	}
	wants := "[Unit]\n"
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i, text := range texts {
		write(fmt.Sprintf("u%d.service", i), text)
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprintf("u%d.service.d", i)), 0o755); err != nil {
			t.Fatal(err)
		}
		write(fmt.Sprintf("u%d.service.d/exec.conf", i), "[Service]\nExecStart=/bin/true\n")
		wants += fmt.Sprintf("Wants=u%d.service\n", i)
	}
	write("all.target", wants)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, manager, "--user", "--test", "--unit=all.target")
	c.Env = []string{"HOME=" + dir, "XDG_RUNTIME_DIR=" + dir, "SYSTEMD_LOG_TARGET=console", "SYSTEMD_UNIT_PATH=" + dir + ":", "PATH=/usr/bin:/bin"}
	c.Dir = dir
	if os.Getuid() == 0 { // which it refuses to test as
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := c.CombinedOutput()
	if err != nil && !strings.Contains(string(out), "-> Unit u0.service") {
		t.Fatalf("%v\n%s", err, out)
	}
	real := map[string]map[string]bool{}
	name := ""
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if unit, ok := strings.CutPrefix(line, "-> Unit "); ok {
			name = strings.TrimSuffix(unit, ":")
			real[name] = map[string]bool{}
		}
		switch key, value, _ := strings.Cut(line, ": "); {
		case name == "":
		case key == "Environment":
			real[name][line] = true
		case key == "IPAddressAllow" || key == "IPAddressDeny":
			real[name][key+": "+netip.MustParsePrefix(value).String()] = true // ::0.1.0.0/112 is ::1:0/112
		}
		if strings.Contains(line, "invalid") {
			t.Errorf("systemd: %s", line)
		}
	}
	for i, text := range texts {
		u := unitOf(t, text)
		want := map[string]bool{}
		for _, p := range u.allow {
			want["IPAddressAllow: "+p.Prefix.String()] = true
		}
		for _, p := range u.deny {
			want["IPAddressDeny: "+p.Prefix.String()] = true
		}
		for name, v := range u.env {
			want["Environment: "+name+"="+strings.ReplaceAll(v.text, "%%", "%")] = true
		}
		if got := real[fmt.Sprintf("u%d.service", i)]; !maps.Equal(got, want) {
			t.Errorf("seed %d: %q:\nsystemd: %q\n   ours: %q", seed, text, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
		}
	}
}

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
