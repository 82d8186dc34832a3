package view

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// coverSockets covers the host's socket files in the calling thread's mount namespace,
// at each path that leads to them, unless it is shown.
func (m *mounter) coverSockets(files []socketFile) error {
	if len(files) == 0 {
		return nil
	}
	ms, err := readMounts("thread-self")
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	defer ms.close()
	shown := slices.Concat(m.view.Shown, m.atWord())
	for _, s := range files {
		ms.trusted[s.of.dev] = true // the host's was opened
		for _, path := range ms.locations(s.of.dev, s.inside) {
			if slices.Contains(shown, path) {
				continue
			}
			if err := m.coverSocket(ms, path, s); err != nil {
				return fmt.Errorf("cover %s: %w", path, err)
			}
		}
	}
	return nil
}

// coverSocket covers what is at a path if it is that very socket, and nothing else
// ever: others may change what the path leads to at any time.
func (m *mounter) coverSocket(ms *mounts, path string, s socketFile) error {
	fd, _, err := ms.openFile(path, unix.O_PATH)
	if err != nil {
		return nil // there is nothing, for the program neither
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK || st.Dev != s.dev || st.Ino != s.ino {
		return nil
	}
	if m.covered++; m.covered > mostCovered {
		return errors.New("there are too many sockets of others")
	}
	err = unix.Mount(m.blank, fmt.Sprintf("/proc/self/fd/%d", fd), "", unix.MS_BIND, "")
	if errors.Is(err, unix.ENOENT) {
		return nil // it was removed meanwhile
	}
	return err
}

// decoy is in the place of a socket that a word would show. It is bound and does not
// listen: connecting to it is refused, but the kernel notes that in its atime.
type decoy struct {
	word   string
	socket int
	file   int // O_PATH
}

// asked tells whether somebody has tried to connect.
func (d decoy) asked() bool {
	var st unix.Stat_t
	return unix.Fstat(d.file, &st) == nil && st.Atim.Sec != 0
}

// atWord are the paths of sockets that were shown by a word.
func (m *mounter) atWord() (paths []string) {
	for _, s := range m.view.desktop {
		if m.isShared(s.word) {
			paths = append(paths, s.at)
		}
	}
	return paths
}

// word shows a socket by its word, or puts another in its place, so that it is known
// whether the program asks for it.
func (m *mounter) word(s shared) error {
	var path string
	switch {
	case m.isShown(s.at):
		return nil
	case s.from != s.at && m.isShared(s.word):
		old, err := os.OpenFile(s.from, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err != nil {
			return nil // it is there already, or cannot be seen
		}
		defer old.Close()
		path = fdPath(old)
	case s.from != s.at:
		return nil // the program may have its own there
	default:
		d, at, err := m.decoy(s.word)
		if err != nil {
			return err
		}
		m.decoys = append(m.decoys, d)
		path = at
	}
	if _, err := os.Lstat(s.at); errors.Is(err, fs.ErrNotExist) && m.isOwn(s.at) {
		if err := os.MkdirAll(filepath.Dir(s.at), 0o755); err != nil {
			return err
		}
		return bind(path, s.at, false)
	}
	at, err := os.OpenFile(s.at, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil
	}
	defer at.Close()
	if info, err := at.Stat(); err != nil || info.Mode()&fs.ModeSocket == 0 {
		return nil
	}
	return unix.Mount(path, fdPath(at), "", unix.MS_BIND, "")
}

// decoy makes one, to be bound elsewhere.
func (m *mounter) decoy(word string) (d decoy, path string, err error) {
	m.made++
	path = filepath.Join(fdPath(m.scratch), strconv.Itoa(m.made))
	d.word = word
	if d.socket, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return d, "", fmt.Errorf("socket: %w", err)
	}
	if err := errors.Join(unix.Bind(d.socket, &unix.SockaddrUnix{Name: path}), os.Chmod(path, 0o777)); err != nil {
		return d, "", err
	}
	if d.file, err = unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		return d, "", err
	}
	never := []unix.Timespec{{}, {Nsec: unix.UTIME_OMIT}}
	return d, path, unix.UtimesNanoAt(unix.AT_FDCWD, path, never, 0)
}
