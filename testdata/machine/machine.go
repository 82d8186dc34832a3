// Package machine boots systemd for tests of services, in the network of a simulated host of package internet. The
// machine has the files of this one, but for units that are enabled, and what it writes is kept in memory.
package machine

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/testdata/internet"
)

// patience is how long booting, powering off and commands may take.
const patience = time.Minute

//go:embed boot.sh
var bootScript string

// File is a file of the machine.
type File struct {
	Path string
	Text string
	Mode os.FileMode // 0 is 0644
}

// masked are units of systemd and Debian that a test has no use for, or that would change more than the machine's
// own, as kernel settings.
var masked = []string{
	"console-getty.service", "getty.target", "systemd-sysctl.service", "systemd-modules-load.service", "modprobe@.service",
	"systemd-binfmt.service", "systemd-random-seed.service", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
	"systemd-tmpfiles-clean.timer", "systemd-journald-audit.socket", "proc-sys-fs-binfmt_misc.automount",
	"sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "dev-hugepages.mount",
	"sys-fs-fuse-connections.mount", "var-lib-machines.mount",
}

// Machine is a machine that has booted. Its methods fail the test (t.Fatal) on errors, so they belong to the
// test's goroutine.
type Machine struct {
	t      testing.TB
	leader int      // its process 1, as this machine numbers it
	group  *os.File // the control group of that
}

// Boot boots a machine in n's simulated host, whose network, passwd, group and name service files it has, with these
// files. Cleanup powers it off; nothing is left of it, not even when the test is killed.
func Boot(t testing.TB, n *internet.Internet, files ...File) *Machine {
	t.Helper()
	m, err := boot(t, n, files)
	if err != nil {
		t.Fatal("machine: ", err)
	}
	return m
}

func boot(t testing.TB, n *internet.Internet, files []File) (*Machine, error) {
	dir, err := os.MkdirTemp(n.Dir(), "machine-")
	if err != nil {
		return nil, err
	}
	root := filepath.Join(dir, "machine")
	if err := errors.Join(os.Mkdir(root, 0o755), stage(n, filepath.Join(dir, "files"), files)); err != nil {
		return nil, err
	}
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	defer func() { _ = ready.Close() }()
	output, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = output.Close() }()
	c := n.Command(context.Background(), n.Root(), "sh", "-c", bootScript, "boot", root)
	c.Stdout, c.Stderr = output, output
	c.Env = append(c.Env, "NOTIFY_SOCKET="+filepath.Join(dir, "notify"),
		"SYSTEMD_SECCOMP=0",                       // units may use bpf(2), the namespaces of users and so on
		"SYSTEMD_NSPAWN_API_VFS_WRITABLE=network") // /proc/sys/net
	c.Cancel = func() error { return c.Process.Signal(unix.SIGTERM) }
	c.SysProcAttr.Pdeathsig = unix.SIGTERM
	c.SysProcAttr.Unshareflags = unix.CLONE_NEWNS
	if err := c.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = c.Wait() // why is in the output
		_ = ready.Close()
		close(ended)
	}()
	m := &Machine{t: t}
	if m.leader, err = await(ready, "X_NSPAWN_LEADER_PID"); err == nil {
		m.group, err = openGroup(c.Process.Pid, m.leader)
	}
	if err != nil {
		said, _ := os.ReadFile(output.Name())
		return nil, fmt.Errorf("systemd-nspawn: %w\n%s", err, said)
	}
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := m.command("journalctl", "--no-pager").CombinedOutput()
			t.Logf("the machine's journal:\n%s", text)
		}
		_ = m.group.Close()
		_ = unix.Kill(m.leader, powerOff) // an error means that it is off
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("machine: it does not power off")
		}
	})
	if _, err := await(ready, "READY"); err != nil {
		jobs, _ := m.command("systemctl", "list-jobs").CombinedOutput()
		return nil, fmt.Errorf("it does not boot: %w\n%s", err, jobs)
	}
	return m, nil
}

// powerOff tells systemd to power off: SIGRTMIN+4.
const powerOff = unix.Signal(34 + 4)

// await waits until systemd-nspawn tells the value of key (sd_notify(3)), and returns that.
func await(notices *net.UnixConn, key string) (value int, err error) {
	_ = notices.SetReadDeadline(time.Now().Add(patience))
	for buffer := make([]byte, 1<<12); ; {
		size, err := notices.Read(buffer)
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(buffer[:size])) {
			if text, ok := strings.CutPrefix(line, key+"="); ok {
				return strconv.Atoi(strings.TrimSpace(text))
			}
		}
	}
}

// openGroup opens the control group of the machine's process 1, where the process that boots it sees them all.
func openGroup(booter, leader int) (*os.File, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", leader))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return os.Open(fmt.Sprintf("/proc/%d/root/sys/fs/cgroup%s", booter, strings.TrimSpace(path)))
		}
	}
	return nil, errors.New("it has no control group")
}

// command is a command in the machine, which ends with it.
func (m *Machine) command(name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	m.t.Cleanup(cancel)
	c := exec.CommandContext(ctx, "nsenter", append([]string{"--target", strconv.Itoa(m.leader), "--mount", "--uts", "--ipc", "--net",
		"--pid", "--cgroup", "--", name}, args...)...)
	c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}
	c.WaitDelay = 5 * time.Second // for output of what outlives it
	c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(m.group.Fd())}
	return c
}

// Run runs a command in the machine, as root, for at most a minute.
func (m *Machine) Run(name string, args ...string) (stdout, stderr string, code int) {
	m.t.Helper()
	c := m.command(name, args...)
	var out, message bytes.Buffer
	c.Stdout, c.Stderr = &out, &message
	err := c.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		m.t.Fatalf("machine: %s: %v", name, err)
	}
	return out.String(), message.String(), code
}

// WriteFile writes a file of the machine, and the directories to it. Links in the path must be relative.
func (m *Machine) WriteFile(path, text string) {
	m.t.Helper()
	if err := m.writeFile(path, text); err != nil {
		m.t.Fatal("machine: ", err)
	}
}

func (m *Machine) writeFile(path, text string) error {
	root, err := os.OpenRoot(fmt.Sprintf("/proc/%d/root", m.leader))
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	path = strings.TrimPrefix(path, "/")
	if err := root.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return root.WriteFile(path, []byte(text), 0o644)
}

// Journal is what a unit has said so far, and what systemd says of it, without times.
func (m *Machine) Journal(unit string) string {
	m.t.Helper()
	if _, message, code := m.Run("journalctl", "--sync"); code != 0 {
		m.t.Fatal("machine: journalctl: ", message)
	}
	text, message, code := m.Run("journalctl", "--no-pager", "--output=cat", "--unit="+unit)
	if code != 0 {
		m.t.Fatal("machine: journalctl: ", message)
	}
	return text
}

// stage writes these files, and those that every machine has, below dir, for boot.sh.
func stage(n *internet.Internet, dir string, files []File) error {
	ca, err := os.ReadFile(n.CAFile())
	if err != nil {
		return err
	}
	ordinary := n.Ordinary()
	for _, file := range append([]File{
		{Path: "/etc/machine-id", Text: strings.Repeat("0123456789abcdef", 2) + "\n"}, // without one it is set up anew
		{Path: "/etc/hostname", Text: "host\n"},
		{Path: "/etc/fstab"},
		{Path: "/etc/tmpfiles.d/ordinary.conf", Text: fmt.Sprintf("d %s 0755 %s %[2]s\n", ordinary.Home, ordinary.Name)},
		{Path: "/etc/ssl/certs/ca-certificates.crt", Text: string(ca)},
	}, files...) {
		path := filepath.Join(dir, file.Path)
		if file.Mode == 0 {
			file.Mode = 0o644
		}
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err = errors.Join(err, os.WriteFile(path, []byte(file.Text), 0o600), os.Chmod(path, file.Mode)); err != nil {
			return err
		}
	}
	units := filepath.Join(dir, "etc/systemd/system")
	err = errors.Join(os.MkdirAll(units, 0o755), os.Symlink("/lib/systemd/system/multi-user.target", filepath.Join(units, "default.target")))
	for _, unit := range masked {
		err = errors.Join(err, os.Symlink("/dev/null", filepath.Join(units, unit)))
	}
	return err
}
