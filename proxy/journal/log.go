package journal

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"appfw/policy"
)

// OpenLog opens a file for a log, to be added to. Of a FIFO it waits for who reads.
func OpenLog(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// log writes records to a file. It belongs to the goroutine that does so.
type log struct {
	file *os.File
	path string // by which it can be opened anew; "" if it cannot
	run  string
	torn bool // a part of a line was written last
	lost int  // how many records could not be written, which the log does not say yet
	// fail is told of what could not be written: how many records, and why.
	fail func(records int, err error)
	say  func(string) // tells people
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
	if l.torn {
		if n, err := write(l.file, []byte("\n")); n == 0 {
			return err
		}
		l.torn = false
	}
	n, err := write(l.file, line)
	l.torn = n > 0 && n < len(line)
	return err
}

// reopen opens the log anew: what rotates logs has moved it away (logrotate(8)).
func (l *log) reopen() {
	if l.path == "" {
		return
	}
	file, err := reopen(l.path)
	if err != nil {
		l.say("--log goes on in the file that was open: " + policy.Printable(err.Error(), 0))
		return
	}
	l.close()
	l.file, l.torn = file, false
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

// reopen opens a log that is rotated. Whoever moved it may be another user than
// this process's: it is not to be led elsewhere, nor to wait for somebody to read.
func reopen(name string) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Sys().(*syscall.Stat_t).Nlink > 1) {
		err = fmt.Errorf("%s is not a file of its own", name)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}
