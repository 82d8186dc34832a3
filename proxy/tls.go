package proxy

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"

	"golang.org/x/crypto/cryptobyte"

	"appfw/policy"
)

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

var errHello = errors.New("the TLS ClientHello cannot be understood")

// identifyTLS takes the server name out of what starts with a handshake record.
func identifyTLS(hello *helloReader, b []byte) (policy.Name, State, error) {
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
	return hello.read(b)
}

// helloReader puts a ClientHello together from its records.
type helloReader struct {
	end     int    // of the records read so far
	message []byte // that they hold
}

// read goes on with b, the same bytes as before and more.
func (h *helloReader) read(b []byte) (policy.Name, State, error) {
	for {
		records := b[h.end:]
		if len(records) < recordHeader {
			return "", NeedMore, nil
		}
		length := recordLength(records)
		if records[0] != recordHandshake || length == 0 || length > maxRecord {
			return "", Nameless, errHello
		}
		if len(h.message) == 0 && len(records) > recordHeader && records[recordHeader] != clientHello {
			return "", Nameless, errHello
		}
		if len(records) < recordHeader+length {
			return "", NeedMore, nil
		}
		h.message = append(h.message, records[recordHeader:recordHeader+length]...)
		h.end += recordHeader + length
		if len(h.message) < 4 {
			continue
		}
		size := int(h.message[1])<<16 | int(h.message[2])<<8 | int(h.message[3])
		switch {
		case size > maxHello, len(h.message) > 4+size: // no client sends more in the same record
			return "", Nameless, errHello
		case len(h.message) == 4+size:
			return serverName(h.message[4:])
		}
	}
}

// recordHeader is the size of a record's header: type, version, length (RFC
// 8446, 5.1).
const recordHeader = 5

func recordLength(header []byte) int { return int(binary.BigEndian.Uint16(header[3:])) }

// helloRetry is the random by which a ServerHello is a HelloRetryRequest (RFC
// 8446, 4.1.3): the SHA-256 of that word.
var helloRetry = sha256.Sum256([]byte("HelloRetryRequest"))

// serverAnswer watches how a TLS server answers the first ClientHello.
type serverAnswer struct {
	mu    sync.Mutex
	seen  []byte
	final bool // it went on, and so wants no second one
}

// answerSize is how much of the answer matters: up to the random of a ServerHello.
const answerSize = recordHeader + 4 + 2 + 32

// feed takes in what the server sent next.
func (s *serverAnswer) feed(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) < answerSize {
		s.seen = append(s.seen, b[:min(len(b), answerSize-len(s.seen))]...)
		// One in pieces stays unclear, and the client is watched further.
		s.final = len(s.seen) == answerSize && s.seen[0] == recordHandshake && recordLength(s.seen) >= answerSize-recordHeader &&
			s.seen[recordHeader] == serverHello && [32]byte(s.seen[answerSize-32:]) != helloRetry
	}
}

// isFinal tells whether it is known that no second ClientHello may follow.
func (s *serverAnswer) isFinal() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.final
}

func (s *serverAnswer) opaque() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) == answerSize {
		return math.MaxInt64
	}
	return 0
}

func (s *serverAnswer) skip(int64) {}
func (s *serverAnswer) end()       {}

// relayTLS relays what follows the first ClientHello, which ended at end, until
// no other can be meant: one that answers a HelloRetryRequest shows a name, too.
func (r *relay) relayTLS(s *source, end int, answer *serverAnswer) error {
	if err := s.pass(end); err != nil {
		return err
	}
	for {
		if err := s.need(recordHeader); err != nil {
			return err
		}
		if answer.isFinal() || s.len() < recordHeader {
			return nil
		}
		kind, length := s.buf[0], recordLength(s.buf)
		if kind < recordChangeCipherSpec || kind > recordHeartbeat || length > maxCiphertext {
			return errHello
		}
		if err := s.need(recordHeader + min(1, length)); err != nil {
			return err
		}
		if kind == recordHandshake && length > 0 && s.len() > recordHeader && s.buf[recordHeader] == clientHello {
			return r.secondHello(s)
		}
		if err := s.passNext(recordHeader + int64(length)); err != nil {
			return err
		}
	}
}

// secondHello judges another ClientHello at the start of s.
func (r *relay) secondHello(s *source) error {
	var hello helloReader
	for {
		name, state, err := hello.read(s.buf)
		switch {
		case err != nil:
			return err
		case state == NeedMore && s.eof:
			return errHello
		case state == NeedMore:
			if err := s.fill(); err != nil {
				return err
			}
			continue
		case state == Named && !r.judge(name):
			return errDenied
		}
		return s.pass(hello.end)
	}
}

// identifyEarly recognizes a record ahead of a ClientHello, which servers may
// pass over (RFC 5246, 7.2.2; RFC 8446, D.4; an empty one) and no client sends.
func identifyEarly(b []byte) (State, error) {
	switch {
	case len(b) >= 2 && b[1] >= majorLimit:
		return Nameless, nil
	case len(b) < 6 && !(len(b) == recordHeader && recordLength(b) == 0):
		return NeedMore, nil
	case b[1] == majorVersion && recordLength(b) <= maxCiphertext:
		return Nameless, errHello
	case b[0] == recordAlert && recordLength(b) == 2 && b[5] == 1: // a warning, to crypto/tls
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
