package source

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"appfw/policy"
)

// watched is a policy that is watched in a bubble of synctest: time passes only where
// the test says so.
type watched struct {
	*testing.T
	dir    string
	source *Source
	asked  chan struct{}

	mu      sync.Mutex // the test has it but where time passes
	current *Loaded
	theirs  map[string]bool // paths that those who are judged may write to
	events  []string        // what was read, and said, since they were looked at
}

// watching runs the test with a policy that includes the file "policy" of a directory
// in which files are; without files, the policy is one line.
func watching(t *testing.T, files map[string]string, test func(w *watched)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &watched{T: t, dir: t.TempDir(), asked: make(chan struct{}, 1), theirs: make(map[string]bool)}
		for name, text := range files {
			w.write(name, text)
		}
		line := policy.Line{Word: "policy", Arg: w.path("policy"), Pos: policy.Pos{File: "--policy"}}
		if files == nil {
			line = policy.Line{Word: "allow", Arg: "a.example", Pos: policy.Pos{File: "--allow"}}
		}
		w.source = &Source{Lines: []policy.Line{line}, Writers: Writers{
			own: func(string, *unix.Stat_t) bool { return false },
			may: func(path string) bool { w.mu.Lock(); defer w.mu.Unlock(); return w.theirs[path] },
		}}
		first, err := w.source.Load()
		if err != nil {
			t.Fatal(err)
		}
		w.current = first
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			w.source.Watch(ctx, first, w.asked, w.reload, w.say)
			close(ended)
		}()
		time.Sleep(settle / 2) // looks are between what the test does
		w.mu.Lock()
		test(w)
		w.mu.Unlock()
		cancel()
		<-ended
	})
}

func (w *watched) path(name string) string { return filepath.Join(w.dir, name) }

func (w *watched) write(name, text string) {
	w.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
}

func (w *watched) say(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, text)
}

func (w *watched) reload() *Loaded {
	w.mu.Lock()
	defer w.mu.Unlock()
	next, err := w.source.Load()
	if err != nil {
		w.events = append(w.events, "mistake")
		return w.current
	}
	w.events = append(w.events, "read")
	w.current = next
	return next
}

// after lets so many looks pass, and compares what happened.
func (w *watched) after(looks float64, want ...string) {
	w.Helper()
	w.mu.Unlock()
	time.Sleep(time.Duration(looks * float64(settle)))
	synctest.Wait()
	w.mu.Lock()
	for i, e := range w.events {
		w.events[i] = strings.ReplaceAll(e, w.dir+"/", "")
	}
	if !slices.Equal(w.events, want) {
		w.Fatalf("after %v looks: %q, want %q", looks, w.events, want)
	}
	w.events = nil
}

func (w *watched) allows(name policy.Name) bool { return w.current.Policy.DecideName(name).Allowed() }

func TestWatchReadsWhatChanged(t *testing.T) {
	watching(t, map[string]string{"policy": "allow a.example\n"}, func(w *watched) {
		w.after(100)
		w.write("policy", "allow a.example\nallow b.example\n")
		w.after(1)         // it has changed,
		w.after(1, "read") // and stayed so
		w.after(100)
		if !w.allows("b.example") {
			w.Error("what was added is not in force")
		}
	})
}

func TestWatchWaitsForTheLastWrite(t *testing.T) {
	watching(t, map[string]string{"policy": "allow a.example\n"}, func(w *watched) {
		for i := range 10 {
			w.write("policy", "allow a.example\n"+strings.Repeat("# half of it\n", i))
			w.after(1)
		}
		w.after(1, "read")
	})
}

// However often somebody asks, the policy is read once, as long after the first time as
// files need to settle.
func TestWatchReadsOnceOnAsking(t *testing.T) {
	watching(t, map[string]string{"policy": "allow a.example\n"}, func(w *watched) {
		for range 3 {
			w.asked <- struct{}{}
			w.after(0.3)
		}
		w.after(0.2, "read")
		w.after(100)
	})
}

// Whoever has changed a file and asks does not wait for the look that would have seen
// the change.
func TestWatchReadsSoonOnAsking(t *testing.T) {
	watching(t, map[string]string{"policy": "allow a.example\n"}, func(w *watched) {
		w.write("policy", "allow a.example\nallow b.example\n")
		w.asked <- struct{}{}
		w.after(1, "read")
		w.after(100)
	})
}

// What is written just after is not read at once, either.
func TestWatchSettlesOnAsking(t *testing.T) {
	watching(t, map[string]string{"policy": "allow a.example\n"}, func(w *watched) {
		w.asked <- struct{}{}
		synctest.Wait()
		w.write("policy", "allow a.example\nallow b.example\n")
		w.after(1)
		w.after(1, "read")
		w.after(100)
	})
}

func TestWatchWithoutFiles(t *testing.T) {
	watching(t, nil, func(w *watched) {
		w.after(100)
		w.asked <- struct{}{}
		w.after(2, "there is no file to read the policy anew from; it is all on the command line")
		w.after(100)
	})
}

// With a mistake in it, a file is tried again when it has changed, or on asking.
func TestWatchMistake(t *testing.T) {
	watching(t, map[string]string{"policy": "allow a.example\n"}, func(w *watched) {
		w.write("policy", "alow\n")
		w.after(2, "mistake")
		w.after(100)
		w.asked <- struct{}{}
		w.after(2, "mistake")
		w.write("policy", "allow b.example\n")
		w.after(2, "read")
		if w.allows("a.example") || !w.allows("b.example") {
			w.Error("what was mended is not in force")
		}
	})
}

// The files of what is in force are watched: those that it has come to name, too.
func TestWatchFollowsFiles(t *testing.T) {
	watching(t, map[string]string{"policy": "allow a.example\n", "more": "allow b.example\n"}, func(w *watched) {
		w.write("more", "allow b.example\n\n")
		w.after(100)
		w.write("policy", "policy more\n")
		w.after(2, "read")
		w.write("more", "allow c.example\n\n\n")
		w.after(2, "read")
		if !w.allows("c.example") {
			w.Error("what was included is not in force")
		}
		w.write("policy", "allow a.example\n\n\n\n")
		w.after(2, "read")
		w.write("more", "allow b.example\n\n\n\n\n")
		w.after(100)
	})
}

// A file that those could change who are judged by it is read once. That is said once
// of changes, and whenever somebody asks.
func TestWatchTheirs(t *testing.T) {
	watching(t, map[string]string{"policy": "allow a.example\n"}, func(w *watched) {
		const said = "the policy was not read anew: the program itself could change policy"
		w.theirs[w.path("policy")] = true
		w.after(100)
		w.write("policy", "allow any\n")
		w.after(2, said)
		w.after(100)
		w.write("policy", "allow any\n\n")
		w.after(100)
		w.asked <- struct{}{}
		w.after(2, said)
		if w.allows("b.example") {
			w.Error("the program has changed its policy")
		}
		// It is read when it is theirs no more.
		delete(w.theirs, w.path("policy"))
		w.after(1, "read")
	})
}

func TestWatchMissing(t *testing.T) {
	watching(t, map[string]string{"policy": "allow a.example\n"}, func(w *watched) {
		if err := os.Remove(w.path("policy")); err != nil {
			w.Fatal(err)
		}
		w.after(2, "the policy was not read anew: policy is not there")
		w.after(100)
		w.write("policy", "allow b.example\n\n")
		w.after(2, "read")
	})
}
