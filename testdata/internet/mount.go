package internet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// hostName is the simulated host's name.
const hostName = "host"

// privateFiles gives the mount namespace of the calling thread, the simulated host's, its own name service
// files and a /sys that shows its own network.
func (n *Internet) privateFiles() error {
	if err := unix.Sethostname([]byte(hostName)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	u := n.Ordinary()
	err := n.privateEtc(map[string]string{
		"/etc/resolv.conf":   fmt.Sprintf("nameserver %s\nnameserver %s\n", resolverAddr4, resolverAddr6),
		"/etc/hosts":         "127.0.0.1 localhost\n127.0.1.1 " + hostName + "\n::1 localhost ip6-localhost\n",
		"/etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
		// ssh and others refuse to work for somebody without a name.
		"/etc/passwd": read("/etc/passwd") + fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\n", u.Name, u.UID, u.GID, u.Home),
		"/etc/group":  read("/etc/group") + fmt.Sprintf("%s:x:%d:\n", u.Name, u.GID),
	})
	if err != nil {
		return err
	}
	return n.privateSys()
}

// privateEtc gives the mount namespace of the calling thread an /etc of its own, the machine's but for these
// files. Single files mounted there would be gone as soon as the machine renames its own over them, as useradd
// and apt do: rename(2) unmounts what is mounted on its target in other namespaces.
func (n *Internet) privateEtc(files map[string]string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	// The layer above is a tmpfs of the namespace's, as a layer cannot be on an overlay, which / may be.
	dir := n.file(fmt.Sprintf("etc-%d", n.serial.Add(1)))
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mounting %s: %w", dir, err)
	}
	if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
		return err
	}
	if err := unix.Mount("overlay", "/etc", "overlay", 0, "lowerdir=/etc,upperdir="+upper+",workdir="+work); err != nil {
		return fmt.Errorf("mounting over /etc: %w", err)
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil { // /etc keeps it
		return fmt.Errorf("unmounting %s: %w", dir, err)
	}
	for path, text := range files {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // it may be a link
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// SetFile changes or makes a file of the simulated host's own /etc, at any time.
func (n *Internet) SetFile(path, text string) {
	n.t.Helper()
	if !strings.HasPrefix(filepath.Clean(path), "/etc/") {
		n.t.Fatalf("internet: the simulated host has no %s of its own", path)
	}
	err := n.host.do(func() error {
		return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
	})
	if err != nil {
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
