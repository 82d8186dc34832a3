package proxy

import (
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"appfw/policy"
)

const (
	recordChangeCipherSpec = 20      // RFC 8446, 5.1
	recordAlert            = 21      // RFC 8446, 5.1
	recordHandshake        = 22      // RFC 8446, 5.1
	maxRecord              = 1 << 14 // RFC 8446, 5.1
	clientHello            = 1       // RFC 8446, 4
	extServerName          = 0       // RFC 6066, 3
	// majorVersion is that of every TLS record, but servers need not look at
	// it (RFC 8446, 5.1): crypto/tls takes any that is below majorLimit.
	majorVersion = 3
	majorLimit   = 16
	// maxHello bounds a ClientHello. Its extensions are at most 65,535 bytes
	// (RFC 8446, 4.1.2), all before them less than 66,000.
	maxHello = 1<<17 + 1<<10
)

var errHello = errors.New("the TLS ClientHello cannot be understood")

// identifyTLS puts the handshake message together from its records and takes
// the server name out of it.
func identifyTLS(b []byte) (policy.Name, State, error) {
	if len(b) >= 2 && b[1] != majorVersion {
		switch {
		case b[1] >= majorLimit:
			return "", Nameless, nil // not TLS after all
		case len(b) < 6:
			return "", NeedMore, nil
		case b[5] != clientHello:
			return "", Nameless, nil
		}
	}
	var message []byte
	for records := cryptobyte.String(b); ; {
		var kind uint8
		var version, length uint16
		if len(records) < 5 {
			return "", NeedMore, nil
		}
		records.ReadUint8(&kind)
		records.ReadUint16(&version)
		records.ReadUint16(&length)
		if kind != recordHandshake || length == 0 || length > maxRecord {
			return "", Nameless, errHello
		}
		n := min(int(length), len(records))
		message = append(message, records[:n]...)
		records = records[n:]
		if len(message) >= 4 {
			size := int(message[1])<<16 | int(message[2])<<8 | int(message[3])
			if message[0] != clientHello || size > maxHello {
				return "", Nameless, errHello
			}
			if len(message) >= 4+size {
				return serverName(message[4 : 4+size])
			}
		}
		if n < int(length) {
			return "", NeedMore, nil
		}
	}
}

// identifyEarly recognizes an alert or a ChangeCipherSpec ahead of a ClientHello,
// which servers may pass over (RFC 5246, 7.2.2; RFC 8446, D.4) and no client sends.
func identifyEarly(b []byte) (State, error) {
	length := byte(1)
	if b[0] == recordAlert {
		length = 2
	}
	switch {
	case len(b) >= 2 && b[1] >= majorLimit:
		return Nameless, nil
	case len(b) < 6:
		return NeedMore, nil
	case b[3] == 0 && b[4] == length && b[5] == 1: // a warning, or the one value there is
		return Nameless, errHello
	}
	return Nameless, nil
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
		return "", Nameless, errHello
	}
	var name policy.Name
	seen := false
	for !extensions.Empty() {
		var kind uint16
		var data cryptobyte.String
		if !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&data) {
			return "", Nameless, errHello
		}
		if kind != extServerName {
			continue
		}
		if seen { // RFC 8446, 4.2: not twice
			return "", Nameless, errHello
		}
		seen = true
		var list, host cryptobyte.String
		var nameType uint8
		// One name of type host_name: no other was ever defined, and two of
		// one type are forbidden (RFC 6066, 3).
		if !data.ReadUint16LengthPrefixed(&list) || !data.Empty() ||
			!list.ReadUint8(&nameType) || nameType != 0 ||
			!list.ReadUint16LengthPrefixed(&host) || !list.Empty() {
			return "", Nameless, errHello
		}
		var err error
		if name, err = policy.ParseName(string(host)); err != nil {
			return "", Nameless, fmt.Errorf("the TLS server name is not valid: %w", err)
		}
	}
	if !seen {
		return "", Nameless, nil
	}
	return name, Named, nil
}
