package journal

import "time"

const (
	// foldAfter is how many denials that say the same are recorded one by one within
	// foldTime. Those that follow in that time are one record, with their number.
	foldAfter = 16
	foldTime  = time.Minute
	// maxFolded bounds what is remembered of denials. For more, all are told, and it
	// begins anew.
	maxFolded = 4096
)

// folds are the denials of late, by what they are about: a program that tries the same again
// and again is not to fill a disk.
type folds struct {
	of    map[string]*fold
	waits bool // something is not recorded yet
}

type fold struct {
	began time.Time
	last  Record // of those that are not recorded yet
	times int    // how often it happened
	left  int    // of which so many are not recorded yet
}

// add takes in a denial, and returns what is to be recorded for it: nothing if it is folded.
func (f *folds) add(about string, rec Record) (due []Record) {
	seen := f.of[about]
	if seen != nil && rec.Time.Sub(seen.began) >= foldTime {
		due = seen.tell(due)
		seen = nil
	}
	if seen == nil {
		if len(f.of) >= maxFolded {
			due = append(due, f.end()...)
		}
		seen = &fold{began: rec.Time}
		f.of[about] = seen
	}
	n := max(rec.Count, 1)
	if seen.times += n; seen.times <= foldAfter {
		return append(due, rec)
	}
	seen.last, seen.left, f.waits = rec, seen.left+n, true
	return due
}

// tell appends the record of what is not recorded yet, if there is such.
func (f *fold) tell(due []Record) []Record {
	if f.left == 0 {
		return due
	}
	rec := f.last
	if rec.Count, rec.Flow = f.left, 0; f.left == 1 {
		rec.Count = 0
	}
	f.left = 0
	return append(due, rec)
}

// late forgets those whose time is over, and returns what is to be recorded of them.
func (f *folds) late(now time.Time) (due []Record) {
	f.waits = false
	for about, seen := range f.of {
		if now.Sub(seen.began) >= foldTime {
			due = seen.tell(due)
			delete(f.of, about)
		}
		f.waits = f.waits || seen.left > 0
	}
	return due
}

// end forgets all, and returns what is to be recorded.
func (f *folds) end() (due []Record) {
	for _, seen := range f.of {
		due = seen.tell(due)
	}
	clear(f.of)
	f.waits = false
	return due
}
