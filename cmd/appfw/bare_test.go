package main

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// A run is as without appfw, but for the policy: examples are run twice, and the bare run
// is the measure.

// asBare runs a command without appfw, and then under it with flags, and fails the test
// unless both print the same and end alike. It returns what they printed.
func (w *world) asBare(flags []string, command ...string) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	// env(1) looks for it in the user's own PATH.
	bare := w.finish(w.Command(ctx, w.user, "env", command...))
	under := w.run(append(append(flags, "--"), command...)...)
	if under.stdout != bare.stdout || under.code != bare.code {
		w.t.Errorf("%q\nbare: exit code %d\n%s%s\nunder appfw: exit code %d\n%s%s",
			command, bare.code, bare.stdout, bare.stderr, under.code, under.stdout, under.stderr)
	}
	return bare.stdout
}

// scriptAsBare is asBare for a script.
func (w *world) scriptAsBare(flags []string, script string, args ...string) string {
	w.t.Helper()
	return w.asBare(flags, append([]string{"sh", "-c", script, "sh"}, args...)...)
}

// aroundAsBare runs a script of bash(1) twice in which "$@" stands before a command: once it
// is env(1), and once appfw with flags. It fails the test unless both times the script
// prints the same and ends alike. It returns what that printed.
func (w *world) aroundAsBare(flags []string, script string) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	bash := []string{"-c", script, "bash"}
	bare := w.finish(w.Command(ctx, w.user, "bash", append(bash, "env")...))
	under := w.finish(w.Command(ctx, w.user, "bash", append(append(append(bash, program, "run"), flags...), "--")...))
	if under.stdout != bare.stdout || under.code != bare.code {
		w.t.Errorf("%s\nbare: exit code %d\n%s%s\nunder appfw: exit code %d\n%s%s",
			script, bare.code, bare.stdout, bare.stderr, under.code, under.stdout, under.stderr)
	}
	return bare.stdout
}

// localhost leads to the same addresses as on the host, however /etc/hosts says it, so
// that servers bind to each once.
func TestLocalhostAsBare(t *testing.T) {
	both(t, func(w *world) {
		for name, hosts := range map[string]string{
			"both families":  "127.0.0.1 localhost\n::1 localhost ip6-localhost\n",
			"IPv4 alone":     "127.0.0.1\tlocalhost\n127.0.1.1\thost\n",
			"with a comment": "# localhost\n127.0.0.1 localhost.localdomain localhost # and more\n::1 ip6-localhost\n",
			"a blocklist":    "127.0.0.1 localhost\n" + blocklist("127.0.0.1"),
			"of zeros":       "127.0.0.1 localhost\n" + blocklist("0.0.0.0"),
			"in one line":    "127.0.0.1 localhost\n0.0.0.0 " + strings.Repeat("ads.example ", 10_000) + "\n",
		} {
			w.SetFile("/etc/hosts", hosts)
			out := w.asBare([]string{"-q"}, "python3", "-c", `
import socket
for a in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM):
    print(a[4][0])
    with socket.socket(a[0]) as s:
        s.bind((a[4][0], 8000))
`)
			if !strings.Contains(out, "127.0.0.1") {
				t.Errorf("%s: localhost is %s", name, out)
			}
		}
	})
}

// blocklist is more than 1 MiB of a hosts file.
func blocklist(address string) string {
	return strings.Repeat(address+" ads.example\n", 1<<20/len(address))
}

// The machine's own name leads to the program itself, at which its own servers answer,
// wherever the host knows it from.
func TestOwnName(t *testing.T) {
	both(t, func(w *world) {
		const serve = `
import socket, sys
with socket.create_server(("", 8000)) as s:
    for name in sys.argv[1:]:
        c = socket.create_connection((name, 8000), timeout=5)
        print("connected to", socket.gethostbyaddr(name)[0], socket.getfqdn() == socket.getfqdn(name))
`
		for _, hosts := range []string{
			"127.0.0.1 localhost\n127.0.1.1 host\n",
			"127.0.0.1 localhost\n127.0.1.1 host.corp.example host\n",
			"127.0.0.1 localhost host\n",
			"127.0.0.1 localhost\n" + w.Addr4().String() + " host\n", // as in containers
			"127.0.0.1 localhost\n" + w.Addr4().String() + "\tHOST.corp.example HOST # by hand\n",
			"127.0.0.1 localhost\n" + w.Addr4().String() + " host\n" + w.Addr6().String() + " host\n",
		} {
			w.SetFile("/etc/hosts", hosts)
			w.scriptAsBare([]string{"-q"}, `hostname; hostname -f; getent ahostsv4 host | wc -l`)
			w.asBare([]string{"-q"}, "python3", "-c", serve, "host")
		}
		// As nss-myhostname(8) has it, which is not installed here.
		w.SetFile("/etc/hosts", "127.0.0.1 localhost\n")
		for _, nsswitch := range []string{"hosts: files myhostname dns\n", "hosts: dns\n"} {
			w.SetFile("/etc/nsswitch.conf", nsswitch)
			r := w.run("--", "sh", "-c", `hostname -f; exec python3 -c "$0" host`, serve)
			wants(t, w.ok(r), "host\nconnected to host True\n")
			if r.stderr != "" {
				t.Errorf("%q: %s", nsswitch, r.stderr)
			}
		}
	})
}

// A name of the host's own address that is not the machine's is no way round the policy.
func TestOwnNameOpensNothing(t *testing.T) {
	both(t, func(w *world) {
		l, err := w.ListenOnHost("tcp", netip.AddrPortFrom(w.Addr4(), 8000).String())
		if err != nil {
			t.Fatal(err)
		}
		w.SetFile("/etc/hosts", "127.0.0.1 localhost\n"+w.Addr4().String()+" host db\n11.22.0.10 other-host\n")
		for _, name := range []string{"host", "db", "other-host"} {
			r := w.run("-q", "--", "python3", "-c", `import socket, sys; socket.create_connection((sys.argv[1], 8000), timeout=5)`, name)
			if r.code == 0 {
				t.Errorf("%s was reached", name)
			}
		}
		w.untouched(w.example)
		l.Close()
		if c, err := l.Accept(); err == nil {
			t.Errorf("the host's port was reached from %s", c.RemoteAddr())
		}
	})
}
