package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func init() { probes["readonly"] = probeReadOnly }

// probeReadOnly runs args[1:] as the user args[0], where no file system can be written but
// /proc, which takes what a user namespace maps.
func probeReadOnly(args []string) error {
	uid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	readOnly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &readOnly); err != nil {
		return err
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/proc", 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return err
	}
	if err := os.WriteFile("/run/x", nil, 0o600); err == nil {
		return fmt.Errorf("a file can be written")
	}
	for _, set := range []func() error{
		func() error { return syscall.Setgroups(nil) }, func() error { return syscall.Setgid(uid) }, func() error { return syscall.Setuid(uid) },
	} {
		if err := set(); err != nil {
			return err
		}
	}
	return syscall.Exec(args[1], args[1:], os.Environ())
}

// A run leaves no file, and trusts none of a former run: it needs none, but its log.
func TestNoFiles(t *testing.T) {
	both(t, func(w *world) {
		command := append(probing("readonly", fmt.Sprint(w.user.UID), program, "run", "--allow", "example.com", "--proxy-env", "--", "sh", "-c"),
			"curl -sS http://example.com; curl -sS http://other.example; kill -TERM $$")
		r := w.finish(w.Command(t.Context(), w.Root(), command[0], command[1:]...))
		wants(t, r.stdout, "hello from example.com")
		wants(t, r.stderr, "appfw: denied tcp other.example:80: ")
		if strings.Contains(r.stderr, "read-only") {
			t.Errorf("it wanted to write: %s", r.stderr)
		}
		w.untouched(w.other)
	})
}
