package journal

import (
	"fmt"
	"os"
	"strings"
	"time"

	sdjournal "github.com/coreos/go-systemd/v22/journal"

	"appfw/dnsguard"
	"appfw/policy"
)

const (
	// reportAgain is how long a denied destination is not told to systemd's journal
	// again.
	reportAgain = time.Minute
	// maxPrinted bounds a line, in bytes. Names are 253 at most.
	maxPrinted = 2000
	// maxReported bounds how many denied destinations are remembered as printed.
	maxReported = 4096
)

// people tells them what was denied, once, by a line for each destination. It belongs
// to the goroutine that does so.
type people struct {
	file    *os.File
	system  bool     // file is systemd's journal
	search  []string // the host's search list
	run     string
	explain func(policy.Verdict) string
	send    func(text string, p sdjournal.Priority, fields map[string]string) error // to systemd's journal
	seen    map[string]time.Time                                                    // what was printed, and when
}

// tell prints what is for people of an item.
func (p *people) tell(x *item) {
	switch x.kind {
	case ofFlow:
		p.denied(x.flow.What(), x.flow.Verdict, x)
	case ofQuestion:
		q := &x.question
		switch {
		case q.Failed && q.Type == "A" && !p.searched("failed ", q.Name): // other types programs can do without
			p.once("failed "+q.Name, func() string { return "cannot resolve " + q.Name + ": " + q.Verdict.Reason() }, x)
		case q.Verdict.Allowed() && !q.Failed && q.Rcode != "" && p.wants(q):
			p.once("failed "+q.Name, func() string { return "cannot resolve " + q.Name + ": " + q.Error }, x)
		case !q.Verdict.Allowed() && !p.searched("dns ", q.Name):
			p.denied("dns "+q.Name, q.Verdict, x)
		}
	case ofNote:
		if _, told := p.seen["note "+x.text]; !told {
			p.seen["note "+x.text] = x.at
			p.print("note: " + x.text)
		}
	case ofReload, ofWords:
		p.print(x.text)
	}
}

// leftOut tells how much people were not told.
func (p *people) leftOut(l lost) {
	if l.others == 0 && p.full() { // no more denials would have been printed
		return
	}
	p.print("left out here, as nobody read in time: " + l.String())
}

// full tells whether no more destinations are remembered, nor printed.
func (p *people) full() bool { return !p.system && len(p.seen) > maxReported }

// searched tells whether a name is one that was printed already, with a domain of the
// search list behind it or without: the resolver library tries those by itself. kind is what
// such a line is kept under.
func (p *people) searched(kind, name string) bool {
	for _, domain := range p.search {
		base, below := strings.CutSuffix(name, "."+strings.Trim(domain, "."))
		if _, seen := p.seen[kind+base]; below && seen {
			return true
		}
		// A single label is tried with the domains first, and then alone.
		if _, seen := p.seen[kind+name+"."+strings.Trim(domain, ".")]; seen && !strings.Contains(name, ".") {
			return true
		}
	}
	return false
}

// wants tells whether a name that does not exist is one that somebody wanted: its
// addresses were asked for, and it is not what the resolver library tries by itself, a
// name of several labels with a domain of the search list behind it.
func (p *people) wants(q *dnsguard.Question) bool {
	for _, domain := range p.search {
		base, below := strings.CutSuffix(q.Name, "."+strings.Trim(domain, "."))
		if below && strings.Contains(base, ".") {
			return false
		}
	}
	return (q.Type == "A" || q.Type == "AAAA") && !p.searched("failed ", q.Name)
}

// denied prints a line for a denied destination, once.
func (p *people) denied(what string, v policy.Verdict, x *item) {
	p.once(what, func() string { return "denied " + what + ": " + p.explain(v) }, x)
}

// once prints a line for what it is about, once; to systemd's journal, which goes on
// for months, again after a while.
func (p *people) once(what string, line func() string, x *item) {
	what = what[:min(len(what), maxPrinted)]
	if p.system && len(p.seen) > maxReported {
		clear(p.seen)
	}
	last, seen := p.seen[what]
	if seen && !(p.system && x.at.Sub(last) > reportAgain) || p.full() {
		return
	}
	p.seen[what] = x.at
	if p.full() {
		p.print("too many lines like these; no more are printed (--log has them all)")
		return
	}
	text := line()
	text = text[:min(len(text), maxPrinted)]
	if p.system {
		rec, _ := x.record()
		rec.Run = p.run
		if p.send(policy.Printable(text, 0), sdjournal.PriWarning, rec.fields()) == nil {
			return
		}
	}
	p.print(text)
}

// print prints a line.
func (p *people) print(text string) {
	_, _ = write(p.file, fmt.Appendf(nil, "appfw: %s%s", policy.Printable(text, 0), newline(p.file)))
}
