package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"appfw/testdata/internet"
)

// Programs that know nothing of it go out by Tor, on a real network of Tor's. It
// boots once, as that takes long.
func TestTor(t *testing.T) {
	w := newWorld(t)
	w.user = w.Ordinary()
	s := torSites{web: w.nginx(), page: text(3000)}
	s.git, s.ssh = w.sshd()
	w.ok(w.finish(w.Command(t.Context(), w.Root(), "cp", filepath.Join(w.user.Home, "id"), w.Root().Home)))
	s.repo = filepath.Join(w.Dir(), "www/repo.git")
	w.write("www/page", s.page)
	w.make("sh", "-ec", `git init -q -b main "$0/work"; cd "$0/work"; cp ../www/page .; git add page
		git -c user.name=a -c user.email=a@example.com commit -q -m first
		git clone -q --bare . "$1"; git -C "$1" update-server-info`, w.Dir(), s.repo)
	s.direct = w.Host("11.22.0.80").Name("direct.example")
	// Who asks is told who it is.
	ask := func(c net.Conn) { _, _ = io.WriteString(c, c.RemoteAddr().String()) }
	w.example.ServeTCP(7, ask)
	s.direct.ServeTCP(7, ask)
	w.example.ServeTCP(8, func(c net.Conn) { _, _ = io.Copy(c, c) })

	n := w.torNet()
	n.zone.Set("example.com. A 11.22.0.10", "shared.example. A 11.22.0.10", "other.example. A 11.22.0.20")
	for _, user := range []internet.User{w.Root(), w.Ordinary()} {
		t.Run(user.Name, func(t *testing.T) {
			for _, test := range []struct {
				name string
				test func(*torNet, torSites)
			}{
				{"onion", testTorOnion}, {"exit", testTorExit}, {"via", testTorVia}, {"denied", testTorDenied},
				{"circuits", testTorCircuits}, {"down", testTorDown},
			} {
				t.Run(test.name, func(t *testing.T) {
					m, w := *n, *n.world
					w.t, w.user = t, user
					m.world = &w
					test.test(&m, s)
				})
			}
		})
	}
}

// torSites are behind the onion service, and beside Tor.
type torSites struct {
	web, git, direct *internet.Host
	page, repo, ssh  string
}

// indirect fails the test if anything went beside Tor but what is for direct.example.
func (n *torNet) indirect(s torSites) {
	n.t.Helper()
	for _, h := range []*internet.Host{n.example, n.other, s.web, s.git} {
		n.untouched(h)
	}
	for _, q := range n.Zone().Queries() {
		if !strings.HasPrefix(q, "direct.example. ") {
			n.t.Errorf("the host's resolver was asked %s", q)
		}
	}
}

func testTorOnion(n *torNet, s torSites) {
	run := func(command ...string) string {
		n.t.Helper()
		return n.ok(n.run(append([]string{"--upstream", "tor", "--allow", ".onion", "--"}, command...)...))
	}
	if got := run("curl", "-sS", "http://"+n.onion+"/page"); got != s.page {
		n.t.Errorf("%d bytes, not %d", len(got), len(s.page))
	}
	ssh := strings.ReplaceAll(s.ssh, n.Ordinary().Home, n.user.Home) + " -o HostKeyAlias=git.example"
	if from := run("sh", "-c", ssh+" "+n.onion+" 'echo $SSH_CONNECTION'"); !strings.HasPrefix(from, torService+" ") {
		n.t.Errorf("the connection is %s", from)
	}
	for scheme, url := range map[string]string{"http": "http://" + n.onion + "/repo.git", "ssh": "ssh://" + n.onion + s.repo} {
		into := filepath.Join(n.user.Home, scheme)
		run("env", "GIT_SSH_COMMAND="+ssh, "git", "clone", "-q", url, into)
		if got, err := os.ReadFile(filepath.Join(into, "page")); string(got) != s.page {
			n.t.Errorf("%s: %d bytes, not %d, %v", url, len(got), len(s.page), err)
		}
	}
	n.indirect(s)
	if n.zone.Asked(n.onion) || strings.Contains(n.exited(), n.onion) {
		n.t.Error("an exit was asked for the onion service")
	}
}

func testTorExit(n *torNet, s torSites) {
	run := func(command ...string) string {
		n.t.Helper()
		return n.ok(n.run(append([]string{"--upstream", "tor", "--allow", "example.com", "--"}, command...)...))
	}
	wants(n.t, run("curl", "-sS", "http://example.com"), "hello from example.com")
	wants(n.t, run("curl", "-sS", "https://example.com"), "hello from example.com")
	from, _, _ := strings.Cut(run("ncat", "--recv-only", "example.com", "7"), ":")
	if !slices.Contains(torExits, from) {
		n.t.Errorf("the server saw %q", from)
	}
	n.indirect(s)
	wants(n.t, n.exited(), `request for "example.com"`)
	if !n.zone.Asked("example.com") {
		n.t.Error("no exit asked for it")
	}
}

// Onion services by Tor, and the rest as ever.
func testTorVia(n *torNet, s torSites) {
	for _, lines := range []string{
		"allow .onion via=tor\nallow direct.example\n",
		"upstream onions=tor\nallow .onion via=onions\nallow direct.example\n",
		"upstream tor\nallow .onion\nallow direct.example via=direct\n",
	} {
		script := "curl -4 -sS http://" + n.onion + "/page; ncat --recv-only direct.example 7"
		var out string
		streams := n.streams(func() {
			out = n.ok(n.run("--policy", n.write("via.policy", lines), "--", "sh", "-ec", script))
		})
		if want := s.page + n.Addr4().String() + ":"; !strings.HasPrefix(out, want) {
			n.t.Errorf("%q: %.20q", lines, strings.TrimPrefix(out, s.page))
		}
		if len(streams) != 1 || streams[0].to != n.onion+":80" {
			n.t.Errorf("%q: by Tor went %v", lines, streams)
		}
	}
	n.indirect(s)
	if n.zone.Asked("direct.example") || strings.Contains(n.exited(), "direct.example") {
		n.t.Error("an exit was asked")
	}
}

// Tor hears nothing of what is denied.
func testTorDenied(n *torNet, s torSites) {
	streams := n.streams(func() {
		run := func(command ...string) result {
			return n.run(append([]string{"--upstream", "tor", "--allow", "example.com:80", "--allow", n.onion + ":81", "--"}, command...)...)
		}
		other := strings.Repeat("a", 56) + ".onion"
		n.denied(run("curl", "-sS", "http://"+other), "denied dns "+other+": no rule allows it")
		n.denied(run("curl", "-sS", "http://other.example"), "denied dns other.example: no rule allows it")
		n.denied(run("curl", "-sS", "http://"+n.onion), "denied tcp "+n.onion+":80: no rule allows it")
		n.denied(run("curl", "-sS", "http://11.22.0.20"), "denied tcp 11.22.0.20:80")
		n.denied(run("curl", "-sS", "-x", "socks5h://127.0.0.1:9050", "http://other.example"), "denied tcp 127.0.0.1:9050")
		wants(n.t, n.ok(run("curl", "-sS", "http://example.com")), "hello")
	})
	if len(streams) != 1 || streams[0].to != "example.com:80" {
		n.t.Errorf("Tor heard of %v", streams)
	}
	n.indirect(s)
	if n.zone.Asked("other.example") || strings.Contains(n.exited(), "other.example") {
		n.t.Error("an exit was asked for a denied name")
	}
}

// Two runs share no circuit; what one run does shares one, or as --isolate says.
func testTorCircuits(n *torNet, s torSites) {
	// By one family: while Tor takes its time, curl tries the other one, too.
	const script = "curl -4 -sS http://example.com http://shared.example; curl -4 -sS http://example.com"
	seen := map[string]bool{}
	for _, c := range []struct {
		flags []string
		same  [3]int // equal numbers for equal circuits
	}{
		{nil, [3]int{0, 0, 0}},
		{nil, [3]int{0, 0, 0}},
		{[]string{"--isolate", "run"}, [3]int{0, 0, 0}},
		{[]string{"--isolate", "destination"}, [3]int{0, 1, 0}},
		{[]string{"--isolate", "process"}, [3]int{0, 0, 1}},
	} {
		streams := n.streams(func() {
			flags := append([]string{"--upstream", "tor", "--allow", "example.com", "--allow", "shared.example"}, c.flags...)
			out := n.ok(n.run(append(flags, "--", "sh", "-ec", script)...))
			wants(n.t, out, "hello from example.com\nhello from shared.example\nhello from example.com\n")
		})
		if len(streams) != len(c.same) {
			n.t.Fatalf("by Tor went %v", streams)
		}
		for i, a := range streams {
			for j, b := range streams[:i] {
				if (a.circuit == b.circuit) != (c.same[i] == c.same[j]) {
					n.t.Errorf("%v: %v", c.flags, streams)
				}
			}
			if a.circuit == "" || seen[a.circuit] {
				n.t.Errorf("%v: %v, and before %v", c.flags, streams, seen)
			}
		}
		for _, a := range streams {
			seen[a.circuit] = true
		}
	}
	n.indirect(s)
}

// While Tor is down, nothing goes and all fails at once.
func testTorDown(n *torNet, s torSites) {
	a := n.session("--upstream", "tor", "--allow", "example.com", "--allow", ".onion", "--", "bash")
	works := func() {
		n.t.Helper()
		wants(n.t, a.ok("curl -sS http://example.com"), "hello from example.com")
		wants(n.t, a.ok("curl -sS http://"+n.onion+"/page"), s.page)
	}
	works()
	wants(n.t, a.ok("exec 3<> /dev/tcp/example.com/8; echo hello >&3; read -r -u 3 line; echo $line"), "hello")
	if err := n.client.cmd.Process.Kill(); err != nil {
		n.t.Fatal(err)
	}
	_ = n.client.cmd.Wait()
	if out, _ := a.run("read -r -t 5 -u 3 line; echo $?"); out != "1\n" { // more is a time-out
		n.t.Errorf("what was open: %s", out)
	}
	for _, url := range []string{"http://example.com", "https://example.com", "http://" + n.onion} {
		if out, ok := a.run(fmt.Sprintf("timeout %v curl -sS %s", failFast.Seconds(), url)); ok || !strings.Contains(out, "curl: (7)") {
			n.t.Errorf("%s: %q", url, out)
		}
	}
	a.await(a.err, `appfw: denied tcp example\.com:80: the upstream failed: tor: connect: connection refused\n`)
	n.indirect(s)
	n.startClient()
	works()
	n.indirect(s)
}

// torStream is a connection by Tor.
type torStream struct {
	to, circuit string // circuit is "" if it got none
}

// streams has f do something, and returns what went by Tor meanwhile, in order.
func (n *torNet) streams(f func()) (streams []torStream) {
	n.t.Helper()
	c := n.client.dial(n.t)
	c.ask("SETEVENTS STREAM")
	n.t.Cleanup(func() {
		if n.t.Failed() {
			n.t.Logf("Tor said %q, the exits\n%s", c.events, n.exited())
		}
	})
	func() {
		defer c.ask("GETINFO version") // brings the events before it
		f()
	}()
	at := map[string]int{}
	for _, line := range c.events {
		fields := strings.Fields(line) // 650 STREAM ID STATUS CIRCUIT TARGET
		id, status := fields[2], fields[3]
		if status == "NEW" && strings.Contains(line, " PURPOSE=USER ") { // others are Tor's own
			at[id] = len(streams)
			streams = append(streams, torStream{to: fields[5]})
		}
		if i, ok := at[id]; ok && status == "SUCCEEDED" {
			streams[i].circuit = fields[4]
		}
	}
	return streams
}
