package sniff

import (
	"fmt"

	"golang.org/x/crypto/cryptobyte"
)

// longPacket is a packet with a long header and a length: an Initial, 0-RTT or
// Handshake packet (RFC 9000, 17.2).
type longPacket struct {
	version    *quicVersion
	initial    bool
	dcid, scid string
	bytes      []byte
	number     int // where in bytes the packet number begins
}

// parseLong parses the packet that a datagram begins with.
func parseLong(b []byte) (p *longPacket, rest []byte, err error) {
	s := cryptobyte.String(b)
	var first uint8
	var version uint32
	if !s.ReadUint8(&first) || !s.ReadUint32(&version) {
		return nil, nil, errQUIC
	}
	p = &longPacket{version: versionOf(version)}
	if p.version == nil || first&longHeader == 0 {
		return nil, nil, fmt.Errorf("%w: %#x", errVersion, version)
	}
	kind := (first>>4 - p.version.initial) & 3
	p.initial = kind == 0
	var dcid, scid, token cryptobyte.String
	var length uint64
	if kind == 3 || // Retry: no client sends it
		!s.ReadUint8LengthPrefixed(&dcid) || len(dcid) > maxID ||
		!s.ReadUint8LengthPrefixed(&scid) || len(scid) > maxID ||
		p.initial && !readVarintPrefixed(&s, &token) ||
		!readVarint(&s, &length) || length > uint64(len(s)) {
		return nil, nil, errQUIC
	}
	p.dcid, p.scid = string(dcid), string(scid)
	p.number = len(b) - len(s)
	end := p.number + int(length)
	p.bytes = b[:end]
	return p, b[end:], nil
}

// varint16 marks a variable-length integer of two bytes (RFC 9000, 16).
const varint16 = 1 << 14

// readVarint reads a variable-length integer (RFC 9000, 16).
func readVarint(s *cryptobyte.String, v *uint64) bool {
	var b uint8
	if !s.ReadUint8(&b) {
		return false
	}
	*v = uint64(b & 0x3f)
	for range 1<<(b>>6) - 1 {
		if !s.ReadUint8(&b) {
			return false
		}
		*v = *v<<8 | uint64(b)
	}
	return true
}

// readVarintPrefixed reads bytes and, ahead of them, how many they are.
func readVarintPrefixed(s *cryptobyte.String, out *cryptobyte.String) bool {
	var length uint64
	return readVarint(s, &length) && length <= uint64(len(*s)) && s.ReadBytes((*[]byte)(out), int(length))
}

func skipVarints(s *cryptobyte.String, n uint64) bool {
	for range n {
		if !readVarint(s, new(uint64)) {
			return false
		}
	}
	return true
}
