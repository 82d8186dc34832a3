// Package suggest makes a policy of what a program did: it reads logs (JSON, a line
// for each event, as appfw writes them with --log) and writes a policy that allows
// what they show as allowed. What was denied, could not be connected to, or was only
// looked up, is in it as comments.
//
//	h := suggest.New(suggest.Host{Addrs: own})
//	if err := h.Read("npm.json", file); err != nil {
//		return err
//	}
//	fmt.Print(h.Policy())
//
// Nothing in a log is trusted: programs choose names, and can write to logs that
// their user can write to. Whatever it says, what is made of it is a policy that
// names no other hosts than the log does. The package is pure: what it has to know of
// the host of the log it is told.
package suggest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"appfw/policy"
)

// Host is what has to be known of the host where the log was written.
type Host struct {
	// Addrs are its own: a name does not lead there by itself, so that each that was
	// reached needs a rule.
	Addrs []netip.Addr
	// Synthetic is where addresses come from that stand for names which an upstream
	// resolves; these need no rule.
	Synthetic []netip.Prefix
	// Loopback tells whether a name is one of the loopback, for which the rule is
	// of its address. Nil: none is.
	Loopback func(policy.Name) bool
}

// History is what logs show, and how often.
type History struct {
	host Host

	flows  map[flow]int
	failed map[flow]int // could not be connected
	denied map[end]bool // where something was denied
	asked  map[question]int

	chained bool  // something went out by an upstream
	first   error // the first line that could not be read
	leftOut int   // how many could not
}

// flow is a flow, and what was decided on it.
type flow struct {
	to      destination
	at      end // its address may be invalid
	allowed bool
}

// end is where a flow went.
type end struct {
	addr  netip.Addr
	proto policy.Proto
	port  uint16
}

// destination is what a rule is for.
type destination struct {
	name policy.Name // if there is none, it is the address
	addr netip.Addr
	via  string // the way out; "": directly
}

type question struct {
	name    policy.Name
	allowed bool
}

// New is the history of logs of the host, of which none is read yet.
func New(h Host) *History {
	return &History{host: h, flows: make(map[flow]int), failed: make(map[flow]int), denied: make(map[end]bool), asked: make(map[question]int)}
}

// Empty tells whether there is no flow and no name in it.
func (h *History) Empty() bool { return len(h.flows) == 0 && len(h.asked) == 0 }

// LeftOut is how many lines could not be read, and what is wrong with the first of
// them, a [*policy.SyntaxError]; nil without any.
func (h *History) LeftOut() (lines int, first error) { return h.leftOut, h.first }

// maxRecord bounds a line of a log. The reasons are short, and so are names.
const maxRecord = 1 << 20

// Read takes in a log, which is called name. Lines that are not of one are left out:
// a disk may have been full, or the machine have gone down. It is an error only if
// the reader has one.
func (h *History) Read(name string, r io.Reader) error {
	log := bufio.NewReaderSize(r, maxRecord)
	for number := 1; ; number++ {
		line, long, err := log.ReadLine()
		for more := long; more && err == nil; {
			_, more, err = log.ReadLine()
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("read %s: %w", name, err)
		case long:
			h.leaveOut(name, number, 1, "line that is so long")
		case len(bytes.TrimSpace(line)) == 0:
		default:
			var rec record
			if err := json.Unmarshal(line, &rec); err != nil {
				column := 1
				if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
					column = int(max(syntax.Offset, 1))
				}
				h.leaveOut(name, number, column, fmt.Sprintf("such line: %v", err))
				continue
			}
			h.add(rec)
		}
	}
}

// leaveOut leaves out a line, and keeps the first that was.
func (h *History) leaveOut(name string, line, column int, what string) {
	if h.leftOut++; h.first == nil {
		h.first = &policy.SyntaxError{Pos: policy.Pos{File: name, Line: line, Column: column}, Msg: "--log wrote no " + what}
	}
}
