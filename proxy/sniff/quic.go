package sniff

import (
	"encoding/binary"
	"errors"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"appfw/policy"
)

const (
	longHeader = 0x80 // the first byte's bit for it (RFC 8999, 5.1)
	fixedBit   = 0x40 // RFC 9000, 17.2
	maxID      = 20   // bytes of a connection ID (RFC 9000, 17.2)
	minID      = 8    // bytes of the one that a client makes up (RFC 9000, 7.2)
	lastDraft  = 34   // of draft-ietf-quic-transport
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

// QUIC follows what a client sends in the QUIC connections (RFC 9000, RFC 9369) of
// one UDP flow, and finds the names that its ClientHellos show. The zero value is
// ready; it is not for several goroutines at once.
type QUIC struct {
	connections []*quicConnection
	last        *longPacket     // the last Initial that could be decrypted, or nil
	of          *quicConnection // the connection of last
	early       bool            // 0-RTT or Handshake packets came
	err         error           // from the first error on
	negotiation []byte          // answers a version that is not read, or nil
}

// Read takes in a datagram of the client's, and leaves it as it is. names are those
// that the ClientHellos it completed show (none for a ClientHello without a name).
// more tells that a ClientHello is still incomplete: the datagram, and those after
// it, must wait until it is complete. An error means that the flow is QUIC and
// cannot be understood; nothing of it may be passed on, now or later.
func (q *QUIC) Read(datagram []byte) (names []policy.Name, more bool, err error) {
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
// negotiates a connection: one that a server could read. Of versions that are not
// read here it is one in the form of an Initial (RFC 9000, 17.2.2), with IDs of the
// sizes that a client's has (7.2), and of the size of a datagram that servers insist
// on (14.1), which those of drafts (0xff0000..) and of Google's QUIC did not always.
// Version 0 is Version Negotiation, which no server acts on.
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
	case googleQUIC(b[1:5]):
		return true
	}
	draft := version > 0xff000000 && version <= 0xff000000+lastDraft
	return (len(b) >= minInitial || draft) && initialForm(b[5:])
}

// initialForm tells whether what follows a version may be of an Initial.
func initialForm(s cryptobyte.String) bool {
	var dcid, scid, token cryptobyte.String
	var length uint64
	return s.ReadUint8LengthPrefixed(&dcid) && len(dcid) >= minID && len(dcid) <= maxID &&
		s.ReadUint8LengthPrefixed(&scid) && len(scid) <= maxID &&
		readVarintPrefixed(&s, &token) && readVarint(&s, &length) && length <= uint64(len(s))
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
func (q *QUIC) packets(b []byte) (names []policy.Name, err error) {
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
func (q *QUIC) incomplete() bool {
	return len(q.connections) == 0 && q.early || slices.ContainsFunc(q.connections, (*quicConnection).incomplete)
}

// initial takes in an Initial.
func (q *QUIC) initial(p *longPacket) ([]policy.Name, error) {
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
func (q *QUIC) open(p *longPacket) (of *quicConnection, payload []byte, err error) {
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
