// Package sniff reads the names that a client's first bytes show: the SNI of a
// TLS ClientHello, the Host of an HTTP/1 request, and the ClientHello within
// QUIC. It only reads: what is judged, held and passed on is the caller's (see
// package relay), and nothing is resolved or decided here.
//
// Servers differ in what they take. One principle for each protocol says what
// becomes of bytes that some server may read otherwise than the RFCs say:
//
//   - TLS: what any stack could take for the start of a handshake is one. A record
//     of that type in which a ClientHello may start is judged by the name in it, or
//     refused, whatever its version is; and refused if other records are ahead of it.
//     A record in which no ClientHello can start is no handshake to anybody.
//   - HTTP/1: a server is led to a name by a Host field or by the target of a request,
//     and by nothing else. So requests (RFC 9112) are read strictly, and each is judged
//     or refused; their Host and target are exactly what RFC 9110, 9112 and 3986 say,
//     without zones, or refused. A first line that has the version of HTTP where some
//     server looks for it and is no such request is refused. In whatever else a
//     connection begins with, a line that names a host to the most lenient server is
//     judged or refused; what names none cannot lead anywhere, and passes (see [Lines]).
//     A 101 ends this only if the request asked for the protocol that the response
//     names, and that is one that is read (TLS, HTTP/2) or that proves to be another
//     conversation (WebSocket); after any other, it goes on.
//   - QUIC: what a server could read as the start of a connection is one: an Initial of
//     a version that is read is judged or refused; one of another version is refused
//     where it has the form and the size that servers of it insist on.
//
// A caller reads on while more is needed:
//
//	var o sniff.Opening
//	name, state, err := o.Identify(b, false) // again, with the same bytes and more
//	switch {
//	case err != nil: // of such a protocol, and cannot be understood
//	case state == sniff.NeedMore: // read on; o.Pass() bytes of b need not wait
//	case state == sniff.Named: // judge the name
//	case state == sniff.Nameless: // it shows none
//	case state == sniff.Watched: // it shows none yet: go on with Lines
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
	Watched               // it is no protocol that shows one, but a server may find one in its lines
)

var errEnded = errors.New("the connection ended within its first message")

// Identify finds the name that a client's first bytes show: the SNI of a TLS
// ClientHello (RFC 6066 section 3) or the Host of an HTTP/1 request (RFC 9112
// section 3.2). eof tells that no more will come. An error means that the bytes
// are of such a protocol, and that its name cannot be made out.
func Identify(b []byte, eof bool) (policy.Name, State, error) {
	return new(Opening).Identify(b, eof)
}

// Opening reads what a connection begins with, as it comes. The zero value is ready.
type Opening struct {
	// Later says that requests of HTTP were there before: the bytes may start another
	// one, and are not of TLS.
	Later bool

	hello Hello
	chain chain
	lines Lines
	seen  int // bytes that lines has passed
	pass  int
}

// Hello is the ClientHello that the connection begins with, once its name is known; nil
// if there is none.
func (o *Opening) Hello() *Hello {
	if o.hello.end == 0 {
		return nil
	}
	return &o.hello
}

// Pass is how many of the bytes may go on although Identify needs more: no server
// finds a name in them.
func (o *Opening) Pass() int { return o.pass }

// Identify is the function of that name, for a caller that comes again with the
// same bytes and more.
func (o *Opening) Identify(b []byte, eof bool) (name policy.Name, s State, err error) {
	o.pass = 0
	switch {
	case len(b) == 0 && eof:
		return "", Nameless, nil
	case len(b) == 0:
		return "", NeedMore, nil
	case o.Later:
		return o.http(b, eof)
	case startsPROXY(b):
		return "", Nameless, errPROXY
	}
	before := o.chain
	switch o.chain.follow(b, eof) {
	case firstHello:
		return o.tls(b, eof)
	case lateHello:
		return "", Nameless, ErrHello
	case moreRecords:
		return o.unclear(b)
	}
	if before.at > 0 { // what was let go is looked at anew, as lines
		o.seen = 0
	}
	if len(b) < len(proxySignature) && !eof && strings.HasPrefix(proxySignature, string(b)) {
		o.pass = len(b)
		return "", NeedMore, nil
	}
	return o.http(b, eof)
}

// tls reads what begins with a ClientHello. It must not be a request of HTTP as well,
// to servers that take any bytes for a method.
func (o *Opening) tls(b []byte, eof bool) (name policy.Name, s State, err error) {
	if showsHello(b) {
		name, s, err = o.hello.Read(b) // from here on it stays a ClientHello
	}
	switch {
	case err != nil:
		return "", Nameless, err
	case s == NeedMore && eof:
		return "", Nameless, errEnded
	case s == NeedMore:
		return "", NeedMore, nil
	}
	if err := o.hello.Rest.Read(b[:o.hello.end]); err != nil {
		return "", Nameless, err
	}
	return name, s, nil
}

// unclear watches what may be records ahead of a ClientHello, or no records at all.
func (o *Opening) unclear(b []byte) (policy.Name, State, error) {
	if err := o.hello.Rest.Read(b[o.seen:]); err != nil {
		return "", Nameless, errHead
	}
	o.seen = len(b)
	o.pass = min(len(b), o.chain.at)
	return "", NeedMore, nil
}

// http reads what no server takes for TLS. A request it takes for one, and then reads
// it strictly.
func (o *Opening) http(b []byte, eof bool) (policy.Name, State, error) {
	start := leadingBlanks(b)
	if start >= firstLines {
		return "", Watched, nil
	}
	end := bytes.IndexByte(b[start:min(len(b), MaxHead)], '\n')
	if end < 0 {
		return o.noLine(b, eof)
	}
	line := string(b[start : start+end+1])
	if _, _, _, request := requestLine(line); !request {
		switch {
		case strings.HasPrefix(line, "PRI * HTTP/2"):
			return "", Nameless, errHTTP2
		case hasVersion(line):
			return "", Nameless, errHead
		}
		return "", Watched, nil
	}
	r, err := ReadRequest(b)
	switch {
	case err != nil:
		return "", Nameless, err
	case r == nil && eof:
		return "", Nameless, errEnded
	case r == nil:
		o.pass = min(o.seen, start+end)
		return "", NeedMore, nil
	}
	return r.Host, r.State, nil
}

// noLine looks at a first line that has no end yet, which other protocols may not
// have at all.
func (o *Opening) noLine(b []byte, eof bool) (policy.Name, State, error) {
	if len(b) >= firstLines {
		return "", Watched, nil
	}
	o.lines.HTTP = o.Later
	n, _, _, err := o.lines.Read(b[o.seen:], eof)
	o.seen += n
	switch {
	case err != nil && eof:
		return "", Nameless, errEnded
	case err != nil:
		return "", Nameless, err
	case eof:
		return "", Nameless, nil
	}
	o.pass = o.seen
	return "", NeedMore, nil
}

// proxySignature starts a header of the PROXY protocol, version 2; a line with the
// word below, one of version 1. Servers that take one read on behind it, and
// only proxies send it.
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

var errPROXY = errors.New("a header of the PROXY protocol hides what follows")

func startsPROXY(b []byte) bool {
	return bytes.HasPrefix(b, []byte(proxySignature)) || bytes.HasPrefix(b, []byte("PROXY ")) && bytes.IndexByte(b, '\n') >= 0
}
