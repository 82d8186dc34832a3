package units

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// Systemd is the service manager, as far as changes need it.
type Systemd interface {
	// Knows tells whether there is a unit of that name.
	Knows(ctx context.Context, unit string) bool
	// Show is what it has in force for a unit: PROPERTY=VALUE lines (systemctl
	// show). It is empty if it does not run.
	Show(ctx context.Context, unit string, properties ...string) (string, error)
	// Tell has it do something, as systemctl(1) with these words.
	Tell(ctx context.Context, words ...string) error
	// KeepsAddresses is an error if it does not keep what IPAddressDeny= says: without
	// BPF, or in a container, it does not, and tells nobody. program is appfw, with
	// the command [ProbeCommand] below systemd.
	KeepsAddresses(ctx context.Context, program string) error
}

// machine is the systemd of this machine, if it runs. To one that does not, nothing
// is told.
type machine struct{}

// running tells whether systemd runs (sd_booted(3)).
func running() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// Knows implements [Systemd].
func (machine) Knows(ctx context.Context, unit string) bool {
	return exec.CommandContext(ctx, "systemctl", "cat", "--", unit).Run() == nil
}

// Show implements [Systemd].
func (machine) Show(ctx context.Context, unit string, properties ...string) (string, error) {
	if !running() {
		return "", nil
	}
	c := exec.CommandContext(ctx, "systemctl", "show", "--no-pager", "--property="+strings.Join(properties, ","), "--", unit)
	c.Env = append(os.Environ(), "LC_ALL=C")
	out, err := c.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("systemctl show %s: %w: %s", unit, err, strings.TrimSpace(string(exit.Stderr)))
	}
	return string(out), err
}

// Tell implements [Systemd].
func (machine) Tell(ctx context.Context, words ...string) error {
	if !running() {
		return nil
	}
	if out, err := exec.CommandContext(ctx, "systemctl", words...).CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(words, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// KeepsAddresses implements [Systemd].
func (machine) KeepsAddresses(ctx context.Context, program string) error {
	if !running() {
		return nil
	}
	out, err := exec.CommandContext(ctx, "systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--property=IPAddressDeny=any", "--", program, "systemd", ProbeCommand).CombinedOutput()
	if err != nil {
		return fmt.Errorf("this systemd does not keep IPAddressDeny=any, so that the service would reach everything (%w: %s)", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// ProbeCommand is the command of appfw that runs [Probe].
const ProbeCommand = "denied"

// PolicyCommand is the command of appfw that reads the policies that are its arguments,
// and fails if there is a mistake in one.
const PolicyCommand = "policy"

// Probe is an error unless systemd keeps this process from sending.
func Probe() error {
	conn, err := net.Dial("udp", "127.0.0.1:9")
	if err == nil {
		_, err = conn.Write([]byte("?"))
		conn.Close()
	}
	if errors.Is(err, unix.EPERM) {
		return nil
	}
	return errors.New("a datagram was sent")
}
