package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"appfw/testdata/internet"
)

const (
	// Where pasta and slirp4netns take DNS queries for the host's resolver.
	pastaDNS = "11.22.0.99"
	slirpDNS = "10.0.2.3"
	// slirpHost is what slirp4netns maps to the host's 127.0.0.1.
	slirpHost = "10.0.2.2"
)

// tool runs commands in some network.
type tool struct {
	name     string
	needs    string // a program
	missing  string // why the tool is not there; none: it is
	dns      string // the resolver to measure, with its port; none: that of /etc/resolv.conf
	loopback string // how the host's 127.0.0.1 is reached
	asRoot   bool   // wrap's command does what root may
	inKernel bool   // it has no process
	only     string // the one mode of client that it can serve; none: all
	rules    int    // of the policy

	proxy  string     // where a proxy listens that the client is to use; none: it uses none
	speaks []protocol // what that proxy does
	serve  []string   // what starts it

	// wrap returns the command that runs argv, which is to reach allow.
	wrap func(argv []string, allow string) []string
}

// slirpScript runs a command in a namespace that slirp4netns serves. $0 is a directory with the FIFOs made, by which
// the command tells that its namespace is there, and ready, by which slirp4netns tells (by a byte and the end) that
// its network is.
const slirpScript = `
unshare -Urn sh -c 'echo >"$0/made"; read -r ok <"$0/ready"; [ "$ok" ] && exec "$@"' "$0" "$@" &
app=$!
read -r _ <"$0/made"
slirp4netns --configure --mtu=65520 --ready-fd=3 $app tap0 3>"$0/ready" >/dev/null &
wait $app
status=$?
kill $! 2>/dev/null
exit $status
`

// tools lists those that connect a command to all that the host reaches.
func (b *bench) tools() []tool {
	return look([]tool{
		{name: "bare", loopback: local, inKernel: true, wrap: bare},
		{name: "appfw", loopback: local, wrap: b.appfw},
		{name: "pasta", needs: "pasta", loopback: local, dns: net.JoinHostPort(pastaDNS, "53"), wrap: b.pasta},
		{name: "slirp4netns", needs: "slirp4netns", loopback: slirpHost, dns: net.JoinHostPort(slirpDNS, "53"), wrap: prefix("sh", "-c", slirpScript, b.dir)},
	})
}

// sandboxes lists those that only keep a command from all networks.
func sandboxes() []tool {
	return look([]tool{
		{name: "unshare -Urn", needs: "unshare", wrap: prefix("unshare", "-Urn")},
		{name: "bubblewrap", needs: "bwrap", wrap: prefix("bwrap", "--dev-bind", "/", "/", "--unshare-net", "--")},
		{name: "firejail", needs: "firejail", wrap: prefix("firejail", "--quiet", "--noprofile", "--net=none", "--")},
	})
}

const local = "127.0.0.1"

func bare(argv []string, _ string) []string { return argv }

// prefix runs commands by another.
func prefix(command ...string) func([]string, string) []string {
	return func(argv []string, _ string) []string { return append(command[:len(command):len(command)], argv...) }
}

func (b *bench) appfw(argv []string, allow string) []string {
	// No budget: to be asked for names is what is measured.
	return append([]string{filepath.Join(b.dir, "appfw"), "proxy-run", "--quiet", "--dns-budget", "0", "--allow", allow, "--"}, argv...)
}

func (b *bench) pasta(argv []string, _ string) []string {
	// Forwarded ports: only that of the loopback server, from the inside to the host.
	return append([]string{"pasta", "--config-net", "-q", "-m", "65520", "-t", "none", "-u", "none", "-U", "none", "-T", b.loopbackPort,
		"--dns-forward", pastaDNS, "--"}, argv...)
}

// look finds out which programs are missing.
func look(list []tool) []tool {
	for i, t := range list {
		if _, err := exec.LookPath(t.needs); t.needs != "" && err != nil {
			list[i].missing = t.needs + " is not installed"
		}
	}
	return list
}

// vethScript makes a network namespace, the file $0, that the host routes to, and answers for.
const vethScript = `
set -e
touch "$0"
unshare --net="$0" true
ip link add bench type veth peer name eth0 netns "$0"
ip link set bench up
ip route add 11.1.0.3 dev bench
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv4/conf/eth0/proxy_arp
echo 0 >/proc/sys/net/ipv4/neigh/eth0/proxy_delay
nsenter --net="$0" ip link set lo up
nsenter --net="$0" ip addr add 11.1.0.3/32 dev eth0
nsenter --net="$0" ip link set eth0 up
nsenter --net="$0" ip route add 11.1.0.2 dev eth0
nsenter --net="$0" ip route add default via 11.1.0.2
`

// veth is a namespace as root makes one, without any proxy.
func (b *bench) veth() tool {
	path, user := filepath.Join(b.dir, "veth"), b.internet.Ordinary()
	t := tool{name: "veth, no proxy", asRoot: true, inKernel: true, wrap: prefix("nsenter", "--net="+path,
		"setpriv", fmt.Sprint("--reuid=", user.UID), fmt.Sprint("--regid=", user.GID), "--clear-groups", "--")}
	if said, err := b.internet.Command(b.ctx, b.internet.Root(), "sh", "-c", vethScript, path).CombinedOutput(); err != nil {
		t.missing = fmt.Sprintf("it cannot be made: %v: %s", err, lastLine(string(said)))
	}
	return t
}

// serving are servers of the simulated host.
type serving []*internet.Cmd

// stop ends them and waits for that.
func (s serving) stop() {
	for _, c := range s {
		_ = c.Process.Signal(syscall.SIGTERM) // it has ended
		_ = c.Wait()
	}
}

// lastLine is the last line of a text, which says most in that of an error.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// writeFiles writes files that every user can read.
func writeFiles(dir string, texts map[string]string) (err error) {
	for name, text := range texts {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return err
}
