package internet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// User is who a command runs as.
type User struct {
	Name     string
	UID, GID uint32
	Home     string // a directory of this user, of this internet
}

func root(dir string) User { return User{Name: "root", Home: filepath.Join(dir, "root")} }

func ordinary(dir string) User {
	return User{Name: "ordinary", UID: 20001, GID: 20001, Home: filepath.Join(dir, "ordinary")}
}

// Root is the superuser.
func (n *Internet) Root() User { return root(n.dir) }

// Ordinary is a user without privileges, in the simulated host's passwd file only.
func (n *Internet) Ordinary() User { return ordinary(n.dir) }

// Cmd is an exec.Cmd that starts in a namespace of the internet and is ended by cleanup. Wait may be called
// any number of times, from anywhere.
type Cmd struct {
	*exec.Cmd
	t      testing.TB
	space  *space
	cancel context.CancelFunc
	wait   func() error
}

// Command returns a command that runs inside the simulated host: its network, its own resolv.conf, hosts,
// nsswitch.conf, passwd and /sys, as u, in u's home, with a clean environment that trusts the internet's CA.
// It does not wait more than 5 s for output of a process that outlives it.
func (n *Internet) Command(ctx context.Context, u User, name string, args ...string) *Cmd {
	c := n.command(ctx, n.host, name, args)
	c.Dir = u.Home
	c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + u.Home, "LANG=C.UTF-8"}
	for _, name := range []string{"SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS"} {
		c.Env = append(c.Env, name+"="+n.CAFile())
	}
	c.SysProcAttr.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID} // no other groups
	return c
}

// Server starts a server program, in the foreground, as root in the internet's namespace with the machine's own
// files; see AwaitTCP. Cleanup sends it SIGTERM, SIGKILL after 5 s, and logs its output when the test failed.
func (n *Internet) Server(name string, args ...string) *Cmd {
	n.t.Helper()
	return n.server(n.world, name, args)
}

// ServerWithFiles is like Server, for a program that finds these files, by their paths in /etc, in place of the
// machine's. What it mounts is its own.
func (n *Internet) ServerWithFiles(files map[string]string, name string, args ...string) *Cmd {
	n.t.Helper()
	network := must(n.world.netNamespace())(n.t)
	defer func() { _ = network.Close() }()
	s := n.newSpace(unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_FS)
	err := s.do(func() error {
		if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("joining the network: %w", err)
		}
		return n.privateEtc(files)
	})
	if err != nil {
		n.t.Fatal("internet: ", err)
	}
	return n.server(s, name, args)
}

func (n *Internet) server(s *space, name string, args []string) *Cmd {
	n.t.Helper()
	output := must(os.Create(n.file(fmt.Sprintf("server-%d.log", n.serial.Add(1)))))(n.t)
	defer func() { _ = output.Close() }()
	c := n.command(context.Background(), s, name, args)
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.Stdout, c.Stderr = output, output
	n.t.Cleanup(func() {
		if n.t.Failed() {
			n.t.Logf("%s: %v\n%s", name, c.ProcessState, read(output.Name()))
		}
	})
	if err := c.Start(); err != nil {
		n.t.Fatal("internet: ", err)
	}
	return c
}

func (n *Internet) command(ctx context.Context, s *space, name string, args []string) *Cmd {
	ctx, cancel := context.WithCancel(ctx)
	c := exec.CommandContext(ctx, name, args...)
	c.WaitDelay = 5 * time.Second
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return &Cmd{Cmd: c, t: n.t, space: s, cancel: cancel, wait: sync.OnceValue(c.Wait)}
}

// Start is exec.Cmd's, in the namespace.
func (c *Cmd) Start() error {
	if err := c.space.do(c.Cmd.Start); err != nil {
		c.cancel()
		return err
	}
	c.t.Cleanup(func() {
		c.cancel()
		_ = c.Wait() // an error is for the test's own Wait
	})
	return nil
}

// Wait is exec.Cmd's, but returns the same result each time.
func (c *Cmd) Wait() error { return c.wait() }

// Run is exec.Cmd's, in the namespace.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output is exec.Cmd's, in the namespace.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("internet: Stdout already set")
	}
	var output, message bytes.Buffer
	c.Stdout = &output
	capture := c.Stderr == nil
	if capture {
		c.Stderr = &message
	}
	err := c.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && capture {
		exit.Stderr = message.Bytes()
	}
	return output.Bytes(), err
}

// CombinedOutput is exec.Cmd's, in the namespace.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, errors.New("internet: Stdout or Stderr already set")
	}
	var output bytes.Buffer
	c.Stdout, c.Stderr = &output, &output
	err := c.Run()
	return output.Bytes(), err
}
