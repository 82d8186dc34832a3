package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"appfw/testdata/internet"
)

const (
	farAddr = "11.22.1.1"
	farPort = 7777
	dnsName = "bench.example.com"
)

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
	s := new(server)
	if os.Geteuid() == 0 {
		b.internet = internet.New(t)
		b.internet.StopCounting()
		b.dir = b.internet.Dir()
		local, err = b.internet.ListenOnHost("tcp4", "127.0.0.1:0")
		if tunErr := b.shareTun(); tunErr != nil {
			t.Logf("/dev/net/tun: %v", tunErr) // for the others to fail by
		}
		s.weigh = b.weigh
		host := b.internet.Host(farAddr).Name(dnsName)
		host.ServeTCP(farPort, s.serve)
		for _, c := range host.ListenUDP(farPort) {
			if err := largeBuffer(c.(*net.UDPConn)); err != nil {
				t.Fatal(err)
			}
			go s.receive(c.(*net.UDPConn))
		}
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
	go s.serveAll(local)
	b.loopbackPort = strconv.Itoa(local.Addr().(*net.TCPAddr).Port)
	if err := b.programs(product); err != nil {
		t.Fatal(err)
	}
	sandboxes := append(b.tools(), sandboxes()...)
	b.tables = []table{{title: "Start-up", tools: sandboxes, measures: startMeasures, repeat: 10}}
	if b.internet != nil {
		b.tables = append(b.tables, table{title: "To the internet", place: far, tools: append(b.tools(), b.veth()), measures: farMeasures})
	}
	b.tables = append(b.tables, table{title: "To the host's loopback", place: loopback, tools: append(b.tools(), b.leastRelay()), measures: loopbackMeasures})
	if b.internet != nil {
		b.tables = append(b.tables, b.proxies(t), b.caches(t))
	}
	b.tables = append(b.tables, policies())
	return b
}

// programs puts this program and appfw where every user can run them, and makes the FIFOs of slirpScript.
func (b *bench) programs(product string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b.self = filepath.Join(b.dir, "bench")
	appfw := filepath.Join(b.dir, "appfw")
	if err := copyProgram(self, b.self); err != nil {
		return err
	}
	if product != "" {
		err = copyProgram(product, appfw)
	} else {
		build := exec.CommandContext(b.ctx, "go", "build", "-o", appfw, "appfw/cmd/appfw")
		build.Env, build.Stderr = append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
		err = build.Run()
	}
	if err != nil {
		return fmt.Errorf("building appfw: %w", err)
	}
	for _, name := range []string{"made", "ready"} {
		path := filepath.Join(b.dir, name)
		if err := errors.Join(unix.Mknod(path, unix.S_IFIFO, 0), os.Chmod(path, 0o666)); err != nil {
			return err
		}
	}
	return nil
}

func copyProgram(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}

// shareTun lets the simulated host's users open /dev/net/tun, as udev does everywhere but in bare virtual machines.
// Only the simulated host sees that.
func (b *bench) shareTun() error {
	const script = `mknod -m 666 "$0" c 10 200 && mount --bind "$0" /dev/net/tun`
	message, err := b.internet.Command(b.ctx, b.internet.Root(), "sh", "-c", script, filepath.Join(b.dir, "tun")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, message)
	}
	return nil
}

// command is an exec.Cmd that is started in the right place.
type command struct {
	*exec.Cmd
	start, wait func() error
}

func (b *bench) command(ctx context.Context, asRoot bool, name string, args ...string) command {
	if b.internet != nil {
		user := b.internet.Ordinary()
		if asRoot {
			user = b.internet.Root()
		}
		c := b.internet.Command(ctx, user, name, args...)
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

// output runs a command in a tool and returns what it printed.
func (b *bench) output(t tool, argv []string, allow string) (string, error) {
	ctx, cancel := context.WithTimeout(b.ctx, b.span+patience)
	defer cancel()
	argv = t.wrap(argv, allow)
	c := b.command(ctx, t.asRoot, argv[0], argv[1:]...)
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
	if ctx.Err() != nil {
		return "", fmt.Errorf("not ended after %v", b.span+patience)
	}
	if err != nil {
		return "", fmt.Errorf("%w %s", err, lastLine(text(message)))
	}
	return text(output), nil
}

// text is what a file holds.
func text(f *os.File) string {
	_, _ = f.Seek(0, io.SeekStart)
	b, _ := io.ReadAll(f) // the process wrote it a moment ago
	return string(b)
}

var pss = regexp.MustCompile(`(?m)^Pss: +(\d+) kB`)

// weigh returns how many KiB of memory the simulated host's processes have that are not clients, with what several
// share divided among them.
func (b *bench) weigh() (sum uint64, err error) {
	for _, p := range b.internet.Processes() {
		dir := filepath.Join("/proc", strconv.Itoa(p.PID))
		if program, _ := os.Readlink(filepath.Join(dir, "exe")); program == b.self {
			continue
		}
		rollup, _ := os.ReadFile(filepath.Join(dir, "smaps_rollup")) // it has ended
		if found := pss.FindSubmatch(rollup); found != nil {
			kib, err := strconv.ParseUint(string(found[1]), 10, 64)
			if err != nil {
				return 0, err
			}
			sum += kib
		}
	}
	return sum, nil
}
