package sniff

import "encoding/binary"

const (
	recordChangeCipherSpec = 20           // RFC 8446, 5.1
	recordAlert            = 21           // RFC 8446, 5.1
	recordHandshake        = 22           // RFC 8446, 5.1
	recordHeartbeat        = 24           // RFC 6520, 8; no type is above it
	maxRecord              = 1 << 14      // RFC 8446, 5.1
	maxCiphertext          = 1<<14 + 2048 // RFC 5246, 6.2.3
	clientHello            = 1            // RFC 8446, 4
	serverHello            = 2            // RFC 8446, 4
	extServerName          = 0            // RFC 6066, 3
	// majorVersion is that of every TLS record, but servers need not look at
	// it (RFC 8446, 5.1): crypto/tls takes any that is below majorLimit.
	majorVersion = 3
	majorLimit   = 16
	// maxHello bounds a ClientHello. Its extensions are at most 65,535 bytes
	// (RFC 8446, 4.1.2), all before them less than 66,000.
	maxHello = 1<<17 + 1<<10
)

// RecordHeader is the size of a TLS record's header: type, version, length (RFC
// 8446, 5.1).
const RecordHeader = 5

// RecordSize is the size of the record that b starts with, header included, or an
// error if that is none of TLS. b has the header.
func RecordSize(b []byte) (int, error) {
	if b[0] < recordChangeCipherSpec || b[0] > recordHeartbeat || recordLength(b) > maxCiphertext {
		return 0, ErrHello
	}
	return RecordHeader + recordLength(b), nil
}

// IsHello tells whether b starts with a record that starts a ClientHello. It takes
// the header and a byte to tell.
func IsHello(b []byte) bool {
	return len(b) > RecordHeader && b[0] == recordHandshake && recordLength(b) > 0 && b[RecordHeader] == clientHello
}

func recordLength(header []byte) int { return int(binary.BigEndian.Uint16(header[3:])) }

// identifyEarly recognizes a record ahead of a ClientHello, which servers may
// pass over (RFC 5246, 7.2.2; RFC 8446, D.4; an empty one) and no client sends.
func identifyEarly(b []byte) (State, error) {
	switch {
	case len(b) >= 2 && b[1] >= majorLimit:
		return Nameless, nil
	case len(b) < 6 && !(len(b) == RecordHeader && recordLength(b) == 0):
		return NeedMore, nil
	case b[1] == majorVersion && recordLength(b) <= maxCiphertext:
		return Nameless, ErrHello
	case b[0] == recordAlert && recordLength(b) == 2 && b[5] == 1: // a warning, to crypto/tls
		return Nameless, ErrHello
	}
	return Nameless, nil
}
