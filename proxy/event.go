package proxy

import (
	"fmt"
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

	Sent, Received int64 // payload bytes, as the app sees it
	Duration       time.Duration
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
