package source

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Writers are those who are judged by a policy, and who are not to make it
// themselves. The zero value is nobody: nothing is theirs.
type Writers struct {
	own func(path string, st *unix.Stat_t) bool // whether an entry, be it a link, is theirs; nil: nothing is
	may func(path string) bool                  // whether they may write to a path without that
}

// SameUser are programs that run as this process's user.
func SameUser() Writers { return Writers{own: owned, may: accessible} }

// SameNamespace are programs of this process's user namespace, root's of which may
// do with the files of all its users what they like.
func SameNamespace() Writers {
	return Writers{
		own: func(path string, st *unix.Stat_t) bool { return st.Uid != overflowUID || owned(path, st) },
		may: accessible,
	}
}

// NotRoot are all but root. This process is root's, and may be without capabilities.
func NotRoot() Writers {
	return Writers{
		own: func(_ string, st *unix.Stat_t) bool { return st.Uid != 0 },
		may: func(path string) bool {
			var st unix.Stat_t
			return unix.Stat(path, &st) != nil || st.Mode&0o022 != 0
		},
	}
}

// CouldChange tells whether they could change where a path leads, or what is there: the
// first of all that it leads by that they could. Of what is not there, they could.
func (w Writers) CouldChange(path string) (what string, ok bool) {
	return w.couldChange([]string{path})
}

// couldChange tells which of the files, or of the directories and links that lead to
// them, they could change.
func (w Writers) couldChange(files []string) (path string, ok bool) {
	if w.own == nil {
		return "", false
	}
	for _, name := range files {
		if !strings.HasPrefix(name, "/") {
			dir, err := os.Getwd()
			if err != nil {
				return name, true
			}
			name = dir + "/" + name // not cleaned: links come before dots
		}
		if path, ok := w.couldLead(name); ok {
			return path, true
		}
	}
	return "", false
}

// maxLinks is as many symbolic links as the kernel follows (path_resolution(7)).
const maxLinks = 40

// couldLead tells what they could change of all that an absolute path leads by, and of
// the file there. It goes along the path as the kernel does.
func (w Writers) couldLead(path string) (string, bool) {
	at, links := "/", 0 // at has no links in it
	for rest := strings.Split(path, "/"); len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		var dir, entry unix.Stat_t
		next := filepath.Join(at, part)
		if err := unix.Lstat(at, &dir); err != nil {
			return at, true
		}
		if err := unix.Lstat(next, &entry); err != nil {
			return next, true // whoever makes it decides
		}
		// In a sticky directory (/tmp) others can do nothing to an entry.
		if w.own(at, &dir) || dir.Mode&unix.S_ISVTX == 0 && w.may(at) {
			return at, true
		}
		if w.own(next, &entry) { // be it a link: its owner may make another
			return next, true
		}
		if entry.Mode&unix.S_IFMT != unix.S_IFLNK {
			at = next
			continue
		}
		to, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			return next, true
		}
		if strings.HasPrefix(to, "/") {
			at = "/"
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	return at, w.may(at)
}

// accessible tells whether this process may write to a path, or might by another
// one: a file system that is read-only here need not be elsewhere.
func accessible(path string) bool {
	err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS)
	return err == nil || err == unix.EROFS
}

// overflowUID is whose files seem to be of which the owner is not mapped
// (kernel.overflowuid).
const overflowUID = 65534

// owned tells whether an entry belongs to this process's user, who so can give
// himself the right to write to it. Within a user namespace every user that is
// not mapped seems to be nobody: to nobody, the kernel says whose it is by who
// may open it without a new time of access (open(2), O_NOATIME).
func owned(path string, st *unix.Stat_t) bool {
	if int(st.Uid) != os.Geteuid() {
		return false
	}
	if st.Uid != overflowUID {
		return true
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOATIME|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err != unix.EPERM
}
