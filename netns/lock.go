package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// errTaken says that a namespace is not free.
var errTaken = errors.New("another appfw has this namespace already")

// lock says that this process has a namespace. It is a file that its user alone can
// open: nobody in the namespace can keep appfw out, unless it runs as the same user. It
// is free when the process has ended, however that was (flock(2)).
type lock struct{ file *os.File }

// takeLock takes the lock of a namespace. It is errTaken if another process has it.
func takeLock(ns *os.File) (*lock, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("netns-%d-%d", st.Dev, st.Ino) // of one that lives, no other has these
	var errs []error
	for _, dir := range lockDirectories() {
		l, err := lockIn(dir, name)
		if err == nil || errors.Is(err, errTaken) {
			return l, err
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, errors.New("there is no directory for its lock: neither $XDG_RUNTIME_DIR nor $HOME is set")
	}
	return nil, errors.Join(errs...)
}

// lockDirectories are where locks may be: the first that this user can have is taken.
// Root trusts no directory that the environment names; but who is root in a user
// namespace alone, and may not write to /run, is not that.
func lockDirectories() (dirs []string) {
	if os.Geteuid() == 0 && unix.Access("/run", unix.W_OK) != unix.EACCES {
		return []string{"/run/appfw/locks"}
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		dirs = append(dirs, filepath.Join(dir, "appfw"))
	}
	if dir, err := os.UserCacheDir(); err == nil {
		dirs = append(dirs, filepath.Join(dir, "appfw"))
	}
	return dirs
}

// lockIn takes a lock in a directory, which it makes.
func lockIn(dir, name string) (*lock, error) {
	for tries := 0; ; tries++ {
		var file *os.File
		err := ownDirectory(dir)
		if err == nil {
			file, err = os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		}
		if errors.Is(err, fs.ErrNotExist) && tries < 100 {
			continue // who had the last lock there has just removed the directory
		}
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == unix.EWOULDBLOCK {
			err = errTaken
		}
		if err != nil {
			file.Close()
			return nil, err
		}
		// Who had it before may have removed the file after it was opened here.
		opened, oerr := file.Stat()
		there, terr := os.Lstat(file.Name())
		if oerr == nil && terr == nil && os.SameFile(opened, there) {
			return &lock{file}, nil
		}
		file.Close()
		if !errors.Is(terr, fs.ErrNotExist) && terr != nil {
			return nil, terr
		}
	}
}

// ownDirectory makes a directory that is this user's alone, if it is not there.
func ownDirectory(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		return fmt.Errorf("%s is not this user's alone", dir)
	}
	return nil
}

// Close gives the lock back, and leaves nothing.
func (l *lock) Close() error {
	dir := filepath.Dir(l.file.Name())
	err := errors.Join(os.Remove(l.file.Name()), l.file.Close()) // in this order: who has it open sees that it is gone
	_ = os.Remove(dir)                                           // if it was the last
	return err
}
