package dnsguard

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"appfw/policy"
)

func TestReadResolvConf(t *testing.T) {
	for _, c := range []struct {
		in      string
		servers string
		lines   []string
	}{
		{"", "127.0.0.1:53", nil},
		{"# nameserver 1.1.1.1\n;nameserver 1.1.1.1\nnameserver\n", "127.0.0.1:53", nil},
		{"nameserver 192.0.2.1\r\nnameserver\t2001:db8::1 # it\nnameserver host\n", "192.0.2.1:53 [2001:db8::1]:53", nil},
		{"nameserver fe80::1%eth0", "[fe80::1%eth0]:53", nil},
		{"nameservers 192.0.2.1\nsearch a.example  b.example\ndomain c\noptions ndots:2 edns0\nsortlist 1", "127.0.0.1:53",
			[]string{"search a.example b.example", "domain c", "options ndots:2 edns0"}},
		{"options edns0\noptions\ttrust-ad ndots:1", "127.0.0.1:53", []string{"options edns0", "options trust-ad ndots:1"}},
	} {
		got, err := ReadResolvConf(strings.NewReader(c.in))
		var servers []string
		for _, s := range got.Servers {
			servers = append(servers, s.String())
		}
		if err != nil || strings.Join(servers, " ") != c.servers || !slices.Equal(got.Lines, c.lines) || got.TrustAD != strings.Contains(c.in, "trust-ad") {
			t.Errorf("%q: %v, %v", c.in, got, err)
		}
	}
	if _, err := ReadResolvConf(strings.NewReader(strings.Repeat("x", 1<<20))); err == nil {
		t.Error("a line without end was read")
	}
}

func TestReadHosts(t *testing.T) {
	got, err := ReadHosts(strings.NewReader("# comment\n127.0.0.1 Localhost lo # x\n192.0.2.1 a.example. a 1.2.3.4 -bad\n" +
		"::1 localhost\nfe80::1%lo z\n192.0.2.2\ta\nnot.an.address b\n192.0.2.3\n192.0.2.4#a\n010.0.0.1 c\n"))
	want := map[policy.Name]string{"localhost": "127.0.0.1 ::1", "lo": "127.0.0.1", "a.example": "192.0.2.1", "a": "192.0.2.1 192.0.2.2", "z": "fe80::1"}
	if err != nil || len(got) != len(want) {
		t.Errorf("%v, %v", got, err)
	}
	for name, addrs := range want {
		var s []string
		for _, a := range got[name] {
			s = append(s, a.String())
		}
		if strings.Join(s, " ") != addrs {
			t.Errorf("%s: %v", name, s)
		}
	}
}

func TestHostResolvers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "resolv.conf")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, server string, modified time.Time) {
		t.Helper()
		must(os.WriteFile(filepath.Join(dir, name), []byte("nameserver "+server+"\n"), 0o644))
		must(os.Chtimes(filepath.Join(dir, name), modified, modified))
	}
	old := time.Unix(1e9, 0)
	now := old.Add(time.Hour)
	read := HostResolvers(path, func() time.Time { return now })
	check := func(want string) {
		t.Helper()
		if got := fmt.Sprint(read().Servers); got != "["+want+":53]" {
			t.Errorf("%s, want %s", got, want)
		}
	}
	const a, b, c = "192.0.2.1", "192.0.2.2", "192.0.2.3" // as many bytes each

	check("127.0.0.1") // resolv.conf(5)
	write("resolv.conf", a, old)
	check("127.0.0.1") // not looked at twice a second
	now = now.Add(statEvery)
	check(a)

	write("resolv.conf", b, old.Add(1)) // in place
	now = now.Add(statEvery / 2)
	check(a)
	now = now.Add(statEvery / 2)
	check(b)

	write("new", c, old.Add(1)) // as old as the one before
	must(os.Rename(filepath.Join(dir, "new"), path))
	now = now.Add(statEvery)
	check(c)

	must(os.Remove(path)) // vanished
	now = now.Add(statEvery)
	check(c)
	must(os.Mkdir(path, 0o755)) // nothing to read
	now = now.Add(statEvery)
	check(c)
	must(os.Remove(path))
	must(syscall.Mkfifo(path, 0o644)) // would wait
	now = now.Add(statEvery)
	check(c)
	must(os.Remove(path))

	write("a", a, old) // a link that is pointed elsewhere
	write("b", b, old)
	must(os.Symlink("a", path))
	now = now.Add(statEvery)
	check(a)
	must(os.Symlink("b", filepath.Join(dir, "link")))
	must(os.Rename(filepath.Join(dir, "link"), path))
	now = now.Add(statEvery)
	check(b)
	must(os.Remove(filepath.Join(dir, "b"))) // and to nothing
	now = now.Add(statEvery)
	check(b)
	must(os.WriteFile(filepath.Join(dir, "b"), []byte(strings.Repeat("x", 1<<17)), 0o644)) // no such file
	now = now.Add(statEvery)
	check(b)

	now = now.Add(statEvery) // two changes within a tick of the file system's clock
	write("b", c, now)
	check(c)
	write("b", a, now)
	now = now.Add(statEvery)
	check(a)
}
