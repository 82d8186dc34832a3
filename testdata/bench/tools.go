package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"appfw/testdata/internet"
)

const (
	farAddr = "11.22.1.1"
	farPort = 7777
	dnsName = "bench.example.com"

	// Where pasta and slirp4netns take DNS queries for the host's resolver.
	pastaDNS = "11.22.0.99"
	slirpDNS = "10.0.2.3"
	// slirpHost is what slirp4netns maps to the host's 127.0.0.1.
	slirpHost = "10.0.2.2"
)

// tool runs commands in some network.
type tool struct {
	name      string
	needs     string // a program
	missing   bool   // that is not there
	startOnly bool   // it has no network
	dns       string // the resolver to measure; none: that of /etc/resolv.conf
	loopback  string // how the host's 127.0.0.1 is reached; none: by that address

	proxy  string     // where a proxy listens that the client is to use; none: it uses none
	speaks []protocol // what that proxy does

	// wrap returns the command that runs argv, which is to reach allow.
	wrap func(argv []string, allow string) []string
}

// bench is the environment of all measures.
type bench struct {
	ctx          context.Context
	internet     *internet.Internet // nil: not root
	span         time.Duration
	tables       []table
	dir          string // for files, readable by every user
	self         string // this program, there
	loopbackPort string
}

func newBench(ctx context.Context, t *tb, product string, span time.Duration) *bench {
	b := &bench{ctx: ctx, span: span}
	var local net.Listener
	var err error
	if os.Geteuid() == 0 {
		b.internet = internet.New(t)
		b.dir = b.internet.Dir()
		local, err = b.internet.ListenOnHost("tcp4", "127.0.0.1:0")
		if tunErr := shareTun(ctx, b.internet); tunErr != nil {
			t.Logf("/dev/net/tun: %v", tunErr) // for the others to fail by
		}
		b.internet.Host(farAddr).Name(dnsName).ServeTCP(farPort, serve)
	} else {
		if b.dir, err = os.MkdirTemp("", "appfw-bench-"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(b.dir) })
		local, err = net.Listen("tcp4", "127.0.0.1:0")
	}
	if err != nil {
		t.Fatal(err)
	}
	go serveAll(local)
	b.loopbackPort = strconv.Itoa(local.Addr().(*net.TCPAddr).Port)

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if b.self, err = copyProgram(self, b.dir, "bench"); err != nil {
		t.Fatal(err)
	}
	appfw := filepath.Join(b.dir, "appfw")
	if product != "" {
		_, err = copyProgram(product, b.dir, "appfw")
	} else {
		build := exec.CommandContext(ctx, "go", "build", "-o", appfw, "appfw/cmd/appfw")
		build.Env, build.Stderr = append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
		err = build.Run()
	}
	if err != nil {
		t.Fatal("building appfw: ", err)
	}
	for _, name := range []string{"made", "ready"} {
		path := filepath.Join(b.dir, name)
		if err := errors.Join(unix.Mknod(path, unix.S_IFIFO, 0), os.Chmod(path, 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	b.tables = []table{{tools: tools(b.dir, b.loopbackPort), measures: measures}}
	if b.internet != nil {
		b.tables = append(b.tables, b.proxies(t), b.caches(t))
	}
	return b
}

// shareTun lets the simulated host's users open /dev/net/tun, as udev does everywhere but in bare virtual machines.
// Only the simulated host sees that.
func shareTun(ctx context.Context, n *internet.Internet) error {
	const script = `mknod -m 666 "$0" c 10 200 && mount --bind "$0" /dev/net/tun`
	message, err := n.Command(ctx, n.Root(), "sh", "-c", script, filepath.Join(n.Dir(), "tun")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, message)
	}
	return nil
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

// tools lists what to measure; dir is a directory for the commands' files.
func tools(dir, loopbackPort string) []tool {
	const local = "127.0.0.1"
	list := []tool{
		{name: "bare", loopback: local, wrap: bare},
		{name: "appfw", loopback: local, wrap: appfw(dir)},
		{name: "pasta", needs: "pasta", loopback: local, dns: pastaDNS, wrap: func(argv []string, _ string) []string {
			// Forwarded ports: only that of the loopback server, from the inside to the host.
			return append([]string{"pasta", "--config-net", "-q", "-m", "65520", "-t", "none", "-u", "none", "-U", "none", "-T", loopbackPort,
				"--dns-forward", pastaDNS, "--"}, argv...)
		}},
		{name: "slirp4netns", needs: "slirp4netns", loopback: slirpHost, dns: slirpDNS, wrap: func(argv []string, _ string) []string {
			return append([]string{"sh", "-c", slirpScript, dir}, argv...)
		}},
		{name: "unshare -Urn", needs: "unshare", startOnly: true, wrap: func(argv []string, _ string) []string {
			return append([]string{"unshare", "-Urn"}, argv...)
		}},
	}
	return look(list)
}

func bare(argv []string, _ string) []string { return argv }

// appfw runs commands in appfw.
func appfw(dir string) func(argv []string, allow string) []string {
	return func(argv []string, allow string) []string {
		return append([]string{filepath.Join(dir, "appfw"), "proxy-run", "--quiet", "--allow", allow, "--"}, argv...)
	}
}

// look finds out which programs are missing.
func look(list []tool) []tool {
	for i, t := range list {
		if _, err := exec.LookPath(t.needs); t.needs != "" && err != nil {
			list[i].missing = true
		}
	}
	return list
}

// command is an exec.Cmd that is started in the right place.
type command struct {
	*exec.Cmd
	start, wait func() error
}

func (b *bench) command(ctx context.Context, name string, args ...string) command {
	if b.internet != nil {
		c := b.internet.Command(ctx, b.internet.Ordinary(), name, args...)
		return command{c.Cmd, c.Start, c.Wait}
	}
	c := exec.CommandContext(ctx, name, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return command{c, c.Start, func() error {
		err := c.Wait()
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) // what it left behind, mostly nothing
		return err
	}}
}

// run runs a measure once in a tool and returns its figures.
func (b *bench) run(t tool, m measure) ([]float64, error) {
	argv, allow := []string{"date", "+%s%N"}, "localhost:"+b.loopbackPort
	switch {
	case m.mode == dnsperfMode:
		argv, allow = dnsperf(b.dir, t.dns, b.span), "@"+filepath.Join(b.dir, cachedNames)
	case m.mode != "":
		to := net.JoinHostPort(cmp.Or(t.loopback, "127.0.0.1"), b.loopbackPort)
		switch {
		case m.mode == "dns":
			to, allow = t.dns, dnsName
		case m.place == far:
			to = net.JoinHostPort(farAddr, strconv.Itoa(farPort))
			allow = to
		}
		argv = []string{b.self, clientCommand, m.mode, to, b.span.String()}
		if m.via != "" {
			argv = append(argv, string(m.via), t.proxy)
		}
	}
	began := time.Now()
	said, err := b.output(t.wrap(argv, allow))
	took := time.Since(began)
	switch {
	case err != nil:
		return nil, err
	case m.mode == "":
		started, err := strconv.ParseInt(strings.TrimSpace(said), 10, 64)
		toApp := time.Unix(0, started).Sub(began.Round(0)) // Round: by the wall clock
		return []float64{milliseconds(toApp), milliseconds(took)}, err
	case m.mode == dnsperfMode:
		return readDnsperf(said)
	}
	var values []float64
	if err := json.Unmarshal([]byte(said), &values); err != nil || len(values) != len(m.figures) {
		return nil, fmt.Errorf("the client said %q", said)
	}
	return values, nil
}

// output runs a command and returns what it printed.
func (b *bench) output(argv []string) (string, error) {
	ctx, cancel := context.WithTimeout(b.ctx, b.span+patience)
	defer cancel()
	c := b.command(ctx, argv[0], argv[1:]...)
	// Files: to the end of a pipe, which a tool's helper may hold, Wait would wait.
	output, err := os.CreateTemp(b.dir, "output")
	if err != nil {
		return "", err
	}
	defer func() { _ = output.Close() }()
	message, err := os.CreateTemp(b.dir, "message")
	if err != nil {
		return "", err
	}
	defer func() { _ = message.Close() }()
	c.Stdout, c.Stderr = output, message
	if err = c.start(); err == nil {
		err = c.wait()
	}
	if err != nil {
		return "", fmt.Errorf("%w %s", err, lastLine(text(message)))
	}
	return text(output), nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// text is what a file holds.
func text(f *os.File) string {
	b, _ := os.ReadFile(f.Name()) // the process wrote it a moment ago
	return string(b)
}

// lastLine is the last line of a text, which says most in that of an error.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
