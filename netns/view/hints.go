package view

import (
	"errors"
	"maps"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// hint takes in the names that sockets are bound to.
func (f *finder) hint() {
	before := f.names
	f.names, f.elsewhere = map[string]string{}, nil
	take := func(name string) {
		if _, again := f.names[name]; again {
			return
		}
		at, known := before[name]
		if !known && filepath.IsAbs(name) {
			if dir, ok := f.resolve(filepath.Dir(name)); ok {
				at = filepath.Join(dir, filepath.Base(name))
			}
		}
		if len(f.names) < mostHints {
			f.names[name] = at
		}
	}
	for _, name := range f.host.socketNames() {
		take(name)
	}
	f.bound, f.noDiag = boundSockets()
	for _, s := range f.bound {
		take(s.name)
	}
	if f.noDiag != nil {
		for _, name := range boundElsewhere("/proc/self") {
			take(name)
		}
	}
	for _, process := range f.namespaces() {
		names := boundElsewhere(process)
		for _, name := range names[:min(len(names), mostNames)] {
			take(name)
			f.elsewhere = append(f.elsewhere, name)
		}
	}
}

// member is a process in a network namespace.
type member struct {
	net    uint64
	looked int // how often
	seen   int // the pass
}

// namespaces names a process of each other network namespace. A process seldom goes
// to another one but soon after its start, so not all are asked each time.
func (f *finder) namespaces() (processes []string) {
	seen := map[uint64]bool{}
	if net, ok := netOf("/proc/self"); ok {
		seen[net] = true
	}
	f.passes++
	if f.networks == nil {
		f.networks = map[string]*member{}
	}
	names, _ := readNames("/proc")
	for i, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		m := f.networks[name]
		if m == nil {
			m = new(member)
			f.networks[name] = m
		}
		m.seen = f.passes
		if m.looked < 3 || (f.passes+i)%16 == 0 {
			m.net, _ = netOf("/proc/" + name)
			m.looked++
		}
		if m.net != 0 && !seen[m.net] && (f.skip == nil || !f.skip(m.net)) {
			processes = append(processes, "/proc/"+name)
		}
		seen[m.net] = true
	}
	maps.DeleteFunc(f.networks, func(_ string, m *member) bool { return m.seen != f.passes })
	return processes
}

// netOf tells network namespaces apart, as everybody may.
func netOf(process string) (net uint64, ok bool) {
	var st unix.Stat_t
	err := unix.Stat(process+"/net/unix", &st)
	return st.Ino, err == nil
}

func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// resolve follows the links in a path, one at a time.
func (f *finder) resolve(name string) (string, bool) {
	for range 16 {
		link, target, err := f.firstLink(name)
		if err != nil {
			return "", false
		}
		if link == "" {
			return name, true
		}
		rest, _ := below(name, link)
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(link), target)
		}
		name = filepath.Join(target, rest)
	}
	return "", false
}

// firstLink finds the first component of a path that is a link; "" if none is.
func (f *finder) firstLink(name string) (link, target string, err error) {
	fd, _, err := f.mounts.openFile(name, unix.O_PATH|unix.O_DIRECTORY)
	if err == nil {
		_ = unix.Close(fd)
		return "", "", nil
	}
	if !errors.Is(err, unix.ELOOP) && !errors.Is(err, unix.ENOTDIR) {
		return "", "", err
	}
	for i := 1; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		fd, _, err := f.mounts.openFile(name[:i], unix.O_PATH)
		if err != nil {
			return "", "", err
		}
		b := make([]byte, unix.PathMax)
		n, lerr := unix.Readlinkat(fd, "", b)
		_ = unix.Close(fd)
		if lerr == nil && n > 0 {
			return name[:i], string(b[:n]), nil
		}
	}
	return "", "", nil // it is no directory
}

// awaken has the homes mounted by the automounter if they are on one: the program
// could not have it done.
func (f *finder) awaken() {
	ms, err := readMounts("self")
	if err != nil {
		return
	}
	for _, home := range f.host.homes() {
		if m := ms.of(home); m != nil && m.kind == "autofs" {
			_, _ = os.Stat(filepath.Join(home, "."))
		}
	}
}
