package view

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// private is a directory of the host's that the program has a copy of. What it makes in
// there nobody else sees.
type private struct {
	path     string
	writable bool // by the program's user, on the host
	dir      *os.File
	names    map[string]bool // of what was there when the program started
}

// settle has the covered directories be as they are to be while the program runs: those that its user
// could not write to can only be read. The copies are his, as no other user is mapped.
func (m *mounter) settle() error {
	for dir, mode := range m.modes {
		if err := unix.Chmod(dir, mode); err != nil {
			return fmt.Errorf("mode of %s: %w", dir, err)
		}
	}
	for _, p := range m.privates {
		var err error
		if p.dir, err = os.Open(p.path); err != nil {
			return fmt.Errorf("private %s: %w", p.path, err)
		}
		names, err := p.dir.Readdirnames(-1)
		if err != nil {
			return fmt.Errorf("private %s: %w", p.path, err)
		}
		p.names = map[string]bool{}
		for _, name := range names {
			p.names[name] = true
		}
		if p.writable {
			continue
		}
		if err := unix.MountSetattr(unix.AT_FDCWD, p.path, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("make %s read-only: %w", p.path, err)
		}
	}
	return nil
}

// new is the path of a file or a socket that the program has made there; "" if it made
// none. Directories are for what it does by itself.
func (p *private) new() string {
	if !p.writable || p.dir == nil {
		return ""
	}
	if _, err := p.dir.Seek(0, 0); err != nil {
		return ""
	}
	entries, _ := p.dir.ReadDir(-1)
	for _, e := range entries {
		if !e.IsDir() && !p.names[e.Name()] {
			return filepath.Join(p.path, e.Name())
		}
	}
	return ""
}

// forget closes the copies.
func (m *mounter) forget() {
	for _, p := range m.privates {
		p.dir.Close()
	}
}
