package view

import (
	"maps"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// searchOut looks for sockets everywhere, at the lowest priority, and returns the
// directories that hold any. It is for sockets that were bound where no name tells:
// to a relative one, in another mount namespace; or that were moved or linked since.
func searchOut(h Host, lost map[inode]bool) (dirs []string) {
	done := make(chan bool)
	go func() {
		defer close(done)
		runtime.LockOSThread() // the priority is the thread's, which ends with this
		if unix.Gettid() != unix.Getpid() {
			_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 19)
		} else {
			defer runtime.UnlockOSThread()
		}
		dirs = search(h, lost, searchDirs)
	}()
	<-done
	return dirs
}

// wide are directories of the system's software, where nobody makes sockets.
var wide = map[string]bool{"/usr": true, "/boot": true, "/nix": true, "/snap": true, "/etc": true, "/lib/modules": true}

// search is searchOut, of the given number of directories, on this thread. It ends
// when all is found.
func search(h Host, lost map[inode]bool, most int) (dirs []string) {
	ms, err := readMounts("self")
	if err != nil {
		return nil
	}
	defer ms.close()
	ms.trust(append(h.homes(), h.Dir))
	devs := map[uint64]bool{}
	for i := range lost {
		devs[i.dev] = true
	}
	roots := append(h.homes(), "/tmp", "/var/tmp", "/srv", "/opt", "/var")
	for _, m := range ms.list {
		if devs[m.dev] && ms.walkable(&m) {
			roots = append(roots, m.at)
		}
	}
	seen, pending := map[string]bool{}, maps.Clone(lost)
	for i, root := range roots {
		share := most / 2 // a home is searched first, and leaves something for the others
		if i >= len(h.homes()) {
			share = most - len(seen)
		}
		queue := []string{root}
		for n := 0; n < len(queue) && n < share && len(seen) < most && len(pending) > 0; n++ {
			name := queue[n]
			if m := ms.of(name); seen[name] || wide[name] || barren[name] || m == nil || !devs[m.dev] {
				continue
			}
			seen[name] = true
			fd, on, err := ms.openFile(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK)
			if err != nil {
				continue
			}
			sockets, subs := entries(fd)
			for _, s := range sockets {
				var st unix.Stat_t
				if unix.Fstatat(fd, s, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Nlink == 1 {
					delete(pending, inode{on.dev, uint32(st.Ino)})
				}
			}
			_ = unix.Close(fd)
			if len(sockets) > 0 {
				dirs = append(dirs, name)
			}
			for _, sub := range subs[:min(len(subs), max(0, most-len(queue)))] {
				queue = append(queue, filepath.Join(name, sub))
			}
		}
	}
	return dirs
}
