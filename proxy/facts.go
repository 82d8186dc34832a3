package proxy

import (
	"net/netip"

	"appfw/policy"
	"appfw/proxy/decide"
	"appfw/proxy/journal"
)

// Facts is what is known of a flow that somebody attempts.
type Facts struct {
	decide.Facts
	Scope   *Scope // where it belongs
	Key     Key
	Subject Subject
	Web     bool   // it is for requests for http: URLs, and nothing else
	Called  string // as what comes closest to a name is written, for the log; may hold any bytes
}

// Subject is who attempts a flow.
type Subject struct {
	Owner       func() string // names its process; nil: that cannot be told
	Group       func() string // names the group of programs that is to share a gate fairly; nil: there is one
	Client      string        // of the explicit proxy, or of a published port: its address
	User        string        // that it is known as
	Credentials string        // that it gave, whatever for; they isolate
	Still       func() bool   // whether it may use the proxy; nil: that does not change
}

// otherProto is the class of protocols that are not carried.
const otherProto policy.Proto = 3

// class is the protocol, for bounds.
func (f *Facts) class() policy.Proto {
	if f.Other != "" {
		return otherProto
	}
	return f.Proto
}

// protocol names the protocol.
func (f *Facts) protocol() string {
	if f.Other != "" {
		return f.Other
	}
	return f.Proto.String()
}

// event is what is said of a flow with these facts.
func (f *Facts) event(v policy.Verdict) journal.Event {
	e := journal.Event{Verdict: v, Proto: f.protocol(), Dst: f.Dst, Ingress: f.In, Client: f.Subject.Client, User: f.Subject.User}
	if f.In {
		e.Dst = netip.AddrPortFrom(f.Src.Addr(), f.Dst.Port())
	}
	return e
}
