// Package socks has the parts of SOCKS5 (RFC 1928) that its clients (package
// upstream) and its server share: codes, how destinations are written, and the
// header of datagrams. It speaks with nobody.
//
//	datagram := socks.AppendAddress([]byte{0, 0, 0}, "a.example", 53)
//	datagram = append(datagram, data...)
//	to, data, ok := socks.Payload(datagram)
//	host, port := socks.SplitAddress(string(to))
package socks

import (
	"encoding/binary"
	"net/netip"
)

// Codes of RFC 1928, 3 to 6.
const (
	Version        = 5
	MethodNone     = 0
	MethodPassword = 2 // RFC 1929
	NoMethod       = 0xff
	CommandConnect = 1
	CommandUDP     = 3 // UDP ASSOCIATE
	AddressIPv4    = 1
	AddressName    = 3
	AddressIPv6    = 4
)

// AppendAddress appends the type of an address, the address and the port (RFC 1928,
// 5). host is an IP address without a zone, or else a name of at most 255 bytes.
func AppendAddress(b []byte, host string, port uint16) []byte {
	if a, err := netip.ParseAddr(host); err == nil && a.Zone() == "" {
		b = append(b, map[bool]byte{true: AddressIPv4, false: AddressIPv6}[a.Is4()])
		b = append(b, a.AsSlice()...)
	} else {
		b = append(append(b, AddressName, byte(len(host))), host...)
	}
	return binary.BigEndian.AppendUint16(b, port)
}

// SplitAddress is the host and the port in what AppendAddress appends.
func SplitAddress(b string) (host string, port uint16) {
	end := len(b) - 2
	if b[0] == AddressName {
		host = b[2:end]
	} else {
		a, _ := netip.AddrFromSlice([]byte(b[1:end]))
		host = a.String()
	}
	return host, binary.BigEndian.Uint16([]byte(b[end:]))
}

// Payload takes the address, as AppendAddress has it, and the data out of a datagram
// (RFC 1928, 7); false if it has none. Fragments are not put together: nobody makes
// them.
func Payload(datagram []byte) (address, data []byte, ok bool) {
	if len(datagram) < 5 || datagram[2] != 0 {
		return nil, nil, false
	}
	size := map[byte]int{AddressIPv4: 4 + 4 + 2, AddressIPv6: 4 + 16 + 2, AddressName: 4 + 1 + int(datagram[4]) + 2}[datagram[3]]
	if size == 0 || len(datagram) < size {
		return nil, nil, false
	}
	return datagram[3:size], datagram[size:], true
}
