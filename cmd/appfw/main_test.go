package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"appfw/netns/supervise"
	"appfw/testdata/internet"
)

// The tests run the real program, built anew, in the simulated host of package
// internet: as root and as an ordinary user, which is what both does.

// TestMain is also the program that tests run under appfw: see probes.
func TestMain(m *testing.M) {
	if name := os.Getenv("APPFW_PROBE"); name != "" {
		flag.Parse()
		os.Exit(runProbe(name, flag.Args()))
	}
	os.Exit(withProgram(m.Run))
}

// program is the appfw under test, and probeProgram a copy of the tests' own.
var program, probeProgram string

func withProgram(run func() int) int {
	dir, err := os.MkdirTemp("", "appfw-test-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	program, probeProgram = filepath.Join(dir, "appfw"), filepath.Join(dir, "probe")
	build := exec.Command("go", append([]string{"build", "-tags", "osusergo,netgo", "-o", program}, append(buildFlags, ".")...)...) // as without cgo
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("go build: %v\n%s", err, out))
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = errors.Join(os.WriteFile(probeProgram, self, 0o755), os.Chmod(dir, 0o755))
	}
	if err != nil {
		panic(err)
	}
	return run()
}

// world is an internet with a few sites.
type world struct {
	*internet.Internet
	t    *testing.T
	user internet.User

	resolv string // sshd's /etc/resolv.conf; "" is the machine's own

	example *internet.Host // example.com and shared.example, IPv4 and IPv6: says hello
	other   *internet.Host // other.example: as well
}

// both runs a test as root and as an ordinary user.
func both(t *testing.T, test func(w *world)) {
	for _, name := range []string{"root", "ordinary"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if name == "ordinary" {
				w.user = w.Ordinary()
			}
			test(w)
		})
	}
}

func newWorld(t *testing.T) *world {
	w := &world{Internet: internet.New(t), t: t}
	w.user = w.Root()
	w.example = w.Host("11.22.0.10", "2a0d:aaaa::10").Name("example.com", "www.example.com", "shared.example")
	w.other = w.Host("11.22.0.20", "2a0d:aaaa::20").Name("other.example")
	hello := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprintf(rw, "hello from %s\n", r.Host) })
	w.example.ServeHTTP(80, hello)
	w.example.ServeHTTPS(443, hello, "example.com", "www.example.com", "shared.example")
	w.other.ServeHTTP(80, hello)
	w.other.ServeHTTPS(443, hello, "other.example")
	return w
}

// result is how a run ended.
type result struct {
	stdout, stderr string
	code           int
	took           time.Duration
}

// appfw runs the program with args.
func (w *world) appfw(args ...string) result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	return w.finish(w.Command(ctx, w.user, program, args...))
}

// run runs a command under a policy: flags, "--", command.
func (w *world) run(args ...string) result {
	w.t.Helper()
	return w.appfw(append([]string{"proxy-run"}, args...)...)
}

func (w *world) finish(c *internet.Cmd) result {
	w.t.Helper()
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	c.Env = append(c.Env, raceEnv...)
	started := time.Now()
	err := c.Run()
	r := result{stdout.String(), stderr.String(), 0, time.Since(started)}
	exit, isExit := errors.AsType[*exec.ExitError](err)
	switch {
	case isExit:
		r.code = supervise.EndingOf(exit.Sys().(syscall.WaitStatus)).ShellCode()
	case err != nil:
		w.t.Fatalf("%v: %v", c.Args, err)
	}
	if strings.Contains(r.stderr, "DATA RACE") {
		w.t.Errorf("%v: %s", c.Args, r.stderr)
	}
	return r
}

// ok fails the test unless the run succeeded; it returns its standard output.
func (w *world) ok(r result) string {
	w.t.Helper()
	if r.code != 0 {
		w.t.Fatalf("exit code %d\nstdout: %s\nstderr: %s", r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// denied fails the test unless the run failed fast and said why on stderr.
func (w *world) denied(r result, reason string) {
	w.t.Helper()
	if r.code == 0 {
		w.t.Errorf("it was not denied; stdout: %s", r.stdout)
	}
	if !strings.Contains(r.stderr, reason) {
		w.t.Errorf("stderr does not say %q:\n%s", reason, r.stderr)
	}
	if r.took > failFast {
		w.t.Errorf("it took %v to fail", r.took)
	}
}

// untouched fails the test if a packet arrived at the host.
func (w *world) untouched(h *internet.Host) {
	w.t.Helper()
	if n := w.Packets(h.Addr4()) + w.Packets(h.Addr6()); n != 0 {
		w.t.Errorf("%d packets arrived at %s", n, h.Addr4())
	}
}

// wants fails the test unless text contains all of parts.
func wants(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("no %q in:\n%s", p, text)
		}
	}
}
