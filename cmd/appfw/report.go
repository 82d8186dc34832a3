package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"

	"appfw/dnsguard"
	"appfw/policy"
	"appfw/proxy"
)

// record is one line of the log. The order of the fields is that of the line.
type record struct {
	Time      time.Time `json:"time"`
	Event     string    `json:"event"` // decision, close, dns, reload
	Verdict   string    `json:"verdict,omitempty"`
	Direction string    `json:"direction,omitempty"`
	Proto     string    `json:"proto,omitempty"`
	Addr      string    `json:"addr,omitempty"`
	Port      uint16    `json:"port,omitempty"`
	Name      string    `json:"name,omitempty"`
	Client    string    `json:"client,omitempty"` // of serve: its address
	User      string    `json:"user,omitempty"`   // and who it is
	Type      string    `json:"type,omitempty"`   // of a question
	Via       string    `json:"via,omitempty"`    // the upstream that it goes out by; defaultVia: the one without a name
	Rule      string    `json:"rule,omitempty"`
	Reason    string    `json:"reason"`
	Error     string    `json:"error,omitempty"` // why it could not be connected
	Sent      *int64    `json:"sent,omitempty"`
	Received  *int64    `json:"received,omitempty"`
	Duration  *int64    `json:"duration_ms,omitempty"`
}

// defaultVia is how the log names the upstream that has no name.
const defaultVia = "(default)"

// reportAgain is how long a denied destination is not reported to the journal again.
const reportAgain = time.Minute

// maxPrinted bounds a line, in bytes. Names are 253 at most.
const maxPrinted = 2000

// maxReported bounds how many denied destinations are remembered as printed.
const maxReported = 4096

// reporter tells people (a line for each denied destination, once) and
// programs (a JSON object for each event) what was decided.
type reporter struct {
	search []string // the host's search list
	logs   bool     // there is a log

	mu      sync.Mutex
	log     *os.File
	path    string             // of the log, if it can be opened anew; "" if not
	failed  error              // of the first write that failed
	torn    bool               // a part of a line was written last
	notify  func(state string) // tells the service manager what became of a reload; nil: there is none
	journal bool               // stderr is the journal
	quiet   bool
	seen    map[string]time.Time // denied destinations and unresolved names, and when they were printed
}

// newReporter makes a reporter with a log, which is nil if there is none.
func newReporter(log *os.File, quiet bool, host dnsguard.ResolvConf) *reporter {
	r := &reporter{logs: log != nil, log: log, quiet: quiet, seen: make(map[string]time.Time)}
	for _, line := range host.Lines {
		if fields := strings.Fields(line); fields[0] != "options" {
			r.search = fields[1:]
		}
	}
	return r
}

// startService reads the host's configuration, and makes a reporter that speaks
// with the service manager and the journal.
func startService(log string, quiet bool) (host hostConfig, r *reporter, err error) {
	if host, err = readHost(); err != nil {
		return host, nil, err
	}
	file, err := openLog(log, func() (*os.File, error) { return appendLog(log) })
	if err != nil {
		return host, nil, err
	}
	r = newReporter(file, quiet, host.resolv)
	if file != os.Stderr {
		r.path = log
	}
	r.notify = notify
	r.journal, _ = journal.StderrIsJournalStream()
	return host, r, nil
}

// openLog opens the log that --log names; nil if it names none.
func openLog(name string, open func() (*os.File, error)) (*os.File, error) {
	switch name {
	case "":
		return nil, nil
	case "-":
		return os.Stderr, nil
	}
	log, err := open()
	if err != nil {
		return nil, fmt.Errorf("--log: %w", err)
	}
	return log, nil
}

// appendLog opens a file for the log.
func appendLog(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// reopen opens the log anew: what rotates logs has moved it away (logrotate(8)).
func (r *reporter) reopen() {
	if r.path == "" {
		return
	}
	file, err := reopenLog(r.path)
	if err != nil {
		fmt.Fprintln(os.Stderr, "appfw: --log goes on in the file that was open:", printable(err.Error()))
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.log.Close(); err != nil {
		r.fail(err)
	}
	r.log, r.torn = file, false
}

// reopenLog opens a log that is rotated. Whoever moved it may be another user than
// this process's: it is not to be led elsewhere, nor to wait for somebody to read.
func reopenLog(name string) (*os.File, error) {
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

// fail keeps the first error of the log, and says it at once, with r.mu held.
func (r *reporter) fail(err error) {
	if r.failed == nil {
		r.failed = err
		fmt.Fprint(os.Stderr, "appfw: --log is not whole: "+printable(err.Error())+newline())
	}
}

// close closes the log. It is an error if that is not whole.
func (r *reporter) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.logs && r.log != os.Stderr {
		if err := r.log.Close(); err != nil {
			r.fail(err)
		}
	}
	if r.failed != nil {
		return &exitError{code: exitFailed} // fail has said it
	}
	return nil
}

// event records a flow.
func (r *reporter) event(e proxy.Event) {
	if !r.logs && (e.Verdict.Allowed() || e.Closed) {
		return // the usual case costs nothing
	}
	rec := newRecord("decision", e.Verdict)
	rec.Proto, rec.Name = e.Proto, e.Name
	if e.Verdict.Allowed() && !e.Ingress && e.Verdict.Via != policy.Direct {
		rec.Via = cmp.Or(e.Verdict.Via, defaultVia)
	}
	if rec.Port = e.Dst.Port(); e.Dst.IsValid() {
		rec.Addr = e.Dst.Addr().String()
	}
	rec.Client, rec.User = e.Client, e.User
	if e.Ingress {
		rec.Direction = "in"
	}
	if e.Closed {
		ms := e.Duration.Milliseconds()
		rec.Event, rec.Sent, rec.Received, rec.Duration, rec.Error = "close", &e.Sent, &e.Received, &ms, e.Failed
	}
	r.write(rec)
	if e.Verdict.Allowed() || e.Closed {
		return
	}
	r.denied(e.What(), e.Verdict, rec)
}

// question records a name that was looked up.
func (r *reporter) question(q dnsguard.Question) {
	if !r.logs && q.Verdict.Allowed() && !q.Failed {
		return
	}
	rec := newRecord("dns", q.Verdict)
	rec.Name, rec.Type = q.Name, q.Type
	if len(q.Addrs) > 0 {
		var list []string
		for _, a := range q.Addrs {
			list = append(list, a.String())
		}
		rec.Addr = strings.Join(list, ",")
	}
	r.write(rec)
	switch {
	case q.Failed && q.Type == "A" && !r.searched("failed ", q.Name): // other types programs can do without
		r.once("failed "+q.Name, fmt.Sprintf("cannot resolve %s: %s", q.Name, q.Verdict.Reason()), rec)
	case !q.Verdict.Allowed() && !r.searched("dns ", q.Name):
		r.denied("dns "+q.Name, q.Verdict, rec)
	}
}

// searched tells whether a name is one that was printed already, with a domain of the
// search list behind it: the resolver library tries those by itself. kind is what
// such a line is kept under.
func (r *reporter) searched(kind, name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, domain := range r.search {
		base, below := strings.CutSuffix(name, "."+strings.Trim(domain, "."))
		if _, seen := r.seen[kind+base]; below && seen {
			return true
		}
	}
	return false
}

func newRecord(event string, v policy.Verdict) record {
	rec := record{Time: time.Now(), Event: event, Verdict: "deny", Direction: "out", Reason: v.Reason()}
	if v.Allowed() {
		rec.Verdict = "allow"
	}
	if rule := v.Rule(); rule != nil {
		rec.Rule = rule.String()
	}
	return rec
}

// write writes a line of the log. encoding/json escapes what could leave it.
func (r *reporter) write(rec record) {
	if !r.logs {
		return
	}
	line, err := json.Marshal(rec)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		line = append(line, '\n')
		if r.torn {
			line = append([]byte{'\n'}, line...)
		}
		var n int
		if n, err = r.log.Write(line); n > 0 {
			r.torn = n < len(line)
		}
	}
	if err != nil {
		r.fail(err)
	}
}

// denied prints a line for a denied destination, once.
func (r *reporter) denied(what string, v policy.Verdict, rec record) {
	r.once(what, fmt.Sprintf("denied %s: %s", what, v), rec)
}

// once prints a line for what it is about, once; to the journal, which goes on for
// months, again after a while.
func (r *reporter) once(what, text string, rec record) {
	what, text = what[:min(len(what), maxPrinted)], text[:min(len(text), maxPrinted)]
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.journal && len(r.seen) > maxReported {
		clear(r.seen)
	}
	last, seen := r.seen[what]
	if seen && !(r.journal && time.Since(last) > reportAgain) || len(r.seen) > maxReported {
		return
	}
	r.seen[what] = time.Now()
	if r.quiet || r.journal && journal.Send(text, journal.PriWarning, rec.journalFields()) == nil {
		return
	}
	line := printable("appfw: " + text)
	if len(r.seen) > maxReported {
		line = "appfw: too many lines like these; no more are printed (--log has them all)"
	}
	fmt.Fprint(os.Stderr, line+newline())
}

// journalFields are the fields of a record as an entry of the journal has them
// (systemd.journal-fields(7)): APPFW_NAME, APPFW_ADDR and so on.
func (rec record) journalFields() map[string]string {
	fields := make(map[string]string)
	var values map[string]any
	if b, err := json.Marshal(rec); err == nil {
		_ = json.Unmarshal(b, &values)
	}
	for name, value := range values {
		if name != "time" { // the entry has one
			fields["APPFW_"+strings.ToUpper(name)] = fmt.Sprint(value)
		}
	}
	return fields
}

// note tells people something that is not wrong, and hardly meant.
func (r *reporter) note(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, told := r.seen["note "+text]; !told && !r.quiet {
		r.seen["note "+text] = time.Now()
		fmt.Fprint(os.Stderr, "appfw: note: "+printable(text)+newline())
	}
}

// reloaded tells what became of reading the policy anew.
func (r *reporter) reloaded(text string) {
	r.write(record{Time: time.Now(), Event: "reload", Reason: text})
	fmt.Fprint(os.Stderr, "appfw: "+printable(text)+newline())
	if r.notify != nil {
		r.notify("READY=1\nSTATUS=" + printable(text))
	}
}

// newline is what ends a line on stderr: a terminal that the app put into raw
// mode does not return its carriage by itself.
func newline() string {
	t, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS)
	if err == nil && t.Oflag&unix.OPOST == 0 {
		return "\r\n"
	}
	return "\n"
}

// printable escapes what a terminal could take for more than text of one line.
func printable(s string) string {
	var b strings.Builder
	for _, c := range s {
		switch {
		case strconv.IsPrint(c):
			b.WriteRune(c)
		default:
			q := strconv.QuoteRuneToASCII(c)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}
