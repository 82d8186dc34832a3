package internet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// router answers packets to addresses nobody has with "host unreachable". The kernel could, but would do so while
// the sender is still in connect(2), which then does not notice before it has sent again, a second later.
type router struct {
	v4, v6 *icmp.PacketConn
}

// newRouter opens the router's sockets in the calling thread's namespace.
func newRouter() (*router, error) {
	v4, err := icmp.ListenPacket("ip4:icmp", routerAddr4)
	if err != nil {
		return nil, fmt.Errorf("opening an ICMP socket: %w", err)
	}
	v6, err := icmp.ListenPacket("ip6:ipv6-icmp", routerAddr6)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening an ICMPv6 socket: %w", err), v4.Close())
	}
	return &router{v4, v6}, nil
}

func (r *router) close() error { return errors.Join(r.v4.Close(), r.v6.Close()) }

// reject tells the sender of the packet, of which this is the start, that its destination is unreachable.
func (r *router) reject(packet []byte, to destination) error {
	from, offset := netip.Addr{}, ipv6.HeaderLen
	m, conn := icmp.Message{Type: ipv6.ICMPTypeDestinationUnreachable, Code: 3}, r.v6
	if to.addr.Is4() {
		from, offset = netip.AddrFrom4([4]byte(packet[12:16])), int(packet[0]&15)*4
		m, conn = icmp.Message{Type: ipv4.ICMPTypeDestinationUnreachable, Code: 1}, r.v4
	} else {
		from = netip.AddrFrom16([16]byte(packet[8:24]))
	}
	switch {
	case !from.IsGlobalUnicast() || !to.addr.IsGlobalUnicast():
		return nil
	case (to.proto == unix.IPPROTO_ICMP || to.proto == unix.IPPROTO_ICMPV6) && !isPing(packet, offset):
		return nil // no errors about errors
	}
	m.Body = &icmp.DstUnreach{Data: packet[:min(len(packet), offset+128)]}
	b, err := m.Marshal(nil) // the kernel adds the checksum of ICMPv6
	if err != nil {
		return err
	}
	_, err = conn.WriteTo(b, &net.IPAddr{IP: from.AsSlice()})
	return err
}

// isPing reports whether the ICMP message at offset is an echo request.
func isPing(packet []byte, offset int) bool {
	return len(packet) > offset && (packet[offset] == byte(ipv4.ICMPTypeEcho) || packet[offset] == byte(ipv6.ICMPTypeEchoRequest))
}
