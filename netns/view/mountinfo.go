package view

import (
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is a line of proc_pid_mountinfo(5).
type mount struct {
	id, parent int
	dev        uint64 // of the file system, as the kernel writes it: major<<20 | minor
	root       string // which directory of it
	at         string // where it is mounted: no link in it
	kind       string // its type, as nfs4
	options    string // those of the file system
}

// mounts are those of a mount namespace.
type mounts struct {
	list    []mount
	root    *mount                // of "/", before what is mounted over that
	on      map[mountpoint]*mount // what is mounted where
	open    map[int]int           // descriptors of their roots, by id
	trusted map[uint64]bool       // file systems on which files may be opened, whatever they are
}

type mountpoint struct {
	parent int
	at     string
}

// readMounts reads those of the process's or thread's namespace: self or thread-self.
func readMounts(who string) (*mounts, error) {
	text, err := os.ReadFile("/proc/" + who + "/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(string(text)), nil
}

func parseMounts(text string) *mounts {
	ms := &mounts{on: map[mountpoint]*mount{}, open: map[int]int{}, trusted: map[uint64]bool{}}
	for line := range strings.Lines(text) {
		if m, ok := parseMount(line); ok {
			ms.list = append(ms.list, m)
		}
	}
	ids := map[int]bool{}
	for _, m := range ms.list {
		ids[m.id] = true
	}
	for i := range ms.list {
		m := &ms.list[i]
		if m.at == "/" && (!ids[m.parent] || m.parent == m.id) {
			ms.root = m
			continue
		}
		ms.on[mountpoint{m.parent, m.at}] = m
	}
	return ms
}

func parseMount(line string) (m mount, ok bool) {
	before, after, ok := strings.Cut(line, " - ")
	fields, of := strings.Fields(before), strings.Fields(after)
	if !ok || len(fields) < 6 || len(of) < 1 {
		return m, false
	}
	id, ierr := strconv.Atoi(fields[0])
	parent, perr := strconv.Atoi(fields[1])
	major, minor, _ := strings.Cut(fields[2], ":")
	high, herr := strconv.ParseUint(major, 10, 12)
	low, lerr := strconv.ParseUint(minor, 10, 20)
	if ierr != nil || perr != nil || herr != nil || lerr != nil {
		return m, false
	}
	m = mount{id: id, parent: parent, dev: high<<20 | low, root: unescape(fields[3]), at: unescape(fields[4]), kind: of[0]}
	if len(of) > 2 {
		m.options = of[2]
	}
	return m, true
}

// unescape undoes \040 and its like.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// of finds the mount that an absolute path without links lies on, as the kernel
// walks: mounts that are covered by others are never it.
func (ms *mounts) of(name string) *mount {
	m := ms.top(ms.root, "/")
	for i := 1; m != nil && i <= len(name); i++ {
		if i == len(name) || name[i] == '/' {
			m = ms.top(m, name[:i])
		}
	}
	return m
}

// top is what is mounted at a path of m, or m.
func (ms *mounts) top(m *mount, at string) *mount {
	for m != nil {
		over := ms.on[mountpoint{m.id, at}]
		if over == nil || over == m {
			break
		}
		m = over
	}
	return m
}

// inside is where a path that lies on the mount is in its file system.
func (m *mount) inside(name string) string {
	return path.Join(m.root, strings.TrimPrefix(name, m.at))
}

// locations are all paths of what is at a place of a file system: it may be mounted
// several times.
func (ms *mounts) locations(dev uint64, inside string) (paths []string) {
	for i := range ms.list {
		m := &ms.list[i]
		rest, below := below(inside, m.root)
		if m.dev != dev || !below {
			continue
		}
		if name := path.Join(m.at, rest); ms.of(name) == m {
			paths = append(paths, name)
		}
	}
	return paths
}

// below tells whether a path is dir or lies below it, and where there.
func below(name, dir string) (rest string, ok bool) {
	if dir == "/" || name == dir {
		return strings.TrimPrefix(name, dir), true
	}
	rest, ok = strings.CutPrefix(name, dir+"/")
	return rest, ok
}

// openFile opens a path of these mounts, without following a link or crossing to a
// mount that is not known: what is opened is where its name says, whoever changes
// directories on the way, and no server is asked, and no daemon of another user.
func (ms *mounts) openFile(name string, flags int) (fd int, on *mount, err error) {
	on = ms.of(name)
	if on == nil || !ms.walkable(on) {
		return -1, on, unix.EXDEV
	}
	base, ok := ms.open[on.id]
	if !ok {
		base, err = unix.Openat2(unix.AT_FDCWD, on.at, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
		if err != nil {
			return -1, on, err
		}
		ms.open[on.id] = base
	}
	rest, _ := below(name, on.at)
	if rest == "" {
		rest = "."
	}
	fd, err = unix.Openat2(base, rest, &unix.OpenHow{
		Flags:   uint64(flags) | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV, // and a clean path goes down only
	})
	return fd, on, err
}

// close closes what openFile has opened for itself.
func (ms *mounts) close() {
	for id, fd := range ms.open {
		_ = unix.Close(fd)
		delete(ms.open, id)
	}
}

// trust lets files be opened on the file systems of these paths, whatever they are: a
// program whose home hangs does so itself.
func (ms *mounts) trust(paths []string) {
	for _, name := range paths {
		if m := ms.of(name); name != "" && m != nil && m.kind != "autofs" {
			ms.trusted[m.dev] = true
		}
	}
}

// walkable tells whether to open a file there may wait for nobody.
func (ms *mounts) walkable(m *mount) bool {
	return ms.trusted[m.dev] || strings.Contains(localKinds, " "+m.kind+" ")
}

// localKinds are types of file systems that ask nobody else when a file is opened.
const localKinds = " ext2 ext3 ext4 xfs btrfs bcachefs f2fs zfs jfs nilfs2 reiserfs tmpfs ramfs devtmpfs overlay vfat exfat ntfs3 squashfs erofs iso9660 udf ubifs "
