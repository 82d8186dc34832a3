package source

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"
)

// settle is how long files have to stay the same before they are read, also when it is
// asked for: what is being written may lack the half that denies.
const settle = time.Second

// Watch calls reload whenever a file of the policy in force, which is first's to begin
// with, has changed, and when it is asked to, until ctx ends. Reload returns what is in
// force then; it is what was before if there is a mistake in the files, which are not
// tried again until they change. Say is told, as a sentence for people, why nothing is
// read. Both are called by this goroutine alone.
func (s *Source) Watch(ctx context.Context, first *Loaded, asked <-chan struct{}, reload func() *Loaded, say func(text string)) {
	w := watch{writers: s.Writers, reload: reload, say: say, loaded: first, read: first.stamps, last: first.stamps}
	tick := time.NewTicker(settle)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			w.look()
		case <-asked:
			if !w.wanted { // however often it is asked
				w.ask()
				tick.Reset(settle)
			}
		case <-ctx.Done():
			return
		}
	}
}

// watch is what is known of the files between two looks at them.
type watch struct {
	writers Writers
	reload  func() *Loaded
	say     func(text string)

	loaded *Loaded // in force
	read   string  // stamps of its files when they were read, be it with a mistake
	last   string  // and at the last look
	wanted bool    // they are to be read though they are the same
	told   bool    // it was said that what changes is not read
}

// ask has the files read as soon as they have stayed the same for a while from now on.
func (w *watch) ask() {
	w.wanted = true
	w.last = stamps(w.loaded.files...)
}

// look looks at the files, and does what there is to do.
func (w *watch) look() {
	files := w.loaded.files
	now := stamps(files...)
	path, theirs := w.writers.couldChange(files)
	switch {
	case now != w.last: // not settled
	case len(files) == 0 && w.wanted:
		w.say("there is no file to read the policy anew from; it is all on the command line")
		w.wanted = false
	case theirs && (w.wanted || now != w.read && !w.told):
		why := "the program itself could change " + path
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			why = path + " is not there"
		}
		w.say("the policy was not read anew: " + why)
		w.wanted, w.told = false, true
	case !theirs && (w.wanted || now != w.read):
		w.wanted, w.read = false, now
		if next := w.reload(); next != w.loaded {
			w.loaded, w.read = next, next.stamps
			now = stamps(next.files...)
		}
	}
	w.last = now
}
