package internet_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"appfw/testdata/internet"
)

// run runs a command in the simulated host and returns its output and error.
func run(t *testing.T, n *internet.Internet, u internet.User, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	output, err := n.Command(ctx, u, name, args...).CombinedOutput()
	return string(output), err
}

// succeed is like run but fails the test on an error.
func succeed(t *testing.T, n *internet.Internet, u internet.User, name string, args ...string) string {
	t.Helper()
	output, err := run(t, n, u, name, args...)
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, output)
	}
	return output
}

func hello(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello ", r.RemoteAddr) }

func TestHTTPS(t *testing.T) {
	n := internet.New(t)
	h := n.Host("11.22.1.1", "2a0d:aaaa::1:1").Name("www.example.com")
	h.ServeHTTPS(443, http.HandlerFunc(hello), "www.example.com")
	for _, u := range []internet.User{n.Root(), n.Ordinary()} {
		for flag, source := range map[string]string{"-4": n.Addr4().String(), "-6": n.Addr6().String()} {
			if got := succeed(t, n, u, "curl", "-sS", flag, "https://www.example.com/"); !strings.Contains(got, source) {
				t.Errorf("curl %s as %s: %s", flag, u.Name, got)
			}
		}
	}
	if q := n.Zone().Queries(); !slices.Contains(q, "www.example.com. A") || !slices.Contains(q, "www.example.com. AAAA") {
		t.Errorf("queries: %q", q)
	}
	if n.PacketsTo(h.Addr4(), unix.IPPROTO_TCP, 443) < 2 || n.PacketsTo(h.Addr6(), unix.IPPROTO_TCP, 443) < 2 {
		t.Errorf("packets not counted")
	}
	if got := n.Packets(h.Addr4()) - n.PacketsTo(h.Addr4(), unix.IPPROTO_TCP, 443); got != 0 {
		t.Errorf("%d other packets", got)
	}
	if n.PacketsTo(n.Resolver4(), unix.IPPROTO_UDP, 53) == 0 || n.Zone().Asked("example.org") {
		t.Error("DNS packets not counted, or never sent queries recorded")
	}
}

func TestNobodyAnswers(t *testing.T) {
	n := internet.New(t)
	h := n.Host("11.22.1.2", "2a0d:aaaa::1:2")
	h.ServeHTTP(80, http.HandlerFunc(hello))
	h.Blackhole()
	for _, c := range []struct{ url, want string }{
		{"http://11.22.1.2/", "Timeout was reached"},
		{"http://[2a0d:aaaa::1:2]/", "Timeout was reached"},
		{"http://11.22.1.3/", "No route to host"},
		{"http://11.22.1.3/", "No route to host"},
		{"http://[2a0d:aaaa::1:3]/", "No route to host"},
		{"http://[2a0d:aaaa::1:3]/", "No route to host"},
		{"http://11.22.0.53/", "Connection refused"},
	} {
		start := time.Now()
		got, err := run(t, n, n.Ordinary(), "curl", "-sSv", "--connect-timeout", "1", c.url)
		if err == nil || !strings.Contains(got, c.want) {
			t.Errorf("%s: %v: %s", c.url, err, got)
		}
		if took := time.Since(start); c.want != "Timeout was reached" && took > 900*time.Millisecond {
			t.Errorf("%s took %s", c.url, took)
		}
	}
	if n.Packets(h.Addr4()) == 0 || n.Packets(h.Addr6()) == 0 {
		t.Error("packets to the black hole not counted")
	}
}

func TestResolver(t *testing.T) {
	n := internet.New(t)
	z := n.Zone()
	z.Set("a.test. CNAME B.test.", "b.test. A 11.22.1.4", "*.w.test. 5 IN TXT hi", "loop.test. CNAME loop.test.")
	for i := range 100 {
		z.Set(fmt.Sprintf("many.test. A 11.22.2.%d", i))
	}
	z.Handle("fail.test", func(w dns.ResponseWriter, r *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(r, dns.RcodeRefused)) // dig tells
	})
	for _, c := range []struct{ args, want string }{
		{"a.test A", "B.test.\t\t\t3600\tIN\tA\t11.22.1.4"},
		{"a.test AAAA", "ANSWER: 1, AUTHORITY: 1"},
		{"x.y.w.test TXT", "x.y.w.test.\t\t5\tIN\tTXT\t\"hi\""},
		{"w.test A", "status: NOERROR"},
		{"none.test A", "status: NXDOMAIN"},
		{"loop.test A", "status: SERVFAIL"},
		{"fail.test A", "status: REFUSED"},
		{"+ignore many.test A", "flags: qr tc rd ra"},
		{"many.test A", "ANSWER: 100"},
		{"@" + n.Resolver6().String() + " b.test A", "11.22.1.4"},
	} {
		got := succeed(t, n, n.Ordinary(), "dig", strings.Fields(c.args)...)
		if !strings.Contains(got, c.want) {
			t.Errorf("%s: %s", c.args, got)
		}
	}
	z.Clear("b.test")
	if got := succeed(t, n, n.Ordinary(), "dig", "b.test"); !strings.Contains(got, "NXDOMAIN") {
		t.Error(got)
	}
	if n.PacketsTo(n.Resolver4(), unix.IPPROTO_TCP, 53) == 0 {
		t.Error("no question by TCP")
	}
}

func TestSockets(t *testing.T) {
	n := internet.New(t)
	state := n.HostState()
	h := n.Host("11.22.1.5", "2a0d:aaaa::1:5")
	h.ServeTCP(7, func(c net.Conn) { fmt.Fprint(c, "tcp"); _, _ = c.Read(make([]byte, 1)) })
	h.ServeUDP(7, func(c net.PacketConn, from net.Addr, b []byte) { _, _ = c.WriteTo(append(b, " udp"...), from) })
	local, err := n.ListenOnHost("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if c, err := local.Accept(); err == nil {
			fmt.Fprint(c, "local")
			_ = c.Close()
		}
	}()
	n.Server("python3", "-m", "http.server", "--bind", "11.22.1.5", "8000")
	n.AwaitTCP(8000)
	_, port, _ := net.SplitHostPort(local.Addr().String())
	for script, want := range map[string]string{
		"read -N3 a </dev/tcp/11.22.1.5/7; echo $a":                                             "tcp",
		"exec 3<>/dev/udp/2a0d:aaaa::1:5/7; echo -n hi >&3; dd bs=99 count=1 <&3 2>/dev/null":   "hi udp",
		"cat </dev/tcp/localhost/" + port:                                                       "local",
		"curl -sSI http://11.22.1.5:8000":                                                       "200 OK",
		"ls /sys/class/net; id -un; hostname; ls /sys/fs/cgroup":                                "eth0\nlo\nordinary\nhost\n",
		"ping -c1 -W1 2a0d:aaaa::1:5 && cat /etc/resolv.conf && echo $HOME && touch $HOME/file": n.Ordinary().Home,
	} {
		if got := succeed(t, n, n.Ordinary(), "bash", "-c", script); !strings.Contains(got, want) {
			t.Errorf("%s: %q", script, got)
		}
	}
	if after := n.HostState(); after != state || !strings.Contains(state, "Gw: 11.1.0.1") {
		t.Errorf("host state changed or incomplete:\n%s\n%s", state, after)
	}
}
