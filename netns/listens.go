package netns

import (
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Listens tells whether a process in the namespace listens at a port, of TCP or of UDP, at
// whatever address (sock_diag(7)).
func (ns *Namespace) Listens(udp bool, port uint16) bool {
	list := netlink.SocketDiagTCP
	if udp {
		list = netlink.SocketDiagUDP
	}
	found := false
	_ = ns.Do(func() error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			sockets, err := list(family)
			if err != nil {
				return err
			}
			for _, s := range sockets {
				open := s.State == netlink.TCP_LISTEN || udp && s.ID.DestinationPort == 0
				found = found || open && s.ID.SourcePort == port
			}
		}
		return nil
	})
	return found
}
