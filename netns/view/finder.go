package view

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// finder looks for the socket files of the host. Names that sockets were bound to are
// hints of where to look, as anybody chooses them; what is there is what counts.
type finder struct {
	host Host
	skip func(net uint64) bool // network namespaces whose names are no hints; nil: none

	mounts    *mounts
	dirs      map[string]*directory
	names     map[string]string    // that sockets were bound to in the last pass, and where that leads; "" is nowhere
	known     map[string]knownFile // the sockets that were found, by path
	elsewhere []string             // of the names, those of other network namespaces
	more      []string             // directories that were searched out

	seen    map[string]bool // directories in this pass
	order   []string        // and which came first
	flooded bool            // there were more sockets than are looked at

	notices  *notices           // nil if the kernel does not tell
	networks map[string]*member // processes, by their numbers
	passes   int

	budget int            // how many more directories this pass may read
	bound  []boundSocket  // those of the host's own network namespace
	noDiag error          // why the kernel does not tell which files sockets are bound to
	lost   map[inode]bool // bound, and not found
}

// knownFile is a socket file that was looked at.
type knownFile struct {
	signature
	of     inode
	links  uint64
	judged bool
}

// signature is what of a file changes when it becomes another, or the entries of a
// directory change. Nobody can set a file's ctime.
type signature struct {
	dev, ino uint64
	ctime    unix.Timespec
}

func signatureOf(st *unix.Stat_t) signature { return signature{st.Dev, st.Ino, st.Ctim} }

// fresh tells whether a file may be changed once more without its ctime telling.
func fresh(st *unix.Stat_t) bool {
	return time.Since(time.Unix(st.Ctim.Sec, st.Ctim.Nsec)) < 2*time.Second
}

// socketFile is one of the host's that some process listens at.
type socketFile struct {
	path   string // in the host's view
	of     inode  // as the kernel says it
	inside string // where it is in its file system
	signature
}

// Bounds of a search.
const (
	firstDirs   = 100    // that are read before the program starts
	mostDirs    = 1_000  // that are looked at in each pass
	mostHints   = 4_096  // paths
	mostNames   = 1_024  // of one network namespace other than the host's own
	firstSearch = 1_000  // of such a search before the program starts
	searchDirs  = 20_000 // of a search for sockets that are not where they are said to be
	mostSockets = 8_192  // that are looked at in each pass
	mostCovered = 4_096
	mostEntries = 1_000 // directories in one
)

func newFinder(h Host) *finder {
	return &finder{host: h, dirs: map[string]*directory{}, known: map[string]knownFile{}}
}

// pass finds the socket files that have not been judged as they are now, and that a
// process listens at. It reads the directories that have changed.
func (f *finder) pass(ctx context.Context) (files []socketFile, err error) {
	if err := f.begin(mostDirs); err != nil {
		return nil, err
	}
	defer f.mounts.close()
	f.forget()
	f.hint()
	files = f.lookAround(ctx)
	if f.budget > 0 {
		f.lost = f.missing()
	}
	return files, nil
}

// first is a pass before the program starts. Where each socket is at the name that it
// was bound to, and has no other, it does not look around.
func (f *finder) first(ctx context.Context) (files []socketFile, err error) {
	if err := f.begin(firstDirs); err != nil {
		return nil, err
	}
	defer f.mounts.close()
	f.hint()
	for _, at := range f.names {
		if file, ok := f.look(at); ok {
			files = append(files, file)
		}
	}
	whole := f.noDiag == nil && len(f.missing()) == 0
	for _, name := range f.elsewhere {
		_, found := f.known[f.names[name]]
		whole = whole && found
	}
	if _, seen := netOf("/proc/1"); whole && seen { // else there may be others
		return files, nil
	}
	f.judge(files)
	if lost := f.missing(); len(lost) > 0 {
		f.more = search(f.host, lost, firstSearch)
	}
	return append(files, f.lookAround(ctx)...), nil
}

func (f *finder) begin(dirs int) (err error) {
	if f.mounts, err = readMounts("self"); err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	f.mounts.trust(append(f.host.homes(), f.host.Dir))
	f.budget = dirs
	return nil
}

// lookAround looks at what is at the names, beside them, and where else sockets live.
// What the program could fill with directories and sockets of its own comes last.
func (f *finder) lookAround(ctx context.Context) (files []socketFile) {
	f.seen, f.order, f.flooded = map[string]bool{}, nil, false
	var beside []place
	paths := map[string]bool{}
	look := func(name string) {
		if paths[name] || name == "" {
			return
		}
		if len(paths) == mostSockets {
			f.flooded = true
			return
		}
		paths[name] = true
		if file, ok := f.look(name); ok {
			files = append(files, file)
		}
	}
	for _, at := range f.names {
		if at != "" {
			beside = append(beside, place{filepath.Dir(at), 1})
			look(at) // its directory may be one to be searched, and not read
		}
	}
	for _, dir := range f.more {
		beside = append(beside, place{dir, 0})
	}
	f.walk(ctx, beside)
	f.walk(ctx, []place{{"/run", 5}})
	f.walk(ctx, f.host.places())
	maps.DeleteFunc(f.dirs, func(name string, _ *directory) bool { return !f.seen[name] })
	for _, name := range f.order {
		for _, s := range f.dirs[name].sockets {
			look(filepath.Join(name, s))
		}
	}
	maps.DeleteFunc(f.known, func(name string, _ knownFile) bool { return !paths[name] })
	return files
}

// missing are sockets that are bound to a file of which not every name was found. Some
// have none any more.
func (f *finder) missing() map[inode]bool {
	found, links, here := map[inode]uint64{}, map[inode]uint64{}, map[uint64]bool{}
	for _, k := range f.known {
		found[k.of]++
		links[k.of] = k.links
	}
	for _, m := range f.mounts.list {
		here[m.dev] = true
	}
	lost := map[inode]bool{}
	for _, s := range f.bound {
		if here[s.dev] && found[s.inode] < max(1, links[s.inode]) {
			lost[s.inode] = true
		}
	}
	return lost
}

// look looks at a file: ok if it is a socket that somebody listens at, and that has
// not been judged.
func (f *finder) look(name string) (file socketFile, ok bool) {
	fd, on, err := f.mounts.openFile(name, unix.O_PATH)
	if err != nil {
		return file, false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return file, false
	}
	k := f.known[name]
	if k.judged && k.signature == signatureOf(&st) {
		return file, false
	}
	k = knownFile{signature: signatureOf(&st), of: inode{on.dev, uint32(st.Ino)}, links: uint64(st.Nlink)}
	if !listens(fd) {
		k.judged = !fresh(&st) // else it may be about to be bound
		f.known[name] = k
		return file, false
	}
	f.known[name] = k
	return socketFile{path: name, of: k.of, inside: on.inside(name), signature: k.signature}, true
}

// judge says that these files need not be looked at again while they are as they were.
func (f *finder) judge(files []socketFile) {
	for _, s := range files {
		if k, ok := f.known[s.path]; ok && k.signature == s.signature {
			k.judged = true
			f.known[s.path] = k
		}
	}
}

// stillListens tells whether a file that was found is still one that is listened at.
func (f *finder) stillListens(s socketFile) bool {
	fd, _, err := f.mounts.openFile(s.path, unix.O_PATH)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	defer f.mounts.close()
	return listens(fd)
}
