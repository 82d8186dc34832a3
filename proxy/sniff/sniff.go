// Package sniff reads the names that a client's first bytes show: the SNI of a
// TLS ClientHello, the Host of an HTTP/1 request, and the ClientHello within
// QUIC. It only reads: what is judged, held and passed on is the caller's (see
// package relay), and nothing is resolved or decided here.
//
//	name, state, err := sniff.Identify(b, false)
//	switch {
//	case err != nil: // of such a protocol, and cannot be understood
//	case state == sniff.NeedMore: // read on; sniff.Holds(b) says whether b waits
//	case state == sniff.Named: // judge the name
//	case state == sniff.Nameless: // it shows none
//	}
package sniff

import (
	"bytes"
	"errors"
	"strings"

	"appfw/policy"
)

// State is what the first bytes of a connection say of its name.
type State uint8

const (
	NeedMore State = iota // it may yet show one
	Named                 // it shows the name
	Nameless              // it is of a protocol that shows none, or shows none
)

var errEnded = errors.New("the connection ended within its first message")

// Identify finds the name that a client's first bytes show: the SNI of a TLS
// ClientHello (RFC 6066 section 3) or the Host of an HTTP/1 request (RFC 9112
// section 3.2). eof tells that no more will come. An error means that the bytes
// are of such a protocol, and that its name cannot be made out.
func Identify(b []byte, eof bool) (policy.Name, State, error) {
	return new(Hello).Identify(b, eof)
}

// Identify is the function of that name, for a caller that comes again with the
// same bytes and more: h remembers what was read of them.
func (h *Hello) Identify(b []byte, eof bool) (name policy.Name, s State, err error) {
	switch {
	case len(b) == 0:
		s = NeedMore
	case b[0] == recordHandshake:
		name, s, err = h.identify(b)
	case b[0] >= recordChangeCipherSpec && b[0] <= recordHeartbeat:
		s, err = identifyEarly(b)
	case startsPROXY(b):
		err = errPROXY
	default:
		name, s, err = identifyHTTP(b)
	}
	if err == nil && s == Nameless && len(b) < len(proxySignature) && strings.HasPrefix(proxySignature, string(b)) {
		s = NeedMore
	}
	if err == nil && s == NeedMore && eof {
		s = Nameless
		if Holds(b) || looksHTTP(b) {
			err = errEnded
		}
	}
	return name, s, err
}

// Holds tells whether bytes of which Identify needs more are to be held back.
// Empty lines and a line without its end are not: no server acts on them, and
// other protocols than HTTP may wait for an answer to them.
func Holds(b []byte) bool {
	return len(b) > 0 && (b[0] == recordHandshake || bytes.IndexByte(b[leadingBlanks(b):], '\n') >= 0)
}

// proxySignature starts a header of the PROXY protocol, version 2; a line with the
// word below, one of version 1. Servers that take one read on behind it, and
// only proxies send it.
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

var errPROXY = errors.New("a header of the PROXY protocol hides what follows")

func startsPROXY(b []byte) bool {
	return bytes.HasPrefix(b, []byte(proxySignature)) || bytes.HasPrefix(b, []byte("PROXY ")) && bytes.IndexByte(b, '\n') >= 0
}

// Upgraded tells whether a connection that HTTP was upgraded on (RFC 9110, 7.8),
// and that now starts with b, shows names again: it has become one of TLS (RFC
// 2817) or HTTP/2 (RFC 9113, 3.4). Of other protocols nothing is known but that
// they are not HTTP/1. known is false if that needs more bytes; eof tells that
// none will come.
func Upgraded(b []byte, eof bool) (shows, known bool) {
	const preface = "PRI "
	n := min(len(b), len(preface))
	switch {
	case n == 0:
		return false, eof
	case b[0] == recordHandshake:
		return true, true
	case string(b[:n]) != preface[:n]:
		return false, true
	}
	return true, n == len(preface) || eof
}
