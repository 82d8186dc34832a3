package view

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// notices are the kernel's of what changes in directories (inotify(7)), so that those
// in which nothing does need not be looked at.
type notices struct {
	fd   int
	dirs map[int32]string
}

// noticed are changes in a directory by which it has other sockets, or below it.
const noticed = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE

// watchDirs has the finder told from now on. Without, it looks at each directory.
func (f *finder) watchDirs() {
	if fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err == nil {
		f.notices = &notices{fd: fd, dirs: map[int32]string{}}
	}
}

func (f *finder) close() {
	if f.notices != nil {
		_ = unix.Close(f.notices.fd)
	}
}

// add has the kernel tell of a directory that is open; false if it does not.
func (n *notices) add(dir int, name string) bool {
	if n == nil {
		return false
	}
	wd, err := unix.InotifyAddWatch(n.fd, fmt.Sprintf("/proc/self/fd/%d", dir), noticed|unix.IN_ONLYDIR|unix.IN_EXCL_UNLINK)
	if err != nil {
		return false // there are too many, perhaps
	}
	n.dirs[int32(wd)] = name
	return true
}

// forget has the finder read anew what has changed since the last time.
func (f *finder) forget() {
	if f.notices == nil {
		return
	}
	buffer := make([]byte, 1<<16)
	for {
		n, err := unix.Read(f.notices.fd, buffer)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		for b := buffer[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(b))
			mask := binary.NativeEndian.Uint32(b[4:])
			size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
			name := unix.ByteSliceToString(b[unix.SizeofInotifyEvent:size])
			f.changed(wd, mask, name)
			b = b[size:]
		}
	}
}

// changed takes in one notice.
func (f *finder) changed(wd int32, mask uint32, name string) {
	dir, ok := f.notices.dirs[wd]
	switch {
	case mask&unix.IN_Q_OVERFLOW != 0: // some are lost
		clear(f.dirs)
	case !ok:
	case mask&unix.IN_IGNORED != 0: // it is gone
		delete(f.notices.dirs, wd)
		delete(f.dirs, dir)
	case mask&unix.IN_ISDIR != 0:
		f.forgetBelow(filepath.Join(dir, name))
		fallthrough
	case mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0:
		if d := f.dirs[dir]; d != nil {
			d.changed = true
		}
	}
}

// forgetBelow forgets a directory that is another now, or elsewhere.
func (f *finder) forgetBelow(dir string) {
	if f.dirs[dir] == nil {
		return
	}
	for name := range f.dirs {
		if name == dir || strings.HasPrefix(name, dir+"/") {
			delete(f.dirs, name)
		}
	}
}
