package journal

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// unread is a pipe that is full, as the kernel gives it to shells: a write to it waits.
func unread(t *testing.T) (r, w *os.File) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := unix.Write(fds[1], []byte(strings.Repeat(".", 512)+"\n")); err == unix.EAGAIN {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for {
		if _, err := unix.Write(fds[1], []byte("\n")); err != nil {
			break
		}
	}
	if err := unix.SetNonblock(fds[1], false); err != nil {
		t.Fatal(err)
	}
	r, w = os.NewFile(uintptr(fds[0]), "reader"), os.NewFile(uintptr(fds[1]), "writer")
	t.Cleanup(func() { r.Close() }) // which ends writes
	return r, w
}

// readLines reads lines until the other end is closed, and leaves out what filled the pipe.
func readLines(r io.Reader) []string {
	b, _ := io.ReadAll(r)
	var lines []string
	for line := range strings.Lines(string(b)) {
		if strings.Trim(line, ".\n") != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// failing is a log that notes what goes wrong.
type failing struct {
	log
	records int
	errs    []error
	said    []string
}

func newLog(file *os.File, path string) *failing {
	f := &failing{log: log{file: file, path: path, run: "r"}}
	f.fail = func(n int, err error) { f.records += n; f.errs = append(f.errs, err) }
	f.say = func(text string) { f.said = append(f.said, text) }
	return f
}

// words is a record with a reason.
func words(reason string) Record { return Record{Event: "reload", Reason: reason} }

// reasons are those of lines.
func reasons(lines string) string {
	var list []string
	for line := range strings.Lines(lines) {
		_, after, _ := strings.Cut(line, `"reason":"`)
		reason, _, _ := strings.Cut(after, `"`)
		if _, count, ok := strings.Cut(line, `"count":`); ok {
			count, _, _ = strings.Cut(count, ",")
			reason += " " + count
		}
		list = append(list, reason)
	}
	return strings.Join(list, ", ")
}

// What could not be written is said in the log when that is possible again, on a line
// of its own.
func TestLogGoesOn(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(mode int) *os.File {
		t.Helper()
		f, err := os.OpenFile(fifo, mode|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	r := open(os.O_RDONLY)
	l := newLog(open(os.O_WRONLY), "")
	l.write(words("one"))
	r.Close()
	l.write(words("two"))
	l.write(Record{Event: "decision", Reason: "three", Count: 5})
	l.write(Record{Event: "dropped", Reason: "four", Count: 10})
	r = open(os.O_RDONLY)
	l.torn = true
	l.write(words("five"))
	l.close()
	b, err := io.ReadAll(r)
	if got := reasons(string(b)); got != "one, , they could not be written 16, five" || err != nil || l.torn {
		t.Errorf("%s, %v", got, err)
	}
	if l.records != 6 || len(l.errs) != 3 || !errors.Is(l.errs[0], unix.EPIPE) || len(l.said) != 0 { // what was dropped is counted elsewhere
		t.Errorf("%d records; %v; %v", l.records, l.errs, l.said)
	}
	r.Close()
}

// The app may make the pipe that it shares non-blocking. Lines stay whole.
func TestLogNonblocking(t *testing.T) {
	r, w := unread(t)
	l := newLog(w, "")
	if err := unix.SetNonblock(int(w.Fd()), true); err != nil { // behind the back of package os
		t.Fatal(err)
	}
	read := make(chan []string)
	go func() { read <- readLines(r) }()
	long := strings.Repeat("x", 1<<17)
	for range 3 {
		l.write(words(long))
	}
	l.close()
	lines := <-read
	for _, line := range lines {
		if reasons(line) != long {
			t.Errorf("%d bytes", len(line))
		}
	}
	if len(lines) != 3 || len(l.errs) != 0 {
		t.Errorf("%d lines; %v", len(lines), l.errs)
	}
}

// A log that was moved away is made anew. What is no file of its own in its place is
// not written to, and not waited for.
func TestLogReopen(t *testing.T) {
	dir := t.TempDir()
	path, elsewhere := filepath.Join(dir, "log"), filepath.Join(dir, "elsewhere")
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return reasons(string(b))
	}
	if err := os.WriteFile(elsewhere, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	l := newLog(file, path)
	l.write(words("one"))
	l.reopen() // nobody moved it
	l.write(words("two"))
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.write(words("three"))
	l.torn = true
	l.reopen()
	l.write(words("four"))
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if one, two := read(path+".1"), read(path); one != "one, two, three" || two != "four" {
		t.Errorf("%q, then %q", one, two)
	}
	if err := os.Rename(path, path+".2"); err != nil {
		t.Fatal(err)
	}
	fifo := func() error { return unix.Mkfifo(path, 0o666) }
	for what, place := range map[string]func() error{
		"a FIFO": fifo,
		"a FIFO that is read": func() error {
			if err := fifo(); err != nil {
				return err
			}
			r, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err == nil {
				t.Cleanup(func() { r.Close() })
			}
			return err
		},
		"a link":        func() error { return os.Symlink(elsewhere, path) },
		"a broken link": func() error { return os.Symlink(filepath.Join(dir, "nowhere"), path) },
		"a hard link":   func() error { return os.Link(elsewhere, path) },
		"a directory":   func() error { return os.Mkdir(path, 0o700) },
	} {
		if err := place(); err != nil {
			t.Fatal(err)
		}
		l.said = nil
		l.reopen()
		l.write(words(what))
		if len(l.said) != 1 || !strings.HasPrefix(l.said[0], "--log goes on in the file that was open: ") {
			t.Errorf("%s: %q", what, l.said)
		}
		if !strings.HasSuffix(read(path+".2"), ", "+what) {
			t.Errorf("%s: %s", what, read(path+".2"))
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if text := read(elsewhere); text != "" {
		t.Errorf("it was led elsewhere: %s", text)
	}
	if _, err := os.Lstat(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("it made a file elsewhere")
	}
	l.close()
	if len(l.errs) != 0 {
		t.Error(l.errs)
	}
	newLog(os.Stderr, "").reopen() // it has no path
	newLog(os.Stderr, "").close()
	if _, err := os.Stderr.Stat(); err != nil {
		t.Error("stderr is closed")
	}
}
