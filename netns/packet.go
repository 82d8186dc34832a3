package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Packet is an IP packet as the app sent it. It is parsed from what the kernel
// shows, and nothing in it is trusted but its shape.
type Packet struct {
	Proto    uint8          // transport protocol (IANA protocol number)
	Src, Dst netip.AddrPort // the port is 0 where the protocol has none
	Payload  []byte         // what follows the UDP or TCP header; the whole message for ICMP
	IP       []byte         // the whole packet
	Alone    bool           // no other waited before it: there is time

	tcpSeq uint32
	opens  bool   // a TCP segment that opens a connection (RFC 9293, 3.1)
	id     uint32 // NFQUEUE's name for it
}

// Why a packet is not one that could be judged by destination and port.
var (
	ErrTruncated = errors.New("truncated packet")
	ErrFragment  = errors.New("fragment")
	ErrExtension = errors.New("IPv6 extension header")
	ErrMapped    = errors.New("IPv4 address within IPv6") // never on the wire (RFC 4038, 4.2)
)

// ParsePacket parses an IPv4 (RFC 791) or IPv6 (RFC 8200) packet that carries
// TCP, UDP, ICMP or anything else. On ErrFragment, ErrExtension, ErrMapped and, where
// the addresses were there, ErrTruncated the packet has its addresses and protocol.
func ParsePacket(b []byte) (Packet, error) {
	p := Packet{IP: b}
	if len(b) == 0 {
		return p, ErrTruncated
	}
	var transport []byte
	var err error
	switch b[0] >> 4 {
	case 4:
		transport, err = p.parse4(b)
	case 6:
		transport, err = p.parse6(b)
	default:
		err = ErrTruncated
	}
	if err == nil {
		err = p.parseTransport(transport)
	}
	return p, err
}

// parse4 parses the header of IPv4, and returns what follows it.
func (p *Packet) parse4(b []byte) (transport []byte, err error) {
	ihl := int(b[0]&0x0f) * 4
	if ihl < 20 || len(b) < ihl {
		return nil, ErrTruncated
	}
	p.Proto = b[9]
	p.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), 0)
	p.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), 0)
	if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 { // MF or an offset
		return nil, ErrFragment
	}
	return b[ihl:], nil
}

// parse6 is parse4 for IPv6.
func (p *Packet) parse6(b []byte) (transport []byte, err error) {
	if len(b) < 40 {
		return nil, ErrTruncated
	}
	p.Proto = b[6]
	p.Src = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), 0)
	p.Dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24:40])), 0)
	if p.Src.Addr().Is4In6() || p.Dst.Addr().Is4In6() {
		return nil, ErrMapped
	}
	switch p.Proto {
	case unix.IPPROTO_FRAGMENT:
		return nil, ErrFragment
	case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
		return nil, ErrExtension
	}
	return b[40:], nil
}

// parseTransport parses the header of the transport protocol.
func (p *Packet) parseTransport(b []byte) error {
	header := 0
	switch p.Proto {
	case unix.IPPROTO_TCP:
		if len(b) < 20 {
			return ErrTruncated
		}
		if header = int(b[12]>>4) * 4; header < 20 {
			return ErrTruncated
		}
		p.tcpSeq, p.opens = binary.BigEndian.Uint32(b[4:]), b[13]&0x12 == 0x02
	case unix.IPPROTO_UDP:
		header = 8
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		if len(b) < 8 {
			return ErrTruncated
		}
	}
	if len(b) < header {
		return ErrTruncated
	}
	p.Payload = b[header:]
	if header > 0 {
		p.Src = netip.AddrPortFrom(p.Src.Addr(), binary.BigEndian.Uint16(b))
		p.Dst = netip.AddrPortFrom(p.Dst.Addr(), binary.BigEndian.Uint16(b[2:]))
	}
	return nil
}

// Echo tells whether the packet is an ICMP echo request (RFC 792, RFC 4443).
func (p Packet) Echo() bool {
	switch {
	case p.Proto == unix.IPPROTO_ICMP && p.Dst.Addr().Is4():
		return len(p.Payload) >= 8 && p.Payload[0] == 8 && p.Payload[1] == 0
	case p.Proto == unix.IPPROTO_ICMPV6 && p.Dst.Addr().Is6():
		return len(p.Payload) >= 8 && p.Payload[0] == 128 && p.Payload[1] == 0
	}
	return false
}

// ICMPError tells whether the packet is an ICMP error message. None is ever
// answered by another (RFC 1122, 3.2.2; RFC 4443, 2.4 (e)).
func (p Packet) ICMPError() bool {
	if len(p.Payload) == 0 {
		return false
	}
	switch p.Proto {
	case unix.IPPROTO_ICMP:
		kind := p.Payload[0]
		return kind >= 3 && kind <= 5 || kind == 11 || kind == 12
	case unix.IPPROTO_ICMPV6:
		return p.Payload[0] < 128
	}
	return false
}

// Unreachable is why a destination cannot be reached, as ICMP says it.
type Unreachable uint8

const (
	Prohibited Unreachable = iota // EHOSTUNREACH, EACCES: a policy forbids it
	NoNetwork                     // ENETUNREACH
	NoHost                        // EHOSTUNREACH
	NoPort                        // ECONNREFUSED
)

// icmpCodes are the codes of Destination Unreachable, by family (RFC 792,
// RFC 1812 section 5.2.7.1, RFC 4443 section 3.1).
var icmpCodes = map[Unreachable]struct{ v4, v6 byte }{
	Prohibited: {13, 1},
	NoNetwork:  {0, 0},
	NoHost:     {1, 3},
	NoPort:     {3, 4},
}

// Unreachable builds the ICMP error that the destination of p sends back, or the
// gateway for an address that cannot be a source (RFC 1122, 3.2.1.3): a whole IP
// packet, for [Gate.Send]. It quotes p.IP.
func (p Packet) Unreachable(why Unreachable) []byte {
	if a := p.Dst.Addr(); a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		p.Dst = netip.AddrPortFrom(Gateway6, 0)
		if a.Is4() {
			p.Dst = netip.AddrPortFrom(Gateway4, 0)
		}
	}
	codes := icmpCodes[why]
	if p.Dst.Addr().Is4() {
		quote := p.IP[:min(len(p.IP), 548)] // RFC 1812, 4.3.2.3: at most 576 bytes in all
		msg := append([]byte{3, codes.v4, 0, 0, 0, 0, 0, 0}, quote...)
		return p.reply(unix.IPPROTO_ICMP, msg, 2)
	}
	quote := p.IP[:min(len(p.IP), 1232)] // RFC 4443, 2.4 (c): at most 1280 bytes in all
	msg := append([]byte{1, codes.v6, 0, 0, 0, 0, 0, 0}, quote...)
	return p.reply(unix.IPPROTO_ICMPV6, msg, 2)
}

// Reset builds the segment that refuses p, a SYN (RFC 9293, 3.10.7.1): a whole IP
// packet, for [Gate.Send]. With it, connect(2) fails with ECONNREFUSED.
func (p Packet) Reset() []byte {
	t := make([]byte, 20)
	binary.BigEndian.PutUint16(t[0:], p.Dst.Port())
	binary.BigEndian.PutUint16(t[2:], p.Src.Port())
	binary.BigEndian.PutUint32(t[8:], p.tcpSeq+1+uint32(len(p.Payload)))
	t[12] = 5 << 4
	t[13] = 0x14 // RST, ACK
	return p.reply(unix.IPPROTO_TCP, t, 16)
}

// Datagram builds the UDP datagram by which the destination answers p, another one:
// a whole IP packet, for [Gate.Send]. data is at most 65507 bytes with IPv4.
func (p Packet) Datagram(data []byte) []byte {
	t := make([]byte, 8, 8+len(data))
	binary.BigEndian.PutUint16(t[0:], p.Dst.Port())
	binary.BigEndian.PutUint16(t[2:], p.Src.Port())
	binary.BigEndian.PutUint16(t[4:], uint16(8+len(data)))
	return p.reply(unix.IPPROTO_UDP, append(t, data...), 6)
}

// EchoReply builds the answer to p, which is an echo request ([Packet.Echo]): a
// whole IP packet, for [Gate.Send]. data is what follows the identifier and sequence
// number, which are the request's.
func (p Packet) EchoReply(data []byte) []byte {
	msg := append([]byte{0, 0, 0, 0}, p.Payload[4:8]...)
	if p.Dst.Addr().Is6() {
		msg[0] = 129
	}
	return p.reply(p.Proto, append(msg, data...), 2)
}

// reply wraps a transport message into an IP packet from the destination of p
// to its source. The message's checksum goes to the given offset.
func (p Packet) reply(proto uint8, msg []byte, checksumAt int) []byte {
	src, dst := p.Dst.Addr(), p.Src.Addr()
	var sum uint32
	if proto != unix.IPPROTO_ICMP { // all others have a pseudo header
		sum = partialSum(src.AsSlice(), sum)
		sum = partialSum(dst.AsSlice(), sum)
		sum += uint32(proto) + uint32(len(msg))
	}
	c := fold(partialSum(msg, sum))
	if c == 0 && proto == unix.IPPROTO_UDP {
		c = 0xffff // RFC 768: 0 means none
	}
	binary.BigEndian.PutUint16(msg[checksumAt:], c)

	if src.Is4() {
		h := make([]byte, 20, 20+len(msg))
		h[0], h[8], h[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(msg)))
		copy(h[12:], src.AsSlice())
		copy(h[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(h[10:], fold(partialSum(h, 0)))
		return append(h, msg...)
	}
	h := make([]byte, 40, 40+len(msg))
	h[0], h[6], h[7] = 0x60, proto, 64
	binary.BigEndian.PutUint16(h[4:], uint16(len(msg)))
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	return append(h, msg...)
}

// partialSum and fold are the Internet checksum (RFC 1071).
func partialSum(b []byte, sum uint32) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// ProtocolName names an IP protocol (IANA protocol numbers) other than TCP, UDP
// and ICMP.
func ProtocolName(number uint8) string {
	switch number {
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
