package journal

import (
	"os"
	"time"

	"appfw/policy"
)

// log writes records to a file. It belongs to the goroutine that does so.
type log struct {
	file *os.File
	path string // by which it can be opened anew; "" if it cannot
	run  string
	torn bool  // a part of a line was written last
	lost int   // how many records could not be written, which the log does not say yet
	max  int64 // bytes that are written at most, in this file; 0: any number
	size int64 // bytes that were
	over lost  // what was left out as it would have been more
	// fail is told of what could not be written: how many records, and why.
	fail func(records int, err error)
	say  func(string) // tells people
}

// forDenials is the part of a bounded log that denials may take: whatever is denied, there
// is room for what was allowed.
const forDenials = 0.75

// full tells whether a record is left out, as the log would be larger than it may.
func (l *log) full(rec Record, line []byte) bool {
	room := l.max
	if rec.Verdict == "deny" {
		room = int64(float64(room) * forDenials)
	}
	return l.max != 0 && l.size+int64(len(line)) > room && rec.Event != "dropped"
}

// left counts a record that was left out; the log says so at once, and in the end how many.
func (l *log) left(rec Record) {
	first := l.over == lost{}
	if rec.Verdict == "deny" {
		l.over.denials += max(rec.Count, 1)
	} else {
		l.over.others += max(rec.Count, 1)
	}
	if first {
		l.write(Record{Time: rec.Time, Event: "dropped", Reason: atBound})
	}
}

const atBound = "the log is as large as it may be (--log-max)"

// end says what was left out.
func (l *log) end(now time.Time) {
	if l.over != (lost{}) {
		l.write(Record{Time: now, Event: "dropped", Reason: atBound, Count: l.over.denials + l.over.others})
	}
}

// write writes a record, and before it how many could not be written.
func (l *log) write(rec Record) {
	if l.lost > 0 {
		said := l.line(Record{Time: rec.Time, Event: "dropped", Reason: "they could not be written", Count: l.lost})
		if said == nil {
			l.lost = 0
		}
	}
	if err := l.line(rec); err != nil {
		l.lost += max(rec.Count, 1)
		if rec.Event == "dropped" { // those have been counted
			l.fail(0, err)
		} else {
			l.fail(max(rec.Count, 1), err)
		}
	}
}

// line writes one line.
func (l *log) line(rec Record) error {
	rec.Run = l.run
	line, err := rec.line()
	if err != nil {
		return err
	}
	if l.full(rec, line) {
		l.left(rec)
		return nil
	}
	if l.torn {
		if n, err := write(l.file, []byte("\n")); n == 0 {
			return err
		}
		l.torn = false
	}
	n, err := write(l.file, line)
	l.size += int64(n)
	l.torn = n > 0 && n < len(line)
	return err
}

// reopen opens the log anew: what rotates logs has moved it away (logrotate(8)).
func (l *log) reopen() {
	if l.path == "" {
		return
	}
	file, err := openOwn(l.path, leadsElsewhere(l.path))
	if err != nil {
		l.say("--log goes on in the file that was open: " + policy.Printable(err.Error(), 0))
		return
	}
	l.close()
	l.file, l.torn, l.size = file, false, 0
}

// close closes the file, unless it is stderr.
func (l *log) close() {
	if l.file == os.Stderr {
		return
	}
	if err := l.file.Close(); err != nil {
		l.fail(0, err)
	}
}
