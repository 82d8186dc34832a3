package view

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Some file systems connect to what a path names, so that looking a name up is
// sending it: the host does it, and no rule sees it. These are covered. What is
// mounted on them by now is a file system like others, and stays.

// byPath are types of such, and of fuse those whose daemon does that.
var byPath = map[string]bool{
	"autofs":     true, // an automounter mounts what is looked up: /net/HOST
	"afs":        true, // cells are found by DNS
	"fuse.avfsd": true, "fuse.gvfsd-fuse": true, "fuse.kio-fuse": true, "fuse.ipfs": true, "fuse.ipns": true,
}

// connects tells whether a mount leads a program of the user to others: whatever a
// program looks up in a fuse of somebody else's, he learns. Root's are the host's own.
func (m *mount) connects(uid int) bool {
	if byPath[m.kind] {
		return true
	}
	if m.kind != "fuse" && m.kind != "fuseblk" && !strings.HasPrefix(m.kind, "fuse.") {
		return false
	}
	for option := range strings.SplitSeq(m.options, ",") {
		if value, ok := strings.CutPrefix(option, "user_id="); ok {
			owner, err := strconv.Atoi(value)
			return err != nil || owner != 0 && owner != uid
		}
	}
	return true // it does not say whose it is
}

// coverRemote covers what connects by path, and puts back what is mounted on it and
// does not, and the directories to keep: the program's home may be there.
func (m *mounter) coverRemote(uid int, keep []string) error {
	ms, err := readMounts("thread-self")
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	for i := range ms.list {
		r := &ms.list[i]
		if !r.connects(uid) {
			continue
		}
		if over := ms.top(r, r.at); over != r && !over.connects(uid) {
			// It is mounted over, and lies open again when the host ends that.
			if ms.of(r.at) == over {
				if err := unix.Mount(r.at, r.at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
					return fmt.Errorf("keep %s: %w", r.at, err)
				}
			}
			continue
		}
		if ms.of(r.at) != r {
			continue
		}
		below := keep
		if r.kind == "autofs" {
			below = nil
		}
		if err := m.coverMount(r, append(ms.mountedOn(r, uid), below...)); err != nil {
			return fmt.Errorf("cover %s at %s: %w", r.kind, r.at, err)
		}
	}
	return nil
}

// mountedOn are the paths of what is mounted on a mount and below, and does not
// connect by path.
func (ms *mounts) mountedOn(on *mount, uid int) (paths []string) {
	for i := range ms.list {
		m := &ms.list[i]
		if m.parent == on.id && m.at != on.at {
			if top := ms.top(m, m.at); !top.connects(uid) && ms.of(m.at) == top {
				paths = append(paths, m.at)
			}
		}
	}
	return paths
}

// coverMount covers a mount by an empty file system that cannot be written, in which
// the directories to keep are.
func (m *mounter) coverMount(r *mount, keep []string) error {
	old, err := os.OpenFile(r.at, unix.O_PATH, 0) // without O_DIRECTORY, no automounter is asked
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return nil // not to be reached, and it will not be
	}
	if err != nil {
		return err
	}
	defer old.Close()
	if err := unix.Mount("appfw", r.at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755,size=1m"); err != nil {
		return err
	}
	for _, name := range keep {
		rest, ok := below(name, r.at)
		if !ok || rest == "" {
			continue
		}
		from := fmt.Sprintf("/proc/self/fd/%d/%s", old.Fd(), rest)
		info, err := os.Stat(from)
		if err != nil {
			continue // gone, or not to be seen
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := bind(from, name, info.IsDir()); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return unix.MountSetattr(unix.AT_FDCWD, r.at, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}
