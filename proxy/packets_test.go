package proxy

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"appfw/netns"
)

// The app's sockets.
var (
	app4 = netip.AddrPortFrom(netns.App4, 40000)
	app6 = netip.AddrPortFrom(netns.App6, 40000)
)

// ipPacket is an IP packet without options (RFC 791, RFC 8200).
func ipPacket(proto uint8, src, dst netip.Addr, payload []byte) []byte {
	if src.Is4() {
		h := make([]byte, 20, 20+len(payload))
		h[0], h[8], h[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
		copy(h[12:], src.AsSlice())
		copy(h[16:], dst.AsSlice())
		return append(h, payload...)
	}
	h := make([]byte, 40, 40+len(payload))
	h[0], h[6], h[7] = 0x60, proto, 64
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	return append(h, payload...)
}

func ports(src, dst netip.AddrPort) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, src.Port()), dst.Port())
}

// synPacket is a SYN (RFC 9293, 3.1).
func synPacket(src, dst netip.AddrPort) []byte {
	t := append(ports(src, dst), make([]byte, 16)...)
	binary.BigEndian.PutUint32(t[4:], 7)
	t[12], t[13] = 5<<4, 2
	return ipPacket(unix.IPPROTO_TCP, src.Addr(), dst.Addr(), t)
}

// udpPacket is a datagram (RFC 768).
func udpPacket(src, dst netip.AddrPort, data string) []byte {
	t := append(ports(src, dst), 0, 0, 0, 0)
	binary.BigEndian.PutUint16(t[4:], uint16(8+len(data)))
	return ipPacket(unix.IPPROTO_UDP, src.Addr(), dst.Addr(), append(t, data...))
}

// echoPacket is an echo request (RFC 792, RFC 4443).
func echoPacket(src, dst netip.Addr, id, seq byte, data string) []byte {
	if src.Is4() {
		return ipPacket(unix.IPPROTO_ICMP, src, dst, append([]byte{8, 0, 0, 0, 0, id, 0, seq}, data...))
	}
	return ipPacket(unix.IPPROTO_ICMPV6, src, dst, append([]byte{128, 0, 0, 0, 0, id, 0, seq}, data...))
}

// kindOf is what a reply is, in words.
func kindOf(p netns.Packet) string {
	switch {
	case p.Proto == unix.IPPROTO_TCP && p.IP[len(p.IP)-7]&4 > 0:
		return "reset"
	case p.Proto == unix.IPPROTO_UDP:
		return "datagram"
	case p.Proto == unix.IPPROTO_ICMP && p.Payload[0] == 0, p.Proto == unix.IPPROTO_ICMPV6 && p.Payload[0] == 129:
		return "echo reply"
	case p.Proto == unix.IPPROTO_ICMP && p.Payload[0] == 3:
		return map[byte]string{0: "no network", 1: "no host", 3: "no port", 13: "prohibited"}[p.Payload[1]]
	case p.Proto == unix.IPPROTO_ICMPV6 && p.Payload[0] == 1:
		return map[byte]string{0: "no network", 3: "no host", 4: "no port", 1: "prohibited"}[p.Payload[1]]
	}
	return "something else"
}
