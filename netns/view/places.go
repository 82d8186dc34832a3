package view

import (
	"context"
	"encoding/binary"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// place is a directory where sockets live, and how deep below it.
type place struct {
	path  string
	depth int
}

// places are where programs make sockets, besides /run.
func (h Host) places() []place {
	list := []place{{"/tmp", 3}, {"/var/tmp", 2}, {"/dev/shm", 1}, {"/var/spool/postfix", 1}}
	if h.Dir != "" {
		list = append(list, place{h.Dir, 1})
	}
	for _, home := range h.homes() {
		list = append(list, place{home, 1})
		for _, name := range []string{".ssh", ".gnupg", ".docker", ".cache", ".config", ".local/share", ".local/state"} {
			list = append(list, place{filepath.Join(home, name), 2})
		}
	}
	return list
}

// homes are the program's: HOME is another's under sudo(8).
func (h Host) homes() (homes []string) {
	for _, home := range []string{variable(h.Env, "HOME"), h.Home} {
		if filepath.IsAbs(home) && home != "/" && !slices.Contains(homes, home) {
			homes = append(homes, filepath.Clean(home))
		}
	}
	return homes
}

// barren are directories below /run of many files, and no sockets.
var barren = map[string]bool{
	"/run/udev/data": true, "/run/udev/tags": true, "/run/udev/links": true, "/run/udev/watch": true,
	"/run/systemd/units": true, "/run/systemd/transient": true, "/run/log": true,
}

// directory is what one held when it was read last.
type directory struct {
	signature
	fresh   bool // it may have changed since within what its clock shows
	mount   int  // that it is on
	told    bool // the kernel tells when it changes
	changed bool // it has
	sockets []string
	dirs    []string
}

// walk reads places, what is nearer first, where they have changed.
func (f *finder) walk(ctx context.Context, queue []place) {
	for n := 0; n < len(queue) && len(f.order) < mostDirs && ctx.Err() == nil; n++ {
		p := queue[n]
		if barren[p.path] {
			continue
		}
		d := f.dirs[p.path]
		if !f.seen[p.path] {
			if d = f.read(p.path); d == nil {
				continue
			}
			f.seen[p.path], f.dirs[p.path] = true, d
			f.order = append(f.order, p.path)
		}
		if p.depth > 0 {
			for _, sub := range d.dirs {
				queue = append(queue, place{filepath.Join(p.path, sub), p.depth - 1})
			}
		}
	}
}

// read reads a directory anew if it has changed; nil if it cannot be read.
func (f *finder) read(name string) *directory {
	d := f.dirs[name]
	if d != nil && d.told && !d.changed {
		if on := f.mounts.of(name); on != nil && on.id == d.mount {
			return d
		}
	}
	if d == nil && f.budget == 0 {
		return nil
	}
	fd, on, err := f.mounts.openFile(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	unchanged := d != nil && d.signature == signatureOf(&st) && !d.fresh && !d.changed && (d.told || f.notices == nil)
	if err != nil || unchanged || f.budget == 0 {
		return d
	}
	f.budget--
	d = &directory{signature: signatureOf(&st), fresh: fresh(&st), mount: on.id}
	d.told = f.notices.add(fd, name) // before it is read, so that no change is missed
	d.sockets, d.dirs = entries(fd)
	return d
}

// entries are the sockets and directories in a directory. It reads what the kernel
// writes (getdents64(2)) by itself, as it does so for many.
func entries(dir int) (sockets, dirs []string) {
	buffer := make([]byte, 8192)
	for {
		n, err := unix.Getdents(dir, buffer)
		if err != nil || n <= 0 {
			return sockets, dirs
		}
		const header = 19 // d_ino, d_off, d_reclen, d_type
		for b := buffer[:n]; len(b) > header; {
			length := int(binary.NativeEndian.Uint16(b[16:]))
			if length <= header || length > len(b) {
				return sockets, dirs
			}
			kind := b[18]
			if kind == unix.DT_SOCK || kind == unix.DT_DIR || kind == unix.DT_UNKNOWN {
				name := unix.ByteSliceToString(b[header:length])
				if kind == unix.DT_UNKNOWN {
					kind = kindOf(dir, name)
				}
				switch {
				case kind == unix.DT_SOCK && len(sockets) < mostSockets:
					sockets = append(sockets, name)
				case kind == unix.DT_DIR && len(dirs) < mostEntries && name != "." && name != "..":
					dirs = append(dirs, name)
				}
			}
			b = b[length:]
		}
	}
}

// kindOf asks for the kind of a file where the file system does not tell with the name.
func kindOf(dir int, name string) byte {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT); err != nil {
		return unix.DT_UNKNOWN
	}
	return byte(st.Mode & unix.S_IFMT >> 12)
}
