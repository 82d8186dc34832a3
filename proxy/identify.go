package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
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

// Identify finds the name that a client's first bytes show: the SNI of a TLS
// ClientHello (RFC 6066 section 3) or the Host of an HTTP/1 request (RFC 9112
// section 3.2). eof tells that no more will come. An error means that the bytes
// are of such a protocol, and that its name cannot be made out.
func Identify(b []byte, eof bool) (name policy.Name, s State, err error) {
	return identify(new(helloReader), b, eof)
}

// identify is Identify for a caller that comes again with more. hello remembers
// what was read of b.
func identify(hello *helloReader, b []byte, eof bool) (name policy.Name, s State, err error) {
	switch {
	case len(b) == 0:
		s = NeedMore
	case b[0] == recordHandshake:
		name, s, err = identifyTLS(hello, b)
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
			err = errors.New("the connection ended within its first message")
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

// isRequest tells whether b starts with the head of an HTTP/1 request, whole.
func isRequest(b []byte) bool {
	r, err := readRequest(b)
	return err == nil && r != nil
}

// hostName parses HOST of a Host field or a URI: a name, or an address literal,
// which names nothing.
func hostName(host string) (policy.Name, State, error) {
	if rest, ok := strings.CutPrefix(host, "["); ok {
		literal, port, closed := strings.Cut(rest, "]")
		a, err := netip.ParseAddr(literal)
		if err != nil || !closed || !a.Is6() || !validPort(port) {
			return "", Nameless, fmt.Errorf("the HTTP host %.80q is not valid", host)
		}
		return "", Nameless, nil
	}
	if i := strings.IndexByte(host, ':'); i >= 0 {
		if !validPort(host[i:]) {
			return "", Nameless, fmt.Errorf("the HTTP host %.80q is not valid", host)
		}
		host = host[:i]
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Is4() {
		return "", Nameless, nil
	}
	name, err := policy.ParseName(host)
	if err != nil {
		return "", Nameless, fmt.Errorf("the HTTP host is not valid: %w", err)
	}
	return name, Named, nil
}

// validPort tells whether s is empty or a colon and digits (RFC 3986, 3.2.3).
func validPort(s string) bool {
	return s == "" || s[0] == ':' && len(s) <= 6 && strings.Trim(s[1:], "0123456789") == ""
}
