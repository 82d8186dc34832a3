package journal

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"appfw/policy"
)

// End is how a flow ended.
type End uint8

const (
	Done    End = iota // both sides had ended
	Refused            // it was denied, and nothing had left for it
	Failed             // its destination could not be reached
	Left               // who wanted it left before it was connected
	Cut                // it was denied in the end: by another policy, or by what it showed
	Broken             // one side reset it, or an error did
	Idle               // datagrams came no more
	Crowded            // datagrams of other flows needed the room
	Stopped            // appfw ended
)

var endNames = [...]string{"done", "denied", "failed", "left", "denied", "reset", "idle", "crowded out", "stopped"}

func (e End) String() string { return endNames[e] }

// Event is a decision on a flow, or its end.
type Event struct {
	Flow    uint64 // which of the run; 0: of none
	Closed  bool   // the flow ended; what is set from End on
	Allowed bool   // a denial is of a flow that was allowed before
	Verdict policy.Verdict

	// Upstream is the one without a name, as people know it, of a flow that goes out by
	// that; no password is in it.
	Upstream string

	Proto string // "tcp", "udp", "icmp", or another protocol's name or number
	Dst   netip.AddrPort
	Name  string // that the destination is known or shown by; may hold any bytes

	// Ingress tells that the flow comes from a client of a published port. Dst is
	// then the client's address, and the port that it came to.
	Ingress bool

	// Of a client of the explicit proxy or of a published port: its address; and
	// the user that it is.
	Client, User string

	End            End
	Failed         string // why it could not be connected; "" if it could, or did not try
	Sent, Received int64  // payload bytes, as the app sees it
	Duration       time.Duration
}

// What says what the event is about.
func (e Event) What() string {
	if !e.Dst.IsValid() && e.Dst.Port() == 0 && e.Name == "" && e.Client != "" {
		host, _, err := net.SplitHostPort(e.Client)
		if err != nil {
			host = e.Client
		}
		return "client " + host
	}
	if e.Ingress {
		return fmt.Sprintf("%s from %s to port %d", e.Proto, e.Dst.Addr(), e.Dst.Port())
	}
	what := e.Proto + " " + Destination(e.Name, e.Dst)
	if e.User != "" {
		what += " for " + e.User
	}
	return what
}

// Destination is HOST:PORT as people know it: with the name if there is one.
func Destination(name string, dst netip.AddrPort) string {
	switch {
	case name != "" && dst.Port() != 0:
		return fmt.Sprintf("%s:%d", name, dst.Port())
	case name != "":
		return name
	case !dst.IsValid():
		return "packet"
	case dst.Port() == 0:
		return dst.Addr().String()
	}
	return dst.String()
}
