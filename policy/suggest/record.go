package suggest

import (
	"net/netip"
	"strings"

	"appfw/policy"
)

// record is what matters here of a line of the log.
type record struct {
	Event     string `json:"event"`     // decision, close, dns; others do not matter
	Verdict   string `json:"verdict"`   // allow, deny
	Direction string `json:"direction"` // out, in
	Proto     string `json:"proto"`
	Addr      string `json:"addr"`
	Port      uint16 `json:"port"` // 0 for ICMP
	Name      string `json:"name"`
	Type      string `json:"type"`  // of a question
	Via       string `json:"via"`   // the upstream that it goes out by; unnamed: the one without a name
	Error     string `json:"error"` // why it could not be connected
	Count     int    `json:"count"` // how often it happened; without, once
}

// maxCount bounds how often a line says that something happened: it is not trusted.
const maxCount = 1 << 30

// unnamed is how the log names the upstream that has no name.
const unnamed = "(default)"

// add takes in a line. Nothing in it is trusted.
func (h *History) add(rec record) {
	if rec.Direction != "out" {
		return
	}
	name, err := policy.ParseName(rec.Name)
	if err != nil || h.host.Loopback != nil && h.host.Loopback(name) {
		name = ""
	}
	times := min(max(rec.Count, 1), maxCount)
	switch {
	case rec.Event == "dns" && name != "" && rec.Type != "PTR":
		h.asked[question{name, rec.Verdict == "allow"}] += times
	case rec.Event == "decision", rec.Event == "close" && rec.Error != "":
		h.chained = h.chained || rec.Via != ""
		if f, ok := rec.flow(name); ok && rec.Event == "close" {
			h.failed[f] += times
		} else if ok {
			h.flows[f] += times
			h.denied[f.at] = h.denied[f.at] || !f.allowed
		}
	}
}

// flow is the flow that the record is of; false if no rule could be for it.
func (rec *record) flow(name policy.Name) (f flow, ok bool) {
	proto, err := policy.ParseProto(rec.Proto)
	addr, _ := netip.ParseAddr(rec.Addr)
	if strings.Contains(rec.Via, "://") { // the log names it by its URLs
		rec.Via = unnamed
	}
	f = flow{
		to:      destination{name: name, via: rec.Via},
		at:      end{policy.Embedded(addr), proto, rec.Port}, // the address that rules see
		allowed: rec.Verdict == "allow",
	}
	if name == "" {
		f.to.addr = f.at.addr
	}
	hasHost := name != "" || f.at.addr.IsValid()
	hasPort := (rec.Port == 0) == (proto == policy.ICMP)
	return f, err == nil && hasHost && hasPort && (rec.Via == unnamed || upstreamName(rec.Via))
}

// upstreamName tells whether an upstream may have that name; one may have none.
func upstreamName(s string) bool {
	return len(s) <= 63 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}
