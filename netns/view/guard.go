package view

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"appfw/netns"
)

// Guard is a view that is kept while the program runs. Its methods are called in the
// order Show, Mount, Run.
type Guard struct {
	host  Host
	find  *finder
	first chan found // of the search that Watch has begun
	shown []string

	mount *mounter
	space *os.File // the mount namespace
}

type found struct {
	files   []socketFile
	configs map[string][]byte // that are to be the user's, by path
	err     error
}

// Events are what a Guard tells. They are called one at a time.
type Events struct {
	// Missing says that there is nothing that a word of [Share] would show.
	Missing func(word string)
	// Asked says that the program asked for what a word of [Share] would show, or for a
	// socket, by its path, that it may need; once for each.
	Asked func(word string)
	// Unseen says that the program has made a file, or a socket, that nobody else sees;
	// once for each directory.
	Unseen func(path string)
	// Failed says that something of the host is open from now on. Each error is
	// said once.
	Failed func(error)
}

// Watch begins to look for the host's sockets.
func Watch(h Host) *Guard {
	g := &Guard{host: h, find: newFinder(h), first: make(chan found, 1)}
	go func() {
		g.find.awaken()
		files, err := g.find.first(context.Background())
		g.first <- found{files, g.find.sshFiles(), err}
	}()
	return g
}

// Show says which sockets the program is to see all the same, by their paths.
func (g *Guard) Show(paths []string) { g.shown = paths }

// patience is how long a search may take that is usually done in milliseconds: a file
// system that hangs is no reason to start without it.
const patience = 10 * time.Second

// Mount is [View.Mount] of the view that the program has of the host, with all that
// was found.
func (g *Guard) Mount() error {
	var f found
	select {
	case f = <-g.first:
	case <-time.After(patience):
		f.err = errors.New("a file system does not answer")
	}
	if f.err != nil {
		return fmt.Errorf("look for the host's sockets: %w", f.err)
	}
	v := Of(g.host, g.shown)
	for name, content := range f.configs {
		v.Files[name] = content
	}
	var err error
	if g.mount, err = v.mount(f.files); err != nil {
		return err
	}
	g.find.judge(f.files)
	g.space, err = os.Open("/proc/thread-self/ns/mnt")
	return err
}

// Network is the program's network namespace.
type Network interface {
	// Do runs a function on a thread that is in it.
	Do(fn func() error) error
}

// Run covers what appears, until ctx is done. It looks once a second, or more rarely
// where that takes long.
func (g *Guard) Run(ctx context.Context, program Network, events Events) {
	events, end := oneAtATime(events)
	defer end()
	for _, word := range g.host.missing() {
		events.Missing(word)
	}
	defer g.mount.forget()
	go func() { // a file system may hang
		if err := g.keep(ctx, program, events); err != nil {
			events.Failed(err)
		}
	}()
	for tick := time.NewTicker(time.Second); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			g.tell(events)
			return
		case <-tick.C:
			g.tell(events)
		}
	}
}

// tell says what the program has asked for and made by now.
func (g *Guard) tell(events Events) {
	for _, dir := range g.mount.privates {
		if name := dir.new(); name != "" {
			events.Unseen(name)
		}
	}
	g.mount.decoys = slices.DeleteFunc(g.mount.decoys, func(d decoy) bool {
		asked := d.asked()
		if asked {
			events.Asked(d.word)
		}
		return asked
	})
}

// oneAtATime says nothing twice, nothing at the same time, and nothing after end.
func oneAtATime(e Events) (once Events, end func()) {
	var mu sync.Mutex
	said, ended := map[string]bool{}, false
	first := func(key string, say func()) {
		mu.Lock()
		defer mu.Unlock()
		if !said[key] && !ended {
			said[key] = true
			say()
		}
	}
	once = Events{
		Missing: func(word string) { first("missing "+word, func() { e.Missing(word) }) },
		Asked:   func(word string) { first("asked "+word, func() { e.Asked(word) }) },
		Unseen:  func(path string) { first("unseen "+filepath.Dir(path), func() { e.Unseen(path) }) },
		Failed:  func(err error) { first("failed "+err.Error(), func() { e.Failed(err) }) },
	}
	return once, func() {
		mu.Lock()
		defer mu.Unlock()
		ended = true
	}
}

// keep covers what appears.
func (g *Guard) keep(ctx context.Context, program Network, events Events) error {
	defer g.space.Close()
	if !g.mount.stays {
		return errors.New("cover sockets that appear during the run: there is no /run")
	}
	if err := program.Do(func() error { _, err := boundSockets(); return err }); err != nil {
		// Covered would be what the program's own processes listen at.
		return fmt.Errorf("cover sockets that appear during the run: this kernel does not tell whose they are (CONFIG_UNIX_DIAG): %w", err)
	}
	inside, err := g.enter(ctx)
	if err != nil {
		return fmt.Errorf("cover sockets that appear during the run: %w", err)
	}
	g.find.skip = networkOf(program)
	g.find.watchDirs()
	defer g.find.close()
	w := &watcher{Guard: g, program: program, inside: inside, devices: signatureOfDev()}
	wait := time.Second
	if g.find.budget == 0 { // it was not all that is to be looked at
		wait = 0
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		started := time.Now()
		if err := w.look(ctx); err != nil {
			events.Failed(err)
		}
		wait = max(time.Second, 20*time.Since(started))
	}
}

// enter starts a thread in the program's mount namespace, until ctx is done, and
// returns how to run a function on it. This process's other threads are in the host's.
func (g *Guard) enter(ctx context.Context) (inside func(func() error) error, err error) {
	entered, calls, results := make(chan error), make(chan func() error), make(chan error)
	netns.OnThread(func() {
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Setns(int(g.space.Fd()), unix.CLONE_NEWNS)
		}
		entered <- err
		for err == nil {
			select {
			case call := <-calls:
				results <- call()
			case <-ctx.Done():
				return
			}
		}
	})
	if err := <-entered; err != nil {
		return nil, fmt.Errorf("enter the app's mount namespace: %w", err)
	}
	return func(call func() error) error {
		select {
		case calls <- call:
			return <-results
		case <-ctx.Done():
			return nil
		}
	}, nil
}

// networkOf is a function that tells the program's network namespace, as netOf does.
func networkOf(program Network) func(net uint64) bool {
	var own uint64
	_ = program.Do(func() error { own, _ = netOf("/proc/thread-self"); return nil })
	return func(net uint64) bool { return net == own }
}
