package journal

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// of counts what is in lines of a log: how many say the same denial, and how often in all.
func denials(t *testing.T, text string) (lines, times int) {
	t.Helper()
	for line := range strings.Lines(text) {
		var rec Record
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		if rec.Verdict == "deny" {
			lines++
			times += max(rec.Count, 1)
		}
	}
	return lines, times
}

// A program that is denied the same again and again fills no disk, and all are counted.
func TestFolded(t *testing.T) {
	j, log, _ := started(t, Config{})
	j.patient()
	const flood = 20_000
	for range flood {
		j.Flow(denialOf(1).flow)
	}
	j.Flow(denialOf(2).flow)
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	if lines, times := denials(t, said(t, log)); times != flood+1 || lines > foldAfter+1+2 {
		t.Errorf("%d denials in %d lines", times, lines)
	}
}

// What was folded is told when its time is over, and what comes then is told anew.
func TestFolds(t *testing.T) {
	f := folds{of: make(map[string]*fold)}
	at := noon
	add := func(times int) (n int) {
		for range times {
			for _, rec := range f.add("x", Record{Time: at, Verdict: "deny", Flow: 1}) {
				n++
				if rec.Count > 1 && rec.Flow != 0 {
					t.Error("the record of many flows has the number of one")
				}
			}
		}
		return n
	}
	if n := add(foldAfter); n != foldAfter || f.waits {
		t.Errorf("%d, %v", n, f.waits)
	}
	if n := add(3); n != 0 || !f.waits {
		t.Errorf("%d, %v", n, f.waits)
	}
	if due := f.late(at.Add(foldTime - 1)); len(due) != 0 || !f.waits {
		t.Errorf("%+v", due)
	}
	if due := f.late(at.Add(foldTime)); len(due) != 1 || due[0].Count != 3 || f.waits || len(f.of) != 0 {
		t.Errorf("%+v", due)
	}
	add(foldAfter + 1)
	at = at.Add(foldTime)
	if n := add(1); n != 2 { // the one that was folded, and this one
		t.Errorf("%d", n)
	}
	add(foldAfter)
	for i := range maxFolded {
		f.add(strings.Repeat("y", i+1), Record{Time: at, Verdict: "deny"})
	}
	if len(f.of) > maxFolded {
		t.Errorf("%d are remembered", len(f.of))
	}
	if due := f.end(); f.waits || len(f.of) != 0 {
		t.Errorf("%+v", due)
	}
}

// A log grows no larger than it may. Denials leave room for what was allowed, and what was
// left out is said in the log and to people.
func TestLogMax(t *testing.T) {
	const most = 64 << 10
	j, log, stderr := started(t, Config{Max: most, Quiet: true})
	j.patient()
	for i := range 2000 {
		j.Flow(denialOf(i).flow)
	}
	j.Flow(allowedEvent(1))
	if err := j.Close(); err != nil { // no more than denials are missing
		t.Error(err)
	}
	text := said(t, log)
	if !strings.Contains(text, `"verdict":"allow"`) || len(text) > most || len(text) < most/2 {
		t.Errorf("%d bytes", len(text))
	}
	lines, _ := denials(t, text)
	if got, want := said(t, stderr), "appfw: --log lacks "+number(2000-lines, "denial")+": it is as large as it may be (--log-max)\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if n := strings.Count(text, atBound); n != 2 { // when it began, and at the end, with their number
		t.Errorf("it is said %d times", n)
	}

	j, log, stderr = started(t, Config{Max: most, Quiet: true})
	j.patient()
	for i := range 2000 {
		j.Flow(allowedEvent(i))
	}
	if err := j.Close(); err != ErrNotWhole {
		t.Error(err)
	}
	if text := said(t, log); len(text) > most+1000 {
		t.Errorf("%d bytes", len(text))
	}
	if got := said(t, stderr); !strings.HasPrefix(got, "appfw: --log is not whole: it lacks ") || !strings.HasSuffix(got, ", as it is as large as it may be (--log-max)\n") {
		t.Errorf("%q", got)
	}
}

// A log that is opened anew, as it was moved away, has room again.
func TestLogMaxAnew(t *testing.T) {
	path := t.TempDir() + "/log"
	file, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	l := newLog(file, path)
	l.max = 300
	for range 5 {
		l.write(words(strings.Repeat("x", 100)))
	}
	if l.over.others != 4 {
		t.Errorf("%+v", l.over)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.reopen()
	l.write(words("y"))
	if b, err := os.ReadFile(path); err != nil || !strings.Contains(string(b), `"y"`) {
		t.Errorf("%s, %v", b, err)
	}
	l.close()
}
