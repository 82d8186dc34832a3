package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"appfw/policy"
)

const (
	longHeader = 0x80 // the first byte's bit for it (RFC 8999, 5.1)
	fixedBit   = 0x40 // RFC 9000, 17.2
	maxID      = 20   // bytes of a connection ID (RFC 9000, 17.2)
	minInitial = 1200 // bytes of a datagram with a client's Initial (RFC 9000, 14.1)

	// Frames that an Initial may have (RFC 9000, 12.4).
	framePadding         = 0x00
	framePing            = 0x01
	frameACK             = 0x02
	frameACKWithECN      = 0x03
	frameCrypto          = 0x06
	frameConnectionClose = 0x1c
	connectionRefused    = 0x02 // RFC 9000, 20.1

	// maxConnections bounds those that are remembered of a flow. Most clients
	// take a socket for each, and a Retry makes two of one; but some, such as
	// quic-go's for HTTP/3, dial again and again with one socket.
	maxConnections = 64
	// maxAhead bounds the bytes of a stream, present or not, after the first
	// that is missing. Servers take some 4,096 (RFC 9000, 7.5) to 16 KiB.
	maxAhead = 1 << 14
	// maxHellos: one, and one more after a HelloRetryRequest (RFC 8446, 4.1.4).
	maxHellos = 2
	// maxStreams bounds the streams of a flow together.
	maxStreams = 64 << 10
	// maxReason leaves a refusal below the 1,200 bytes that every path takes.
	maxReason = 1000
)

var (
	errQUIC     = errors.New("the QUIC packet cannot be understood")
	errVersion  = errors.New("the version of QUIC is not one that is read")
	errKeys     = errors.New("the QUIC Initial is of no connection of this flow")
	errConflict = errors.New("the QUIC ClientHello was sent in two ways")
	errTooMuch  = errors.New("the QUIC flow has too many connections, or sends too much before a ClientHello is complete")
)

// quicHellos follows what a client sends in the QUIC connections of one UDP
// flow, and finds the names that its ClientHellos show. The zero value is ready.
type quicHellos struct {
	connections []*quicConnection
	last        *longPacket     // the last Initial that could be decrypted, or nil
	of          *quicConnection // the connection of last
	early       bool            // 0-RTT or Handshake packets came
	err         error           // from the first error on
	negotiation []byte          // answers a version that is not read, or nil
}

// read takes in a datagram of the client's. names are those that the
// ClientHellos it completed show (none for a ClientHello without a name). more
// tells that a ClientHello is still incomplete: the datagram, and those after
// it, must wait until it is complete. An error means that the flow is QUIC and
// cannot be understood; nothing of it may be passed on.
func (q *quicHellos) read(datagram []byte) (names []policy.Name, more bool, err error) {
	if q.err == nil && looksQUIC(datagram) {
		names, q.err = q.packets(datagram)
		if errors.Is(q.err, errVersion) && len(datagram) >= minInitial {
			q.negotiation = negotiate(datagram)
		}
	}
	if q.err != nil {
		return nil, false, q.err
	}
	return names, q.incomplete(), nil
}

// looksQUIC tells whether a datagram begins with a QUIC packet that starts or
// negotiates a connection. Those of other versions than are read can but be
// guessed: by the first bits of IETF QUIC and the size that servers insist on,
// or by the version of a draft (0xff0000..) or of Google's QUIC, of which
// servers take smaller ones. Version 0 is Version Negotiation, which no server
// acts on.
func looksQUIC(b []byte) bool {
	if len(b) < 5 {
		return false
	}
	version := binary.BigEndian.Uint32(b[1:])
	switch {
	case b[0]&longHeader == 0: // Google's to Q043: flags, connection ID, version
		return b[0]&0xc9 == 0x09 && len(b) >= 13 && googleQUIC(b[9:13])
	case versionOf(version) != nil: // whatever the fixed bit is (RFC 9287)
		return true
	case b[0]&fixedBit == 0 || version == 0:
		return false
	}
	return len(b) >= minInitial || version>>8 == 0xff0000 || googleQUIC(b[1:5])
}

// googleQUIC tells whether a version is "Q043" or the like: deprecated, but
// LiteSpeed servers may still speak it, and its names are not in a TLS hello.
func googleQUIC(version []byte) bool {
	digit := func(b byte) bool { return b >= '0' && b <= '9' }
	return (version[0] == 'Q' || version[0] == 'T') && version[1] == '0' && digit(version[2]) && digit(version[3])
}

// packets goes through the packets of a datagram (RFC 9000, 12.2), whatever
// connection they are of: servers may or may not look at all of them. One with
// a short header has no length, so it is the last; zeros after the last packet
// look the same.
func (q *quicHellos) packets(b []byte) (names []policy.Name, err error) {
	for {
		p, rest, err := parseLong(b)
		if err != nil {
			return nil, err
		}
		if p.initial {
			shown, err := q.initial(p)
			if err != nil {
				return nil, err
			}
			names = append(names, shown...)
		} else {
			q.early = true
		}
		if b = rest; len(b) == 0 || b[0]&longHeader == 0 {
			return names, nil
		}
	}
}

// incomplete tells whether a ClientHello is. Packets that came before every
// connection are taken for a part of one, as they overtake Initials.
func (q *quicHellos) incomplete() bool {
	return len(q.connections) == 0 && q.early || slices.ContainsFunc(q.connections, (*quicConnection).incomplete)
}

// initial takes in an Initial.
func (q *quicHellos) initial(p *longPacket) ([]policy.Name, error) {
	c, payload, err := q.open(p)
	if err != nil {
		return nil, err
	}
	q.last, q.of = &longPacket{version: p.version, dcid: p.dcid, scid: p.scid}, c
	if err := c.frames(payload); err != nil {
		return nil, err
	}
	held := 0
	for _, one := range q.connections {
		held += len(one.stream)
	}
	if held > maxStreams {
		return nil, errTooMuch
	}
	return c.names()
}

// open decrypts an Initial. It is that of a new connection, which may be one
// after a Retry, or of one that was seen: the client sends to an ID that the
// server chose, and the keys stay (RFC 9001, 5.2). All that it may be of are
// tried: AES-GCM does not commit to a key, so a packet can be made that is one
// thing to this reader and another to a server that knows the connection.
func (q *quicHellos) open(p *longPacket) (of *quicConnection, payload []byte, err error) {
	candidates := q.connections
	if !slices.ContainsFunc(candidates, func(c *quicConnection) bool { return c.id == p.dcid }) {
		candidates = append(candidates, &quicConnection{id: p.dcid})
	}
	var number uint64
	for _, c := range candidates {
		keys, err := c.keysOf(p.version)
		if err != nil {
			return nil, nil, err
		}
		opened, n, ok := keys.open(p.bytes, p.number, c.expected)
		if ok && of != nil {
			return nil, nil, errKeys
		}
		if ok {
			of, payload, number = c, opened, n
		}
	}
	if of == nil {
		return nil, nil, errKeys
	}
	if !slices.Contains(q.connections, of) {
		if len(q.connections) == maxConnections {
			return nil, nil, errTooMuch
		}
		q.connections = candidates
	}
	of.expected = max(of.expected, number+1)
	return of, payload, nil
}

// refusal is a datagram of the server's that ends the connection of the
// client's last Initial at once (RFC 9000, 10.2.3), with a reason; or, if its
// version is not read, one that names those that are; nil if there was none. It is for clients that do not hear
// ICMP errors.
func (q *quicHellos) refusal(reason string) []byte {
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

// quicConnection is what a client sends in Initials of one connection.
type quicConnection struct {
	id       string                 // where the first was sent to; the keys come of it
	keys     map[uint32]*packetKeys // of the client, by version, which may change once (RFC 9368)
	expected uint64                 // the packet number after the largest

	stream []byte // what the CRYPTO frames bring, the whole of it
	have   []bool // which bytes of stream came
	front  int    // before it there is none that did not
	parsed int    // before it are the complete ClientHellos
	hellos int    // how many
}

// keysOf derives the client's keys when they are first needed.
func (c *quicConnection) keysOf(v *quicVersion) (*packetKeys, error) {
	if keys := c.keys[v.number]; keys != nil {
		return keys, nil
	}
	keys, err := initialKeys(v, c.id, clientSide)
	if err != nil {
		return nil, err
	}
	if c.keys == nil {
		c.keys = make(map[uint32]*packetKeys)
	}
	c.keys[v.number] = keys
	return keys, nil
}

func (c *quicConnection) incomplete() bool {
	return c.hellos == 0 || c.parsed < len(c.stream)
}

// frames takes in the payload of an Initial.
func (c *quicConnection) frames(payload cryptobyte.String) error {
	for !payload.Empty() {
		var kind, offset, ranges uint64
		var data cryptobyte.String
		ok := readVarint(&payload, &kind)
		switch kind {
		case framePadding, framePing:
		case frameACK: // RFC 9000, 19.3
			ok = ok && skipVarints(&payload, 2) && readVarint(&payload, &ranges) && skipVarints(&payload, 1+2*ranges)
		case frameACKWithECN:
			ok = ok && skipVarints(&payload, 2) && readVarint(&payload, &ranges) && skipVarints(&payload, 1+2*ranges+3)
		case frameCrypto: // RFC 9000, 19.6
			ok = ok && readVarint(&payload, &offset) && readVarintPrefixed(&payload, &data)
		case frameConnectionClose: // RFC 9000, 19.19
			ok = ok && skipVarints(&payload, 2) && readVarintPrefixed(&payload, new(cryptobyte.String))
		default:
			ok = false
		}
		if !ok {
			return errQUIC
		}
		if err := c.write(offset, data); err != nil {
			return err
		}
	}
	return nil
}

// write puts data in its place in the stream. All of a stream is kept, for a
// server may not get what it was sent first: bytes that are sent again must be
// the same.
func (c *quicConnection) write(offset uint64, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	if offset+uint64(len(data)) > uint64(c.front)+maxAhead {
		return errTooMuch
	}
	start := int(offset)
	if grow := start + len(data) - len(c.stream); grow > 0 {
		c.stream = append(c.stream, make([]byte, grow)...)
		c.have = append(c.have, make([]bool, grow)...)
	}
	for i, b := range data {
		if c.have[start+i] && c.stream[start+i] != b {
			return errConflict
		}
		c.stream[start+i], c.have[start+i] = b, true
	}
	for c.front < len(c.stream) && c.have[c.front] {
		c.front++
	}
	return nil
}

// names are those of the ClientHellos that became complete.
func (c *quicConnection) names() (names []policy.Name, err error) {
	for c.parsed < c.front {
		message := c.stream[c.parsed:c.front]
		if message[0] != clientHello || c.hellos == maxHellos {
			return nil, errHello
		}
		if len(message) < 4 {
			break
		}
		size := int(message[1])<<16 | int(message[2])<<8 | int(message[3])
		if size > maxHello {
			return nil, errHello
		}
		if len(message) < 4+size {
			break
		}
		name, state, err := serverName(message[4 : 4+size])
		if err != nil {
			return nil, err
		}
		if state == Named {
			names = append(names, name)
		}
		c.parsed += 4 + size
		c.hellos++
	}
	return names, nil
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
