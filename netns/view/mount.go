package view

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount gives the calling thread, for good, a mount namespace of its own with that
// view (mount_namespaces(7)). It needs CAP_SYS_ADMIN. Mounts that the host makes later
// still show; nothing goes back. The working directory is the host's until the thread
// enters it anew.
func (v View) Mount() error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	m := mounter{view: v}
	if err := m.open(); err != nil {
		return err
	}
	for _, dir := range v.Private {
		if err := m.private(dir); err != nil {
			return fmt.Errorf("private %s: %w", dir, err)
		}
	}
	for _, path := range v.Hidden {
		if err := m.hide(path); err != nil {
			return fmt.Errorf("hide %s: %w", path, err)
		}
	}
	for path, content := range v.Files {
		if err := m.replace(path, content); err != nil {
			return fmt.Errorf("replace %s: %w", path, err)
		}
	}
	for _, dir := range v.ReadOnly {
		if err := m.readOnly(dir); err != nil {
			return fmt.Errorf("make %s read-only: %w", dir, err)
		}
	}
	if err := m.close(); err != nil {
		return err
	}
	// File capabilities are not looked at: a program that has some (ping) is
	// then executed without them, instead of being refused (execve(2), EPERM).
	err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID})
	if err != nil {
		return fmt.Errorf("make mounts nosuid: %w", err)
	}
	return nil
}

// mounter works in its thread's mount namespace.
type mounter struct {
	view   View
	source string   // a directory to make files and directories in, for binding
	made   int      // how many were made there
	tmpfs  []string // directories that are the app's own
}

// scratchPoint is where the file system for replaced files is mounted while the
// view is made. Binds from it outlive its unmounting.
const scratchPoint = "/dev"

func (m *mounter) open() error {
	err := unix.Mount("appfw", scratchPoint, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755,size=1m")
	if err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	m.source = scratchPoint
	return nil
}

func (m *mounter) close() error {
	return unix.Unmount(scratchPoint, unix.MNT_DETACH)
}

// private covers dir by a tmpfs with the same entries, hidden ones excepted.
func (m *mounter) private(dir string) error {
	old, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer old.Close()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if err := m.cover(dir); err != nil {
		return err
	}
	for _, e := range entries {
		to := filepath.Join(dir, e.Name())
		if m.isHidden(to) {
			continue
		}
		from := fmt.Sprintf("/proc/self/fd/%d/%s", old.Fd(), e.Name())
		if e.Type()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(from)
			if err == nil {
				err = os.Symlink(target, to)
			}
			if err != nil {
				return err
			}
			continue
		}
		if err := bind(from, to, e.IsDir()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err // one that is gone by now is no loss
		}
	}
	for _, shown := range m.view.Shown {
		if err := m.show(shown, dir, old); err != nil {
			return err
		}
	}
	return nil
}

// hide covers one path of the host.
func (m *mounter) hide(path string) error {
	old, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, fs.ErrPermission) {
		return nil // what cannot be seen need not be hidden
	}
	if err != nil {
		return err
	}
	defer old.Close()
	info, err := old.Stat()
	switch {
	case err != nil:
		return err
	case info.Mode()&(fs.ModeSocket|fs.ModeDir) == 0:
		return nil
	case !info.IsDir():
		if m.isShown(path) {
			return nil
		}
		empty, err := m.file(nil, 0)
		if err != nil {
			return err
		}
		return unix.Mount(empty, path, "", unix.MS_BIND, "")
	}
	if m.isShown(path) {
		return nil
	}
	if err := m.cover(path); err != nil {
		return err
	}
	for _, shown := range m.view.Shown {
		if err := m.show(shown, path, old); err != nil {
			return err
		}
	}
	return nil
}

// show binds the path shown into dir, which covers old, if it lies below.
func (m *mounter) show(shown, dir string, old *os.File) error {
	rest, below := strings.CutPrefix(shown, dir+"/")
	if !below {
		return nil
	}
	if _, err := os.Lstat(shown); err == nil {
		return nil // it is there already
	}
	from := fmt.Sprintf("/proc/self/fd/%d/%s", old.Fd(), rest)
	info, err := os.Stat(from)
	if err != nil {
		return fmt.Errorf("show %s: %w", shown, err)
	}
	if err := os.MkdirAll(filepath.Dir(shown), 0o755); err != nil {
		return err
	}
	return bind(from, shown, info.IsDir())
}

// replace puts content in the place of the file at path.
func (m *mounter) replace(path string, content []byte) error {
	target, err := filepath.EvalSymlinks(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// A link into a directory that was hidden: the file is made there.
		if link, err := os.Readlink(path); err == nil {
			if !filepath.IsAbs(link) {
				link = filepath.Join(filepath.Dir(path), link)
			}
			if dir, err := filepath.EvalSymlinks(filepath.Dir(link)); err == nil && slices.Contains(m.tmpfs, dir) {
				return os.WriteFile(filepath.Join(dir, filepath.Base(link)), content, 0o444)
			}
		}
		return nil // a resolver without it asks 127.0.0.1 (resolv.conf(5)), and so appfw
	case err != nil:
		return err
	}
	file, err := m.file(content, 0o444)
	if err != nil {
		return err
	}
	if err := unix.Mount(file, target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return unix.MountSetattr(unix.AT_FDCWD, target, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}

// readOnly binds dir over itself, to make that mount read-only.
func (m *mounter) readOnly(dir string) error {
	err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, "")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return unix.MountSetattr(unix.AT_FDCWD, dir, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}

// cover mounts an empty tmpfs over dir.
func (m *mounter) cover(dir string) error {
	if err := unix.Mount("appfw", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return err
	}
	m.tmpfs = append(m.tmpfs, dir)
	return nil
}

// file makes a file to bind.
func (m *mounter) file(content []byte, mode fs.FileMode) (string, error) {
	m.made++
	name := filepath.Join(m.source, strconv.Itoa(m.made))
	return name, os.WriteFile(name, content, mode)
}

func (m *mounter) isHidden(path string) bool {
	return slices.Contains(m.view.Hidden, path) && !m.isShown(path)
}

func (m *mounter) isShown(path string) bool { return slices.Contains(m.view.Shown, path) }

// bind makes to and binds from over it, with all that is mounted below.
func bind(from, to string, dir bool) error {
	var err error
	if dir {
		err = os.Mkdir(to, 0o755)
	} else {
		err = os.WriteFile(to, nil, 0o644)
	}
	if err != nil {
		return err
	}
	return unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, "")
}
