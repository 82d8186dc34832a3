package internet

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// destination is what packets are counted by. port is 0 for protocols without ports.
type destination struct {
	addr  netip.Addr
	proto uint8
	port  uint16
}

// parse reads the destination from the start of an IP packet. Neighbour discovery
// (RFC 4861) is none: kernels look after each other by it whenever they like.
func parse(b []byte) (to destination, ok bool) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		to.addr, to.proto = netip.AddrFrom4([4]byte(b[16:20])), b[9]
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return to, true // not the first fragment: no port
		}
		b = b[min(int(b[0]&15)*4, len(b)):]
	case len(b) >= 40 && b[0]>>4 == 6:
		to.addr, to.proto = netip.AddrFrom16([16]byte(b[24:40])), b[6]
		b = b[40:]
		for len(b) >= 8 && (to.proto == unix.IPPROTO_HOPOPTS || to.proto == unix.IPPROTO_ROUTING || to.proto == unix.IPPROTO_DSTOPTS) {
			to.proto, b = b[0], b[min(int(b[1])*8+8, len(b)):]
		}
	default:
		return to, false
	}
	if to.proto == unix.IPPROTO_ICMPV6 && len(b) > 0 && b[0] >= 133 && b[0] <= 137 {
		return to, false
	}
	if len(b) >= 4 && (to.proto == unix.IPPROTO_TCP || to.proto == unix.IPPROTO_UDP) {
		to.port = binary.BigEndian.Uint16(b[2:])
	}
	return to, true
}

// payload is what the TCP segment or UDP datagram in an IP packet, which parse took, carries; extension headers are
// not looked behind.
func payload(b []byte) []byte {
	var proto byte
	if b[0]>>4 == 4 {
		header, size := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:])) // short packets are padded
		proto, b = b[9], b[min(header, len(b)):min(max(header, size), len(b))]
	} else {
		proto, b = b[6], b[40:]
	}
	switch {
	case proto == unix.IPPROTO_UDP && len(b) >= 8:
		return b[8:]
	case proto == unix.IPPROTO_TCP && len(b) >= 20:
		return b[min(int(b[12]>>4)*4, len(b)):]
	}
	return nil
}
