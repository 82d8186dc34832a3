package netns

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Connection is a TCP connection as its end in a namespace sees it.
type Connection struct{ Local, Remote netip.AddrPort }

// Closing lists the connections that programs in the namespace have closed, and
// whose data the kernel still delivers (sock_diag(7)).
func (ns *Namespace) Closing() (map[Connection]bool, error) {
	closing := make(map[Connection]bool)
	err := ns.Do(func() error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			sockets, err := netlink.SocketDiagTCP(family)
			if err != nil {
				return err
			}
			for _, s := range sockets {
				switch s.State {
				case netlink.TCP_FIN_WAIT1, netlink.TCP_CLOSING, netlink.TCP_LAST_ACK:
					local, _ := netip.AddrFromSlice(s.ID.Source)
					remote, _ := netip.AddrFromSlice(s.ID.Destination)
					closing[Connection{
						netip.AddrPortFrom(local.Unmap(), s.ID.SourcePort),
						netip.AddrPortFrom(remote.Unmap(), s.ID.DestinationPort),
					}] = true
				}
			}
		}
		return nil
	})
	return closing, err
}
