// Package journal says what happened: to people, by lines on stderr or in systemd's
// journal, and to programs, by a log of one JSON object a line. It never holds up who
// tells it something: what is to be written waits in a bounded queue for a goroutine
// of its own, and what does not fit is counted and said. It decides nothing.
//
//	j := journal.New(journal.Config{Log: file, Stderr: os.Stderr, Explain: explain})
//	p := proxy.New(proxy.Config{Log: j.Flow, ...})
//	...
//	err := j.Close() // soon, even if nobody reads
package journal

import (
	"crypto/rand"
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	sdjournal "github.com/coreos/go-systemd/v22/journal"

	"appfw/dnsguard"
	"appfw/policy"
)

// Config is what a Journal is made of. All but Stderr may be left out.
type Config struct {
	Log    *os.File // of records; nil: there is none
	Path   string   // by which Log can be opened anew; "": it cannot
	Max    int64    // bytes that are written to Log at most, until it is opened anew; 0: any number
	Stderr *os.File // of lines for people
	System bool     // Stderr is systemd's journal
	Quiet  bool     // no lines for what is denied
	Search []string // the host's search list of names
	// Explain is the reason of a verdict for people, with what to do about it. Nil:
	// its reason alone.
	Explain func(policy.Verdict) string
	// Notify tells the service manager what became of a reload (sd_notify(3)).
	Notify func(state string)
	Now    func() time.Time // nil: time.Now
}

// Journal is told what happens. Its methods may be called by any goroutine, and do not
// wait for anybody, but for Close, which does for a bounded time.
type Journal struct {
	run    string
	quiet  bool
	logs   *queue // nil: there is no log
	lines  *queue
	notify func(state string)
	now    func() time.Time
	logged chan struct{} // closed when the log is
	told   chan struct{} // closed when people have been told everything

	closeTime, tellTime time.Duration // bound how long Close waits for them

	mu        sync.Mutex
	failed    bool // something of the log could not be written
	unwritten int  // how many records could not
	over      lost // what the log was too large for
}

const (
	// closeTime bounds how long Close waits for the log: what waits is written in a
	// tenth of it, if anybody takes it.
	closeTime = 1500 * time.Millisecond
	// tellTime bounds how long it then waits for who reads the lines.
	tellTime = 500 * time.Millisecond
)

// New makes a Journal, and starts its goroutines. They end with Close; one that is
// held up in a write then, ends with the process.
func New(c Config) *Journal {
	if c.Explain == nil {
		c.Explain = policy.Verdict.Reason
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	j := &Journal{
		run: strings.ToLower(rand.Text()[:12]), quiet: c.Quiet, lines: newQueue(), notify: c.Notify, now: c.Now,
		told: make(chan struct{}), closeTime: closeTime, tellTime: tellTime,
	}
	p := &people{
		file: c.Stderr, system: c.System, search: c.Search, run: j.run,
		explain: c.Explain, send: sdjournal.Send, seen: make(map[string]time.Time),
	}
	go j.tell(p)
	if c.Log != nil {
		l := &log{file: c.Log, path: c.Path, max: c.Max, run: j.run, fail: j.fail, say: j.Say}
		j.logs, j.logged = newQueue(), make(chan struct{})
		go j.write(l)
	}
	return j
}

// Run names this run of appfw in its records.
func (j *Journal) Run() string { return j.run }

// Flow records what happened to a flow.
func (j *Journal) Flow(e Event) {
	denied := !e.Verdict.Allowed() && !e.Closed
	if j.logs == nil && (!denied || j.quiet) {
		return // the usual case costs nothing
	}
	e.Name, e.User = bounded(e.Name), bounded(e.User)
	j.record(item{at: j.now(), kind: ofFlow, flow: e, denial: denied && !e.Allowed}, denied)
}

// Question records a name that was looked up.
func (j *Journal) Question(q dnsguard.Question) {
	denied := !q.Verdict.Allowed()
	tells := denied || q.Failed || q.Rcode != ""
	if j.logs == nil && (!tells || j.quiet) {
		return
	}
	j.record(item{at: j.now(), kind: ofQuestion, question: q, denial: denied}, tells)
}

// record takes in an item of the log, which may be for people, too.
func (j *Journal) record(x item, people bool) {
	if j.logs != nil {
		j.logs.add(x)
	}
	if people && !j.quiet {
		j.lines.add(x)
	}
}

// bounded is what clients have said, with a bound: many of it may wait.
func bounded(s string) string {
	if len(s) <= maxSaid {
		return s
	}
	return strings.Clone(s[:maxSaid])
}

// maxSaid bounds a name, in bytes; those of hosts have 253 at most, and those of users
// 255 (RFC 1929).
const maxSaid = 1024

// Note tells people something that is not wrong, and hardly meant, once.
func (j *Journal) Note(text string) {
	if !j.quiet {
		j.lines.add(item{at: j.now(), kind: ofNote, text: text})
	}
}

// Say tells people something.
func (j *Journal) Say(text string) { j.lines.add(item{at: j.now(), kind: ofWords, text: text}) }

// Reloaded tells what became of reading the policy anew.
func (j *Journal) Reloaded(text string) {
	x := item{at: j.now(), kind: ofReload, text: text}
	if j.logs != nil {
		j.logs.add(x)
	}
	j.lines.add(x)
	if j.notify != nil {
		j.notify("READY=1\nSTATUS=" + policy.Printable(text, 0))
	}
}

// Reopen opens the log anew, which was moved away.
func (j *Journal) Reopen() {
	if j.logs != nil {
		j.logs.add(item{kind: ofReopen})
	}
}

// ErrNotWhole says that the log lacks something. People have been told what.
var ErrNotWhole = errors.New("the log is not whole")

// Close writes what waits, and closes the log, for two seconds at most. It is
// ErrNotWhole if a record could not be written, but for denials that came too fast:
// the log itself says how many of those it lacks.
func (j *Journal) Close() error {
	var err error
	if j.logs != nil {
		j.logs.close()
		var text string
		if text, err = j.verify(!within(j.closeTime, j.logged)); text != "" {
			j.Say(text)
		}
	}
	j.lines.close() // after the log, of which it may have to tell
	within(j.tellTime, j.told)
	return err
}

// within tells whether something happens within a time.
func within(t time.Duration, happened <-chan struct{}) bool {
	late := time.NewTimer(t)
	defer late.Stop()
	select {
	case <-happened:
		return true
	case <-late.C:
		return false
	}
}

// verify says what the log lacks at its end; "" if it lacks nothing. stuck tells that
// it is held up in a write, and takes no more.
func (j *Journal) verify(stuck bool) (text string, err error) {
	missing := j.logs.missing(stuck)
	j.mu.Lock()
	defer j.mu.Unlock()
	if stuck || j.failed || missing.others+j.over.others > 0 {
		err = ErrNotWhole
	}
	n := missing.denials + missing.others + j.unwritten + j.over.denials + j.over.others
	switch {
	case stuck: // and one is being written
		return "--log is not whole: it is held up, and lacks " + number(n+1, "record"), err
	case n == 0:
		return "", err
	case err == nil && j.over != (lost{}):
		return "--log lacks " + number(n, "denial") + ": it is as large as it may be (--log-max)", nil
	case err == nil:
		return "--log lacks " + number(n, "denial") + ", which came faster than it was written", nil
	case j.over.others > 0 && !j.failed && missing.others == 0:
		return "--log is not whole: it lacks " + number(n, "record") + ", as it is as large as it may be (--log-max)", err
	}
	return "--log is not whole: it lacks " + number(n, "record"), err
}

// fail notes records that could not be written. The first time, it is said at once.
func (j *Journal) fail(records int, err error) {
	j.mu.Lock()
	first := !j.failed
	j.failed = true
	j.unwritten += records
	j.mu.Unlock()
	if first {
		j.Say("--log is not whole: " + err.Error())
	}
}

// write writes records until the queue is closed. Denials that say the same are folded.
func (j *Journal) write(l *log) {
	defer close(j.logged)
	defer l.close()
	folded, looks := folds{of: make(map[string]*fold)}, false
	for open := true; open; {
		var x *item
		var before lost
		x, before, open = j.logs.take()
		at := j.now()
		if x != nil && !x.at.IsZero() {
			at = x.at
		}
		due := before.records(at)
		switch {
		case x == nil:
		case x.kind == ofReopen:
			l.reopen()
		case x.kind == ofFold:
			looks = false
			due = append(due, folded.late(at)...)
		default:
			if rec, ok := x.record(); ok && x.denial {
				due = append(due, folded.add(x.about(), rec)...)
			} else if ok {
				due = append(due, rec)
			}
		}
		if !open {
			due = append(due, folded.end()...)
		} else if !looks && folded.waits {
			looks = true
			time.AfterFunc(foldTime, func() { j.logs.add(item{at: j.now(), kind: ofFold}) })
		}
		for _, rec := range due {
			l.write(rec)
		}
	}
	l.end(j.now())
	j.mu.Lock()
	j.over = l.over
	j.mu.Unlock()
}

// tell tells people until the queue is closed.
func (j *Journal) tell(p *people) {
	defer close(j.told)
	for open := true; open; {
		var x *item
		var before lost
		x, before, open = j.lines.take()
		if before != (lost{}) {
			p.leftOut(before)
		}
		if x != nil {
			p.tell(x)
		}
	}
}
