package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"appfw/dnsguard"
	"appfw/policy"
)

// started is a Journal with the files of its log and its lines.
func started(t *testing.T, c Config) (j *Journal, log, stderr *os.File) {
	t.Helper()
	log, stderr = file(t), file(t)
	if c.Log == nil {
		var err error
		if c.Log, err = os.OpenFile(log.Name(), os.O_WRONLY|os.O_APPEND, 0); err != nil {
			t.Fatal(err)
		}
	}
	if c.Stderr == nil {
		c.Stderr = stderr
	}
	c.Now = func() time.Time { return noon }
	j = New(c)
	j.closeTime, j.tellTime = 20*time.Millisecond, 20*time.Millisecond
	return j, log, stderr
}

// patient has Close wait for readers that are there.
func (j *Journal) patient() { j.closeTime, j.tellTime = time.Minute, time.Minute }

func allowedEvent(id int) Event {
	return Event{Flow: uint64(id), Verdict: policy.Verdict{Action: policy.Allow}.Because("it is allowed"), Proto: "tcp", Dst: at("192.0.2.1:80")}
}

// What happens is in the log, and what is denied is told to people, once.
func TestJournal(t *testing.T) {
	var states []string
	j, log, stderr := started(t, Config{Notify: func(state string) { states = append(states, state) }})
	j.patient()
	denied := denialOf(1).flow
	j.Flow(allowedEvent(1))
	j.Flow(denied)
	j.Flow(denied)
	cut := allowedEvent(1)
	cut.Verdict, cut.Allowed = policy.Denial("the policy has changed"), true
	j.Flow(cut)
	ended := allowedEvent(1)
	ended.Closed, ended.End = true, Cut
	j.Flow(ended)
	asked := dnsguard.Question{Name: "a.example", Type: "A", Verdict: policy.Verdict{Action: policy.Allow}.Because("no server answered"), Failed: true}
	j.Question(asked)
	j.Question(dnsguard.Question{Name: "b.example", Type: "A", Verdict: policy.Denial("no rule allows it")})
	j.Note("a note")
	j.Say("words")
	j.Reloaded("read\nanew")
	j.Reopen() // it has no path
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	if err := j.Close(); err != nil { // again
		t.Error(err)
	}
	j.Flow(denied) // too late
	j.Say("too late")
	lines := said(t, log)
	if got, want := reasons(lines), `it is allowed, no rule allows it, no rule allows it, the policy has changed, it is allowed, no server answered, no rule allows it, read\nanew`; got != want {
		t.Errorf("%s not\n%s", got, want)
	}
	if n := strings.Count(lines, `"run":"`+j.Run()+`"}`+"\n"); n != 8 {
		t.Errorf("%d of the run %s", n, j.Run())
	}
	if got, want := said(t, stderr), `appfw: denied tcp 10.0.0.1:80: no rule allows it
appfw: denied tcp 192.0.2.1:80: the policy has changed
appfw: cannot resolve a.example: no server answered
appfw: denied dns b.example: no rule allows it
appfw: note: a note
appfw: words
appfw: read\nanew
`; got != want {
		t.Errorf("%s not\n%s", got, want)
	}
	if len(states) != 1 || states[0] != "READY=1\nSTATUS=read\\nanew" {
		t.Errorf("%q", states)
	}
}

// Quiet, it tells people what was asked for or went wrong, and logs all.
func TestJournalQuiet(t *testing.T) {
	j, log, stderr := started(t, Config{Quiet: true})
	j.patient()
	for i := range 5 * maxDenials {
		j.Flow(denialOf(i).flow)
		j.Question(dnsguard.Question{Name: fmt.Sprint(i), Type: "A", Failed: i%2 == 0, Verdict: policy.Verdict{Action: policy.Action(i % 2)}})
	}
	j.Note("a note")
	j.Reloaded("read anew")
	j.Say("words")
	_ = j.Close()
	got := said(t, stderr)
	if without, lacks, _ := strings.Cut(got, "appfw: --log lacks "); without != "appfw: read anew\nappfw: words\n" || strings.Count(lacks, "\n") > 1 {
		t.Errorf("%q", got)
	}
	if said(t, log) == "" {
		t.Error("there is no log")
	}
	j = New(Config{Stderr: stderr, Quiet: true})
	j.Flow(denialOf(1).flow)
	if j.lines.number != 0 {
		t.Error("what nobody reads was taken in")
	}
	_ = j.Close()
}

// Without a log, what is allowed costs nothing.
func TestJournalCost(t *testing.T) {
	j := New(Config{Stderr: file(t)})
	defer j.Close()
	e := allowedEvent(1)
	if n := testing.AllocsPerRun(100, func() { j.Flow(e) }); n != 0 || j.lines.number != 0 {
		t.Errorf("%v allocations", n)
	}
}

// What clients say is bounded while it waits.
func TestJournalBounded(t *testing.T) {
	j, log, _ := started(t, Config{})
	j.patient()
	e := allowedEvent(1)
	e.Name, e.User = strings.Repeat("n", 1<<20), strings.Repeat("u", 1<<20)
	j.Flow(e)
	_ = j.Close()
	var rec Record
	if err := json.Unmarshal([]byte(said(t, log)), &rec); err != nil || len(rec.Name) != maxSaid || len(rec.User) != maxSaid {
		t.Errorf("%d and %d bytes; %v", len(rec.Name), len(rec.User), err)
	}
}

// One who never reads stderr delays nothing, and the log has all.
func TestJournalUnreadStderr(t *testing.T) {
	_, w := unread(t)
	j, log, _ := started(t, Config{Stderr: w})
	j.closeTime = time.Minute
	const flood = 20_000
	for i := range flood {
		j.Flow(denialOf(i).flow)
	}
	for i := range 1000 {
		j.Flow(allowedEvent(i))
	}
	began := time.Now()
	if err := j.Close(); err != nil {
		t.Errorf("a log that is whole: %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("Close took %v", took)
	}
	allowed, denied := count(t, strings.SplitAfter(strings.TrimSuffix(said(t, log), "\n"), "\n"))
	if allowed != 1000 || denied != flood {
		t.Errorf("%d and %d, of 1000 and %d", allowed, denied, flood)
	}
}

// count is what is in lines of a log: records of what was allowed, and denials, with
// those that were dropped.
func count(t *testing.T, lines []string) (allowed, denied int) {
	t.Helper()
	for _, line := range lines {
		var rec Record
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		switch rec.Verdict {
		case "allow":
			allowed++
		case "deny":
			denied += max(rec.Count, 1)
		default:
			t.Errorf("odd record: %s", line)
		}
	}
	return allowed, denied
}

// One who never reads the log delays nothing; Close says what it lacks.
func TestJournalUnreadLog(t *testing.T) {
	_, w := unread(t)
	j, _, stderr := started(t, Config{Log: w, Quiet: true})
	j.tellTime = time.Minute
	for i := range 100_000 {
		j.Flow(denialOf(i).flow)
	}
	for i := range 10_000 { // more than fit
		j.Flow(allowedEvent(i))
	}
	if err := j.Close(); !errors.Is(err, ErrNotWhole) {
		t.Errorf("%v", err)
	}
	if got := said(t, stderr); got != "appfw: --log is not whole: it is held up, and lacks 110000 records\n" {
		t.Errorf("%q", got)
	}
}

// Nobody reads anything.
func TestJournalUnread(t *testing.T) {
	_, w := unread(t)
	j, _, _ := started(t, Config{Log: w, Stderr: w})
	j.Flow(denialOf(1).flow)
	j.Reopen()
	j.Reloaded("anew")
	began := time.Now()
	if err := j.Close(); !errors.Is(err, ErrNotWhole) {
		t.Errorf("%v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("Close took %v", took)
	}
}

// Who reads late, reads of all that was allowed, and how many denials are missing where.
func TestJournalReadLate(t *testing.T) {
	r, w := unread(t)
	j, _, stderr := started(t, Config{Log: w, Quiet: true})
	j.patient()
	const flood = 100_000
	for i := range flood {
		j.Flow(denialOf(i).flow)
		if i%100 == 0 {
			j.Flow(allowedEvent(i))
		}
	}
	read := make(chan []string)
	go func() { read <- readLines(r) }()
	if err := j.Close(); err != nil { // the log itself says what it lacks
		t.Error(err)
	}
	lines := <-read
	allowed, denied := count(t, lines)
	if allowed != flood/100 || denied != flood {
		t.Errorf("%d and %d, of %d and %d", allowed, denied, flood/100, flood)
	}
	if last := lines[len(lines)-1]; !strings.Contains(last, `"event":"decision"`) && !strings.Contains(last, `"event":"dropped"`) {
		t.Errorf("at the end: %s", last)
	}
	if n := strings.Count(strings.Join(lines, ""), `"event":"dropped"`); n == 0 || n > len(lines)/100 {
		t.Errorf("%d of %d lines are about others", n, len(lines))
	}
	got := said(t, stderr)
	var missing int
	if _, err := fmt.Sscanf(got, "appfw: --log lacks %d denials, which came faster than it was written\n", &missing); err != nil || missing == 0 || missing >= flood {
		t.Errorf("%q", got)
	}
}

// What was allowed may be missing, too, if nobody reads: then the log is not whole.
func TestJournalReadTooLate(t *testing.T) {
	r, w := unread(t)
	j, _, stderr := started(t, Config{Log: w})
	j.patient()
	for i := range maxQueued + 101 { // one may be in the writer's hands
		j.Flow(allowedEvent(i))
	}
	read := make(chan []string)
	go func() { read <- readLines(r) }()
	if err := j.Close(); !errors.Is(err, ErrNotWhole) {
		t.Error(err)
	}
	lines := <-read
	var last Record
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Event != "dropped" || last.Verdict != "" || last.Count != 100 && last.Count != 101 {
		t.Errorf("at the end: %+v, %v", last, err)
	}
	if got, want := said(t, stderr), fmt.Sprintf("appfw: --log is not whole: it lacks %d records\n", last.Count); got != want {
		t.Errorf("%q, not %q", got, want)
	}
}

// Lines that people did not read in time are counted where they would have been.
func TestJournalToldLate(t *testing.T) {
	r, w := unread(t)
	j := New(Config{Stderr: w})
	j.patient()
	const flood = maxReported - 1
	for i := range flood {
		j.Flow(denialOf(i).flow)
	}
	j.Say("the end")
	read := make(chan []string)
	go func() { read <- readLines(r) }()
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	w.Close()
	lines := <-read
	var missing int
	n := len(lines)
	if _, err := fmt.Sscanf(lines[n-2], "appfw: left out here, as nobody read in time: %d denials\n", &missing); err != nil || n-2+missing != flood || lines[n-1] != "appfw: the end\n" {
		t.Errorf("%d lines; at the end %q", n, lines[n-2:])
	}
}

// A disk that is full is said once, and at the end, what is missing for it.
func TestJournalFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("there is no /dev/full: ", err)
	}
	j, _, stderr := started(t, Config{Log: full})
	j.patient()
	for i := range 50 {
		j.Flow(allowedEvent(i))
	}
	if err := j.Close(); !errors.Is(err, ErrNotWhole) {
		t.Errorf("%v", err)
	}
	if got := said(t, stderr); got != "appfw: --log is not whole: write /dev/full: no space left on device\nappfw: --log is not whole: it lacks 50 records\n" {
		t.Errorf("%q", got)
	}
}

// The log is rotated while it is written.
func TestJournalReopen(t *testing.T) {
	path := t.TempDir() + "/log"
	file, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	j, _, stderr := started(t, Config{Log: file, Path: path})
	j.patient()
	j.Flow(allowedEvent(1))
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	j.Reopen()
	j.Flow(denialOf(2).flow)
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{path: "no rule allows it", path + ".1": "it is allowed"} {
		if b, err := os.ReadFile(name); reasons(string(b)) != want || err != nil {
			t.Errorf("%s: %s, %v", name, b, err)
		}
	}
	if got := said(t, stderr); strings.Count(got, "\n") != 1 {
		t.Errorf("%q", got)
	}
}

// All may be told things at the same time, while it is closed, too.
func TestJournalMany(t *testing.T) {
	j, _, _ := started(t, Config{})
	j.patient()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 500 {
				j.Flow(denialOf(i<<10 + n).flow)
				j.Flow(allowedEvent(n))
				j.Question(dnsguard.Question{Name: "a.example", Verdict: policy.Denial("no")})
				j.Say("words")
				j.Note("a note")
				j.Reloaded("anew")
				j.Reopen()
			}
		})
	}
	all.Go(func() { _ = j.Close() })
	all.Wait()
	_ = j.Close()
}
