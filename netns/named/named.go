// Package named is about network namespaces that have a name, or that others have
// made: to make and to delete named ones as ip-netns(8) does, with the files that
// programs in them see, and to come into the user namespace that one belongs to.
//
//	path, err := named.Make("web") // /run/netns/web
//	err = named.WriteFiles("web", map[string][]byte{"/etc/resolv.conf": conf})
//	ns, err := netns.Open(path)
//	others, err := ns.Take()
//	...
//	err = ns.Leave()
//	err = named.Delete("web")
//	err = named.RemoveFiles("web")
//
// What happens in a namespace is not its affair: package netns has Open, Take and
// Leave.
package named

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"appfw/netns"
)

// directory is where named namespaces are (ip-netns(8)).
const directory = "/run/netns"

// Path is where a named namespace is, or would be.
func Path(name string) (string, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") || len(name) > 255 {
		return "", fmt.Errorf("%.80q is no name of a namespace", name)
	}
	return filepath.Join(directory, name), nil
}

// IsNamespace tells whether the file at a path stands for a namespace.
func IsNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// Make makes a named namespace, as "ip netns add" does, if it is not there. It lives
// until it is deleted, and longer while a process is in it. It needs root.
func Make(name string) (path string, err error) {
	if path, err = Path(name); err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err == nil && info.Mode().IsRegular() && !IsNamespace(path):
		_ = os.Remove(path) // its namespace has ended with the last boot
	default:
		return path, nil // what is wrong with it shows when it is opened
	}
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return "", err
	}
	if err := bind(path); err != nil {
		return "", fmt.Errorf("make %s: %w", path, err)
	}
	return path, nil
}

// bind makes a file for a new namespace.
func bind(path string) error {
	ns, err := netns.New()
	if err != nil {
		return err
	}
	defer ns.Close()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	file.Close()
	return unix.Mount(fmt.Sprintf("/proc/self/fd/%d", ns.File().Fd()), path, "", unix.MS_BIND, "")
}

// ServedError says that a namespace is not free: an appfw serves it.
type ServedError struct {
	Path string
	Err  error
}

func (e *ServedError) Error() string { return fmt.Sprintf("%s: %v", e.Path, e.Err) }
func (e *ServedError) Unwrap() error { return e.Err }

// Delete deletes a named namespace, and what an appfw that has ended left in it.
// Programs in it stay there. It is a [*ServedError] while an appfw serves it. It
// needs root.
func Delete(name string) error {
	path, err := Path(name)
	if err != nil {
		return err
	}
	if ns, err := netns.Open(path); err == nil {
		if _, err = ns.Take(); err == nil {
			err = ns.Leave()
		}
		if err = errors.Join(err, ns.Close()); err != nil {
			return &ServedError{path, err}
		}
	}
	if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL { // not mounted: a file that was left, or a link to another's
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return os.Remove(path)
}
