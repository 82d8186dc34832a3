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
	m, err := v.mount(nil)
	if err == nil {
		m.forget()
	}
	return err
}

// mount is Mount, with the socket files that were found.
func (v View) mount(found []socketFile) (*mounter, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return nil, fmt.Errorf("unshare mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	m := &mounter{view: v, own: map[uint64]bool{}, modes: map[string]uint32{}}
	if err := m.coverRemote(v.UID, v.Keep); err != nil {
		return nil, err
	}
	if err := m.open(); err != nil {
		return nil, err
	}
	for _, dir := range v.Private {
		if err := m.private(dir); err != nil {
			return nil, fmt.Errorf("private %s: %w", dir, err)
		}
	}
	for _, path := range slices.Concat(v.Hidden, socketDirs(found, slices.Concat(v.Shown, m.atWord()))) {
		if err := m.hide(path); err != nil {
			return nil, fmt.Errorf("hide %s: %w", path, err)
		}
	}
	for _, path := range v.Devices {
		if err := m.block(path); err != nil {
			return nil, fmt.Errorf("close %s: %w", path, err)
		}
	}
	for path, content := range v.Files {
		if err := m.replace(path, content); err != nil {
			return nil, fmt.Errorf("replace %s: %w", path, err)
		}
	}
	for _, s := range v.desktop {
		if err := m.word(s); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", s.word, s.at, err)
		}
	}
	if err := m.coverSockets(found); err != nil {
		return nil, err
	}
	for _, dir := range v.ReadOnly {
		if err := m.readOnly(dir); err != nil {
			return nil, fmt.Errorf("make %s read-only: %w", dir, err)
		}
	}
	if err := m.settle(); err != nil {
		return nil, err
	}
	if err := m.close(); err != nil {
		return nil, err
	}
	// File capabilities are not looked at: a program that has some (ping) is
	// then executed without them, instead of being refused (execve(2), EPERM).
	err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID})
	if err != nil {
		return nil, fmt.Errorf("make mounts nosuid: %w", err)
	}
	// What is covered later is to be covered in mount namespaces of the program's, too.
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return nil, fmt.Errorf("share mounts: %w", err)
	}
	return m, nil
}

// mounter works in its thread's mount namespace.
type mounter struct {
	view     View
	scratch  *os.File          // a directory to make files and directories in, for binding
	run      *os.File          // the host's /run, over which that is mounted; nil if it is not
	stays    bool              // it is there when the view is made
	made     int               // how many were made there
	blank    string            // an empty file there, that nobody can open
	tmpfs    []string          // directories that are the app's own
	modes    map[string]uint32 // of these
	privates []*private        // of those, the copies
	own      map[uint64]bool   // and their file systems
	decoys   []decoy
	covered  int
}

// open mounts a file system for what is bound elsewhere. Where the app has a /run of
// its own it stays, below that and out of sight, as files can be bound only while it is
// mounted; elsewhere it is gone when the view is made, and nothing can be covered later.
func (m *mounter) open() (err error) {
	at := "/run"
	if m.run, err = os.OpenFile(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err != nil {
		m.run, at = nil, "/mnt"
	}
	room := 1 << 20 // for what is made there, each a page at most, and what has content
	for _, content := range m.view.Files {
		room += len(content)
	}
	if err := unix.Mount("appfw", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, fmt.Sprintf("mode=0755,size=%d", room)); err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", at, err)
	}
	if m.scratch, err = os.OpenFile(at, unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return err
	}
	m.stays = at == "/run" && slices.Contains(m.view.Private, at)
	m.blank, err = m.file(nil, 0)
	return err
}

func (m *mounter) close() error {
	if m.run != nil {
		m.run.Close()
	}
	if m.stays {
		return nil
	}
	return unix.Unmount(fdPath(m.scratch), unix.MNT_DETACH)
}

// private covers dir by a tmpfs with the same entries, sockets and hidden ones
// excepted.
func (m *mounter) private(dir string) error {
	path := dir
	if dir == "/run" && m.run != nil {
		path = fmt.Sprintf("/proc/self/fd/%d", m.run.Fd())
	}
	old, err := os.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrPermission) {
		old, err = os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer old.Close()
	entries, err := old.ReadDir(-1)
	if err != nil && !errors.Is(err, unix.EBADF) { // it may be searched, but not read
		return err
	}
	info, err := old.Stat()
	if err != nil {
		return err
	}
	writable := unix.Faccessat(unix.AT_FDCWD, fdPath(old), unix.W_OK, unix.AT_EACCESS) == nil
	if err := m.cover(dir, info.Mode()); err != nil {
		return err
	}
	m.privates = append(m.privates, &private{path: dir, writable: writable})
	for _, e := range entries {
		to := filepath.Join(dir, e.Name())
		if m.isHidden(to) || e.Type()&fs.ModeSocket != 0 && !m.isShown(to) {
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
	return m.showBelow(dir, old)
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
	case m.isShown(path):
		return nil
	case !info.IsDir():
		return unix.Mount(m.blank, fdPath(old), "", unix.MS_BIND, "")
	}
	if err := m.cover(path, info.Mode()); err != nil {
		return err
	}
	return m.showBelow(path, old)
}

// fdPath is the path of what a descriptor stands for, whatever is mounted there since.
func fdPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// block covers a device, or a directory of them.
func (m *mounter) block(path string) error {
	old, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil // gone, or not to be reached
	}
	defer old.Close()
	info, err := old.Stat()
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return unix.Mount("appfw", fdPath(old), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, "mode=0555,size=1m")
	case info.Mode()&fs.ModeDevice != 0 && !m.isShown(path):
		return unix.Mount(m.blank, fdPath(old), "", unix.MS_BIND, "")
	}
	return nil
}

// blockNew is block, where that was not done.
func (m *mounter) blockNew(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Mode&0o777 == 0o555 && m.isBlank(path) {
		return nil
	}
	return m.block(path)
}

// isBlank tells whether a directory has nothing in it.
func (m *mounter) isBlank(path string) bool {
	names, err := readNames(path)
	return err == nil && len(names) == 0
}

// showBelow binds what is shown into dir, which covers old.
func (m *mounter) showBelow(dir string, old *os.File) error {
	for _, shown := range m.view.Shown {
		if err := m.show(shown, shown, dir, old); err != nil {
			return err
		}
	}
	for _, s := range m.view.desktop {
		if s.from != s.at && m.isShared(s.word) {
			if err := m.show(s.from, s.at, dir, old); err != nil {
				return err
			}
		}
	}
	return nil
}

// show binds the host's path into dir, which covers old, at another path if both lie
// below.
func (m *mounter) show(path, at, dir string, old *os.File) error {
	rest, ok := strings.CutPrefix(path, dir+"/")
	if _, in := strings.CutPrefix(at, dir+"/"); !ok || !in {
		return nil
	}
	if _, err := os.Lstat(at); err == nil {
		return nil // it is there already
	}
	from := fmt.Sprintf("%s/%s", fdPath(old), rest)
	info, err := os.Stat(from)
	if err != nil {
		return fmt.Errorf("show %s: %w", path, err)
	}
	if !m.isOwn(at) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	return bind(from, at, info.IsDir())
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
	info, err := os.Stat(target)
	if err != nil {
		return err
	}
	file, err := m.file(content, info.Mode().Perm())
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

// cover mounts an empty tmpfs over dir, which may be written as that may.
func (m *mounter) cover(dir string, mode fs.FileMode) error {
	bits := mode.Perm()
	if mode&fs.ModeSticky != 0 {
		bits |= unix.S_ISVTX
	}
	const filled = 0o700 // until settle: what is shown is made there
	if err := unix.Mount("appfw", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=%#o", uint32(bits|filled))); err != nil {
		return err
	}
	m.tmpfs = append(m.tmpfs, dir)
	m.modes[dir] = uint32(bits)
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return err
	}
	m.own[st.Dev] = true
	return nil
}

// isOwn tells whether what would be made at a path is made in a file system of the
// app's own, and not the host's.
func (m *mounter) isOwn(path string) bool {
	var st unix.Stat_t
	for path != "/" {
		path = filepath.Dir(path)
		if err := unix.Lstat(path, &st); err == nil {
			return m.own[st.Dev] && st.Mode&unix.S_IFMT == unix.S_IFDIR
		}
	}
	return false
}

// file makes a file to bind.
func (m *mounter) file(content []byte, mode fs.FileMode) (string, error) {
	m.made++
	name := filepath.Join(fdPath(m.scratch), strconv.Itoa(m.made))
	return name, os.WriteFile(name, content, mode)
}

func (m *mounter) isHidden(path string) bool {
	return slices.Contains(m.view.Hidden, path) && !m.isShown(path)
}

func (m *mounter) isShown(path string) bool { return slices.Contains(m.view.Shown, path) }

func (m *mounter) isShared(word string) bool { return slices.Contains(m.view.share, word) }

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
