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

// chain follows the records that a connection begins with, whatever they are, to
// find a ClientHello among them. Those ahead of one servers may pass over, but
// clients send none (RFC 5246, 7.2.2; RFC 8446, D.4 and 5.1, for empty ones).
type chain struct {
	at int // where the first record is that was not passed over
}

// chained is what a chain is.
type chained uint8

const (
	noRecords   chained = iota // no server takes what is there for TLS
	moreRecords                // it is not clear yet; what is there may go on up to the end of the last record
	firstHello                 // it begins with a ClientHello, or may
	lateHello                  // a ClientHello follows other records, or may
)

// follow reads b, the same bytes as before and more.
func (c *chain) follow(b []byte, eof bool) chained {
	for c.at < len(b) && c.at < firstLines {
		record := b[c.at:]
		if record[0] < recordChangeCipherSpec || record[0] > recordHeartbeat {
			return noRecords
		}
		if mayBeHello(record) {
			switch {
			case c.at == 0:
				return firstHello
			case !eof && !showsHello(record):
				return moreRecords
			}
			return lateHello
		}
		if len(record) < RecordHeader {
			break
		}
		c.at += RecordHeader + recordLength(record)
	}
	switch {
	case c.at >= firstLines:
		return lateHello // so many records are a fault, and nobody knows what follows
	case eof:
		return noRecords
	}
	return moreRecords
}

// showsHello tells whether a record that may be a ClientHello has what shows that it is.
func showsHello(record []byte) bool {
	return len(record) > RecordHeader && len(record) >= RecordHeader+min(4, recordLength(record))
}

// minHello is the size of the smallest ClientHello (RFC 8446, 4.1.2): version,
// random, and three lists without an entry.
const minHello = 2 + 32 + 1 + 2 + 1

// mayBeHello tells whether a record starts a ClientHello to any server, or may when
// more comes. Its version is nobody's matter: servers need not look at it (RFC 8446,
// 5.1). A message that is too short for one, or longer than any, is none.
func mayBeHello(record []byte) bool {
	if record[0] != recordHandshake {
		return false
	}
	if len(record) <= RecordHeader {
		return len(record) < RecordHeader || recordLength(record) > 0
	}
	if recordLength(record) == 0 || record[RecordHeader] != clientHello {
		return false
	}
	if size := record[RecordHeader+1:]; recordLength(record) >= 4 && len(size) >= 3 {
		return int(size[0])<<16|int(size[1])<<8|int(size[2]) >= minHello
	}
	return true
}

// Records watches what may be TLS, until a server has answered as one of TLS: to
// another it may be a request of HTTP as well, with any bytes for a method.
type Records struct{ line line }

// Read looks at what comes next.
func (r *Records) Read(b []byte) error {
	for _, c := range b {
		r.line.add(c, withinHead)
		if r.line.field || r.line.isRequest() {
			return ErrHello
		}
		if c == '\n' {
			r.line = line{}
		}
	}
	return nil
}
