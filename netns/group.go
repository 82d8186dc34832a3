package netns

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Group names the user and the control group of the socket of a flow from src to dst
// (sock_diag(7)): services that share a namespace differ in one of them. It is empty if
// there is no such socket. proto is TCP or UDP.
func (ns *Namespace) Group(proto uint8, src, dst netip.AddrPort) (group string) {
	_ = ns.Do(func() error {
		r := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, 0)
		r.AddRawData(diagRequest(proto, src, dst))
		answers, err := r.Execute(unix.NETLINK_INET_DIAG, 0)
		if err == nil && len(answers) > 0 {
			group = diagGroup(answers[0])
		}
		return err
	})
	return group
}

// Of struct inet_diag_req_v2 and inet_diag_msg (linux/inet_diag.h).
const (
	diagRequestSize = 56
	diagMessageSize = 72
	diagUID         = 64 // offset in the message
	diagCgroupID    = 21 // attribute INET_DIAG_CGROUP_ID
)

// diagRequest asks for one socket, whose own address is src.
func diagRequest(proto uint8, src, dst netip.AddrPort) []byte {
	b := make([]byte, diagRequestSize)
	b[0], b[1] = unix.AF_INET6, proto
	if src.Addr().Is4() {
		b[0] = unix.AF_INET
	}
	binary.NativeEndian.PutUint32(b[4:], ^uint32(0)) // in any state
	binary.BigEndian.PutUint16(b[8:], src.Port())
	binary.BigEndian.PutUint16(b[10:], dst.Port())
	copy(b[12:28], src.Addr().AsSlice())
	copy(b[28:44], dst.Addr().AsSlice())
	copy(b[48:], "\xff\xff\xff\xff\xff\xff\xff\xff") // INET_DIAG_NOCOOKIE
	return b
}

// diagGroup is the group that an answer tells of.
func diagGroup(b []byte) string {
	if len(b) < diagMessageSize {
		return ""
	}
	uid, cgroup := binary.NativeEndian.Uint32(b[diagUID:]), uint64(0)
	attributes, _ := nl.ParseRouteAttr(b[diagMessageSize:])
	for _, a := range attributes {
		if a.Attr.Type == diagCgroupID && len(a.Value) >= 8 {
			cgroup = binary.NativeEndian.Uint64(a.Value)
		}
	}
	return fmt.Sprintf("%d %d", uid, cgroup)
}
