package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/policy/source"
)

// A log that root writes holds what programs chose, and its path may lead by directories of
// their users: a link there would have root write to what they cannot. So where somebody
// else than root could change the path, the log is a regular file with no other name, and
// no link leads to it.

// OpenLog opens a file for a log, to be added to; one that is made, only this process's user
// may read. Of a FIFO it waits for who reads, unless this is root, and somebody else could
// have put it there.
func OpenLog(name string) (*os.File, error) {
	if leadsElsewhere(name) {
		return openOwn(name, true)
	}
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// OpenLogOf opens a log for a program of another user than this process's, which is
// root's: with that user's rights, which as lends to a function; where they do not suffice,
// with root's, but in no directory that is not root's alone.
func OpenLogOf(name string, as func(func() error) error) (file *os.File, err error) {
	err = as(func() error {
		file, err = openOwn(name, false)
		return err
	})
	if !errors.Is(err, fs.ErrPermission) {
		return file, err
	}
	if what, theirs := source.NotRoot().CouldChange(filepath.Dir(name)); theirs {
		return nil, fmt.Errorf("%w for the program's user, and root does not write there for him, as others could change %s", err, what)
	}
	return OpenLog(name)
}

// maxLinks is as many symbolic links as the kernel follows (path_resolution(7)).
const maxLinks = 40

// leadsElsewhere tells whether this is root, and others could change where a path leads.
// Root of a user namespace that maps nobody else has the rights of one user. Links of /proc (/dev/stdout) lead to what the process itself has open.
func leadsElsewhere(name string) bool {
	if os.Geteuid() != 0 || !netns.IsMapped(1) {
		return false
	}
	for range maxLinks {
		dir := filepath.Dir(name)
		if _, theirs := source.NotRoot().CouldChange(dir); theirs {
			return true
		}
		if dir, err := filepath.EvalSymlinks(dir); err == nil && strings.HasPrefix(dir, "/proc/") {
			return false
		}
		info, err := os.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return false
		case err != nil || info.Sys().(*syscall.Stat_t).Uid != 0:
			return true
		case info.Mode()&fs.ModeSymlink == 0:
			return false
		}
		to, err := os.Readlink(name)
		if err != nil {
			return true
		}
		if name = to; !filepath.IsAbs(to) {
			name = filepath.Join(dir, to)
		}
	}
	return true
}

// openOwn opens a log that is a regular file with no other name. It is not a link; with
// direct, none leads to it either. It waits for nobody.
func openOwn(name string, direct bool) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CREAT | unix.O_APPEND | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC, Mode: 0o600}
	if direct {
		how.Resolve = unix.RESOLVE_NO_SYMLINKS
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, name, &how)
	switch {
	case err == unix.ELOOP:
		return nil, fmt.Errorf("%s leads by a link, which somebody else could change; give the file that is meant", name)
	case err == unix.ENXIO: // a FIFO that nobody reads
		return nil, fmt.Errorf("%s is no regular file", name)
	case err != nil:
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	file := os.NewFile(uintptr(fd), name)
	info, err := file.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s is no regular file", name)
	case info.Sys().(*syscall.Stat_t).Nlink > 1:
		err = fmt.Errorf("%s has another name (a hard link)", name)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}
