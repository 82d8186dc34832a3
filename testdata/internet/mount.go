package internet

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// hostName is the simulated host's name.
const hostName = "host"

// privateFiles gives the mount namespace of the calling thread, the simulated host's, its own name service
// files and a /sys that shows its own network.
func (n *Internet) privateFiles() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Sethostname([]byte(hostName)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	u := n.Ordinary()
	for path, text := range map[string]string{
		"/etc/resolv.conf":   fmt.Sprintf("nameserver %s\nnameserver %s\n", resolverAddr4, resolverAddr6),
		"/etc/hosts":         "127.0.0.1 localhost\n127.0.1.1 " + hostName + "\n::1 localhost ip6-localhost\n",
		"/etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
		// ssh and others refuse to work for somebody without a name.
		"/etc/passwd": read("/etc/passwd") + fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\n", u.Name, u.UID, u.GID, u.Home),
		"/etc/group":  read("/etc/group") + fmt.Sprintf("%s:x:%d:\n", u.Name, u.GID),
	} {
		source := n.file(fmt.Sprintf("etc-%d", n.serial.Add(1)))
		if err := os.WriteFile(source, []byte(text), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting over %s: %w", path, err)
		}
		n.etc[path] = source
	}
	return n.privateSys()
}

// SetFile changes a file of the simulated host's own, /etc/resolv.conf for one, at any time.
func (n *Internet) SetFile(path, text string) {
	n.t.Helper()
	source, ok := n.etc[path]
	if !ok {
		n.t.Fatalf("internet: the simulated host has no %s of its own", path)
	}
	if err := os.WriteFile(source, []byte(text), 0o644); err != nil {
		n.t.Fatal("internet: ", err)
	}
}

// privateSys mounts the thread's own sysfs and puts the control groups back into it.
func (n *Internet) privateSys() error {
	const cgroups = "/sys/fs/cgroup"
	stash := n.file("cgroup")
	if err := os.Mkdir(stash, 0o755); err != nil {
		return err
	}
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{cgroups, stash, "", unix.MS_BIND | unix.MS_REC},
		{"sysfs", "/sys", "sysfs", 0},
		{stash, cgroups, "", unix.MS_BIND | unix.MS_REC},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
	}
	if err := unix.Unmount(stash, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting %s: %w", stash, err)
	}
	return os.Remove(stash)
}

// read returns a file's text, or none when it cannot be read.
func read(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}
