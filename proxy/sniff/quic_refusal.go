package sniff

import (
	"encoding/binary"

	"golang.org/x/crypto/cryptobyte"
)

// RefuseQUIC is Refusal for a client of which this is the first datagram.
func RefuseQUIC(datagram []byte, reason string) []byte {
	var hellos QUIC
	_, _, _ = hellos.Read(datagram)
	return hellos.Refusal(reason)
}

// Refusal is a datagram of the server's that ends the connection of the client's
// last Initial at once (RFC 9000, 10.2.3), with a reason, cut to 1,000 bytes; or, if
// its version is not read, one that names those that are; nil if there was none. It
// is for clients that do not hear ICMP errors.
func (q *QUIC) Refusal(reason string) []byte {
	// Larger than any that a server's Initial had: a number that the client
	// knows already it would take for a duplicate.
	const number = 1 << 20
	if q.last == nil {
		return q.negotiation
	}
	keys, err := initialKeys(q.last.version, q.of.id, serverSide)
	if err != nil {
		return nil
	}
	reason = reason[:min(len(reason), maxReason)]
	payload := []byte{frameConnectionClose, connectionRefused, framePadding} // no frame is to blame
	payload = binary.BigEndian.AppendUint16(payload, varint16|uint16(len(reason)))
	payload = append(payload, reason...)

	// Its source is what the client sent to, which is the server's choice if
	// it was heard already: of another the client drops it (RFC 9000, 7.2).
	var header cryptobyte.Builder
	header.AddUint8(longHeader | fixedBit | q.last.version.initial<<4 | 3) // four bytes of number
	header.AddUint32(q.last.version.number)
	header.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(q.last.scid)) })
	header.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(q.last.dcid)) })
	header.AddUint8(0) // no token
	header.AddUint16(varint16 | uint16(4+len(payload)+keys.aead.Overhead()))
	header.AddUint32(number)
	return keys.seal(header.BytesOrPanic(), payload, number)
}

// negotiate is the Version Negotiation packet that answers a datagram (RFC 8999, 6).
func negotiate(datagram []byte) []byte {
	s := cryptobyte.String(datagram)
	var dcid, scid cryptobyte.String
	if !s.Skip(5) || !s.ReadUint8LengthPrefixed(&dcid) || !s.ReadUint8LengthPrefixed(&scid) {
		return nil
	}
	var b cryptobyte.Builder
	b.AddUint8(longHeader | fixedBit)
	b.AddUint32(0)
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(scid) })
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(dcid) })
	for _, v := range quicVersions {
		b.AddUint32(v.number)
	}
	return b.BytesOrPanic()
}
