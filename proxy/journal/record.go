package journal

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"appfw/policy"
)

// Record is one line of the log. The order of the fields is that of the line; new ones
// come after those that were there, and before Flow.
type Record struct {
	Time      time.Time `json:"time"`
	Event     string    `json:"event"` // decision, close, dns, reload, dropped
	Verdict   string    `json:"verdict,omitempty"`
	Direction string    `json:"direction,omitempty"`
	Proto     string    `json:"proto,omitempty"`
	Addr      string    `json:"addr,omitempty"`
	Port      uint16    `json:"port,omitempty"`
	Name      string    `json:"name,omitempty"`
	Client    string    `json:"client,omitempty"` // of serve: its address
	User      string    `json:"user,omitempty"`   // and who it is
	Type      string    `json:"type,omitempty"`   // of a question
	Via       string    `json:"via,omitempty"`    // the upstream that it goes out by: its name, or its URLs if it has none
	Rule      string    `json:"rule,omitempty"`
	Reason    string    `json:"reason"`
	Error     string    `json:"error,omitempty"` // why it could not be connected, or a name not be resolved
	Sent      *int64    `json:"sent,omitempty"`
	Received  *int64    `json:"received,omitempty"`
	Duration  *int64    `json:"duration_ms,omitempty"`
	End       string    `json:"end,omitempty"`   // how a flow ended that was closed
	Count     int       `json:"count,omitempty"` // how often it happened, if more than once; of dropped, how many were
	Rcode     string    `json:"rcode,omitempty"` // of the answer to an allowed question, if it is no success
	Flow      uint64    `json:"flow,omitempty"`  // number of the flow in the run
	Run       string    `json:"run,omitempty"`   // one for each start of appfw
}

// defaultVia is how the log names the upstream that has no name, where nobody says its URL.
const defaultVia = "(default)"

func newRecord(event string, at time.Time, v policy.Verdict) Record {
	rec := Record{Time: at, Event: event, Verdict: "deny", Direction: "out", Reason: v.Reason()}
	if v.Allowed() {
		rec.Verdict = "allow"
	}
	if rule := v.Rule(); rule != nil {
		rec.Rule = rule.String()
	}
	return rec
}

// record is an item as the log has it; ok is false if it is not for the log.
func (x *item) record() (rec Record, ok bool) {
	switch x.kind {
	case ofFlow:
		rec = x.flow.record(x.at)
	case ofQuestion:
		q := &x.question
		rec = newRecord("dns", x.at, q.Verdict)
		rec.Name, rec.Type, rec.Rcode, rec.Error = q.Name, q.Type, q.Rcode, q.Error
		var addrs []string
		for _, a := range q.Addrs {
			addrs = append(addrs, a.String())
		}
		rec.Addr = strings.Join(addrs, ",")
	case ofReload:
		rec = Record{Time: x.at, Event: "reload", Reason: x.text}
	default:
		return rec, false
	}
	if x.count > 1 {
		rec.Count = x.count
	}
	return rec, true
}

// record is the event as the log has it.
func (e *Event) record(at time.Time) Record {
	rec := newRecord("decision", at, e.Verdict)
	rec.Flow, rec.Proto, rec.Name = e.Flow, e.Proto, e.Name
	if e.Verdict.Allowed() && !e.Ingress && e.Verdict.Via != policy.Direct {
		rec.Via = cmp.Or(e.Verdict.Via, e.Upstream, defaultVia)
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
		rec.End = e.End.String()
	}
	return rec
}

// records say in the log what was dropped. Those of denials have that as their verdict:
// without another, nothing that was allowed is missing.
func (l lost) records(at time.Time) (list []Record) {
	const reason = "they came faster than they were written"
	if l.denials > 0 {
		list = append(list, Record{Time: at, Event: "dropped", Verdict: "deny", Reason: reason, Count: l.denials})
	}
	if l.others > 0 {
		list = append(list, Record{Time: at, Event: "dropped", Reason: reason, Count: l.others})
	}
	return list
}

// line is the record as a line of the log: JSON (RFC 8259) in which all that a terminal
// may not show as it is has been escaped.
func (rec Record) line() ([]byte, error) {
	text, err := json.Marshal(rec)
	if err != nil {
		return nil, err
	}
	line := make([]byte, 0, len(text)+1)
	for i := 0; i < len(text); {
		if text[i] < 0x7f { // encoding/json has escaped what is below the space
			line = append(line, text[i])
			i++
			continue
		}
		c, size := utf8.DecodeRune(text[i:])
		switch {
		case strconv.IsPrint(c):
			line = append(line, text[i:i+size]...)
		case c > 0xffff:
			high, low := utf16.EncodeRune(c)
			line = fmt.Appendf(line, `\u%04x\u%04x`, high, low)
		default:
			line = fmt.Appendf(line, `\u%04x`, c)
		}
		i += size
	}
	return append(line, '\n'), nil
}

// fields are those of a record as an entry of systemd's journal has them
// (systemd.journal-fields(7)): APPFW_NAME, APPFW_ADDR and so on.
func (rec Record) fields() map[string]string {
	fields := make(map[string]string)
	values := make(map[string]any)
	if b, err := json.Marshal(rec); err == nil {
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber() // a float64 has 1e+06 for a million
		_ = d.Decode(&values)
	}
	for name, value := range values {
		if name != "time" { // the entry has one
			fields["APPFW_"+strings.ToUpper(name)] = fmt.Sprint(value)
		}
	}
	return fields
}
