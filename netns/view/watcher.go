package view

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"

	"golang.org/x/sys/unix"

	"appfw/netns"
)

// watcher looks again and again.
type watcher struct {
	*Guard
	program  Network
	inside   func(func() error) error
	devices  signature
	searched map[inode]bool // what was lost when all was searched
	search   chan []string  // of a search that goes on; nil: none does
}

// look covers what is new.
func (w *watcher) look(ctx context.Context) error {
	files, err := w.find.pass(ctx)
	if err != nil {
		return fmt.Errorf("look for the host's sockets: %w", err)
	}
	var theirs []socketFile
	if len(files) > 0 {
		own, err := w.own()
		if err != nil {
			return fmt.Errorf("tell the program's sockets from the host's: %w", err)
		}
		for _, s := range files {
			if !own[s.of] && w.find.stillListens(s) { // else it was the program's perhaps, which has ended
				theirs = append(theirs, s)
			}
		}
		if err := w.inside(func() error { return w.mount.coverSockets(theirs) }); err != nil {
			return err
		}
		w.find.judge(files)
	}
	w.searchOut()
	if w.find.flooded {
		return errors.New("look at all Unix sockets that there are: they are too many")
	}
	if now := signatureOfDev(); now != w.devices {
		w.devices = now
		return w.inside(w.coverDevices)
	}
	return nil
}

// searchOut has all of the host's files searched when a socket is lost that was not.
func (w *watcher) searchOut() {
	select {
	case dirs := <-w.search:
		w.find.more = append(w.find.more, dirs...)
		w.find.more = w.find.more[max(0, len(w.find.more)-mostHints):]
		w.search = nil
	default:
	}
	if w.search != nil || subset(w.find.lost, w.searched) {
		return
	}
	w.searched = maps.Clone(w.find.lost)
	w.search = make(chan []string, 1)
	go func(done chan<- []string) { done <- searchOut(w.host, w.searched) }(w.search)
}

func subset(a, b map[inode]bool) bool {
	for i := range a {
		if !b[i] {
			return false
		}
	}
	return true
}

// own are the sockets that processes of the run are bound to: those of its network
// namespace, and of namespaces that they have made.
func (w *watcher) own() (map[inode]bool, error) {
	own := map[inode]bool{}
	list := func() error {
		bound, err := boundSockets()
		for _, s := range bound {
			own[s.inode] = true
		}
		return err
	}
	if err := w.program.Do(list); err != nil {
		return nil, err
	}
	for _, process := range w.find.namespaces() {
		file, err := os.Open(process + "/ns/net")
		if err != nil {
			continue // not of the run
		}
		if owner, err := unix.IoctlRetInt(int(file.Fd()), unix.NS_GET_USERNS); err == nil {
			// It belongs to this process's user namespace or one below, in which the
			// run's processes alone are. Those of appfw's own have no such sockets.
			_ = unix.Close(owner)
			done := make(chan error)
			netns.OnThread(func() {
				err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
				if err == nil {
					err = list()
				}
				done <- err
			})
			<-done // without it, what is theirs is covered
		}
		file.Close()
	}
	for _, s := range w.find.bound {
		delete(own, s.inode) // the kernel tells half of a number: it may be another's, too
	}
	return own, nil
}

// signatureOfDev changes when a device appears.
func signatureOfDev() signature {
	var st unix.Stat_t
	_ = unix.Stat("/dev", &st)
	return signatureOf(&st)
}

// coverDevices covers those that are new.
func (w *watcher) coverDevices() error {
	files, dirs := deviceFiles()
	for _, path := range append(files, dirs...) {
		if err := w.mount.blockNew(path); err != nil {
			return fmt.Errorf("close %s: %w", path, err)
		}
	}
	return nil
}
