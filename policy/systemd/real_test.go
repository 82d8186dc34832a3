package systemd

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The real systemd, which can say what it makes of units without running any,
// reads them as Read does, and finds nothing wrong in what export writes.
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
		imported, _, err := unitOf(t, texts[len(texts)-1-i]).Policy(validUpstream)
		if err != nil {
			t.Fatal(err)
		}
		exported, _, err := DropIn(mustCompile(t, imported), false)
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
