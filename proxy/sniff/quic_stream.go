package sniff

import (
	"golang.org/x/crypto/cryptobyte"

	"appfw/policy"
)

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
			return nil, ErrHello
		}
		if len(message) < 4 {
			break
		}
		size := int(message[1])<<16 | int(message[2])<<8 | int(message[3])
		if size > maxHello {
			return nil, ErrHello
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
