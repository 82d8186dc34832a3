package sniff

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/cryptobyte"

	"appfw/policy"
)

// ErrHello says that what starts like a ClientHello, or follows one, is none that
// servers all understand in one way.
var ErrHello = errors.New("the TLS ClientHello cannot be understood")

// Hello puts a ClientHello (RFC 8446, 4.1.2) together from its records. The zero
// value is ready.
type Hello struct {
	Rest Records // watches what follows

	end     int    // of the records read so far
	message []byte // that they hold
}

// End is where the records end that were read so far: once the name is known, where
// the ClientHello does. It is 0 if there are none.
func (h *Hello) End() int { return h.end }

// Read goes on with b, the same bytes as before and more.
func (h *Hello) Read(b []byte) (policy.Name, State, error) {
	for {
		records := b[h.end:]
		if len(records) < RecordHeader {
			return "", NeedMore, nil
		}
		length := recordLength(records)
		if records[0] != recordHandshake || length == 0 || length > maxRecord {
			return "", Nameless, ErrHello
		}
		if len(h.message) == 0 && len(records) > RecordHeader && records[RecordHeader] != clientHello {
			return "", Nameless, ErrHello
		}
		if len(records) < RecordHeader+length {
			return "", NeedMore, nil
		}
		h.message = append(h.message, records[RecordHeader:RecordHeader+length]...)
		h.end += RecordHeader + length
		if len(h.message) < 4 {
			continue
		}
		size := int(h.message[1])<<16 | int(h.message[2])<<8 | int(h.message[3])
		switch {
		case size > maxHello, len(h.message) > 4+size: // no client sends more in the same record
			return "", Nameless, ErrHello
		case len(h.message) == 4+size:
			return serverName(h.message[4:])
		}
	}
}

// serverName parses the body of a ClientHello (RFC 8446, 4.1.2).
func serverName(body cryptobyte.String) (policy.Name, State, error) {
	var session, suites, compression, extensions cryptobyte.String
	ok := body.Skip(2+32) && // version, random
		body.ReadUint8LengthPrefixed(&session) &&
		body.ReadUint16LengthPrefixed(&suites) &&
		body.ReadUint8LengthPrefixed(&compression)
	if ok && body.Empty() {
		return "", Nameless, nil // without extensions (RFC 5246, 7.4.1.2)
	}
	if !ok || !body.ReadUint16LengthPrefixed(&extensions) || !body.Empty() {
		return "", Nameless, ErrHello
	}
	var name policy.Name
	seen := false
	for !extensions.Empty() {
		var kind uint16
		var data cryptobyte.String
		if !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&data) {
			return "", Nameless, ErrHello
		}
		if kind != extServerName {
			continue
		}
		if seen { // RFC 8446, 4.2: not twice
			return "", Nameless, ErrHello
		}
		seen = true
		var list, host cryptobyte.String
		var nameType uint8
		// One name of type host_name: no other was ever defined, and two of
		// one type are forbidden (RFC 6066, 3).
		if !data.ReadUint16LengthPrefixed(&list) || !data.Empty() ||
			!list.ReadUint8(&nameType) || nameType != 0 ||
			!list.ReadUint16LengthPrefixed(&host) || !list.Empty() {
			return "", Nameless, ErrHello
		}
		if host, port, ok := strings.Cut(string(host), ":"); ok && !strings.Contains(port, ":") && host != "" {
			return "", Nameless, fmt.Errorf("the TLS server name has a port: %.80q", host+":"+port)
		}
		if isAddress(string(host)) {
			continue // names nothing, as in a Host field, though it should not be there (RFC 6066, 3)
		}
		var err error
		if name, err = policy.ParseName(string(host)); err != nil {
			return "", Nameless, fmt.Errorf("the TLS server name is not valid: %w", err)
		}
	}
	if name == "" {
		return "", Nameless, nil
	}
	return name, Named, nil
}
