package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"appfw/policy"
)

// Event is a decision on a flow, or its end.
type Event struct {
	Closed  bool // the flow ended; what follows Verdict is set
	Verdict policy.Verdict
	Proto   string // "tcp", "udp", "icmp", or another protocol's name or number
	Dst     netip.AddrPort
	Name    string // that the destination is known or shown by; may hold any bytes

	// Ingress tells that the flow comes from a client of a published port. Dst is
	// then the client's address, and the port that it came to.
	Ingress bool

	// Of a client of the explicit proxy or of a published port: its address; and
	// the user that it is.
	Client, User string

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

// protoName names an IP protocol (IANA protocol numbers) that is no transport
// of package policy.
func protoName(number uint8) string {
	switch number {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return "icmp"
	case unix.IPPROTO_IGMP:
		return "igmp"
	case unix.IPPROTO_SCTP:
		return "sctp"
	case unix.IPPROTO_GRE:
		return "gre"
	case unix.IPPROTO_ESP:
		return "esp"
	case unix.IPPROTO_DCCP:
		return "dccp"
	case unix.IPPROTO_UDPLITE:
		return "udplite"
	}
	return fmt.Sprintf("protocol-%d", number)
}
