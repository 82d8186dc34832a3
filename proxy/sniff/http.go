package sniff

import (
	"bytes"
	"errors"
	"strings"
	"unicode"

	"appfw/policy"
)

// MaxHead bounds the head of an HTTP request, in bytes: as much as servers take.
const MaxHead = 64 << 10

var (
	errHead     = errors.New("the head of the HTTP request cannot be understood")
	errLongHead = errors.New("the head of the HTTP request is too long")
	errTwoHosts = errors.New("the HTTP request names more than one host")
	errHTTP2    = errors.New("HTTP/2 without TLS does not show its host")
	errFraming  = errors.New("where the body of the HTTP request ends cannot be understood")
)

// identifyHTTP recognizes a request by its first line (RFC 9112, 3). It takes for
// one whatever some server may, and then reads it strictly. While what has come
// may still become one, its lines are held; what is no text is let go at once.
func identifyHTTP(b []byte) (policy.Name, State, error) {
	text := b[:min(len(b), MaxHead)]
	text = text[leadingBlanks(text):]
	if !startsWord(text) {
		return "", Nameless, nil
	}
	if end := bytes.IndexByte(text, '\n'); end >= 0 && !looksHTTP(text[:end]) {
		return "", Nameless, nil // a line of another protocol
	}
	r, err := ReadRequest(b)
	switch {
	case err != nil:
		return "", Nameless, err
	case r == nil:
		return "", NeedMore, nil
	}
	return r.Host, r.State, nil
}

// Request is the head of an HTTP/1 request (RFC 9112).
type Request struct {
	Host     policy.Name
	State    State // Named, or Nameless if there is no name
	Size     int   // bytes of the head, with empty lines before it
	Method   string
	Body     Body // finds the end of what follows the head
	Switches bool // it asks for another protocol on the connection (CONNECT, Upgrade)
}

// ReadRequest reads the head that b starts with, strictly: what servers may differ
// on is an error. It is nil if b has not all of it yet.
func ReadRequest(b []byte) (*Request, error) {
	whole := len(b) < MaxHead // later bytes must not matter: they may come apart
	b = b[:min(len(b), MaxHead)]
	before := leadingBlanks(b)
	text := b[before:]
	end := bytes.IndexByte(text, '\n')
	switch {
	case end < 0 && whole:
		return nil, nil
	case end < 0: // blanks, a word and blanks: it may become a request yet
		return nil, errLongHead
	}
	line, crlf := strings.CutSuffix(string(text[:end]), "\r")
	method, rest, _ := strings.Cut(line, " ")
	target, version, _ := strings.Cut(rest, " ")
	switch {
	case method == "PRI" && rest == "* HTTP/2.0": // RFC 9113, 3.4
		return nil, errHTTP2
	case !crlf || version != "HTTP/1.1" && version != "HTTP/1.0",
		method == "" || strings.Trim(method, tokenChars) != "",
		strings.ContainsFunc(line, unicode.IsControl),
		strings.Trim(string(b[:before]), "\r\n") != "": // empty lines may be passed over (RFC 9112, 2.2)
		return nil, errHead
	}
	lines, ended, err := cutHead(text[end:])
	switch {
	case err != nil:
		return nil, err
	case !ended && whole:
		return nil, nil
	case !ended:
		return nil, errLongHead
	}
	f, err := readFields(string(lines))
	if err != nil {
		return nil, err
	}
	r := &Request{Size: before + end + 1 + len(lines) + 2, Method: method, Switches: method == "CONNECT" || f.upgrade}
	if r.Host, r.State, err = requestHost(method, target, f.host); err != nil {
		return nil, err
	}
	r.Body, err = f.framing()
	if err == nil && r.Body.kind != bodyNone && (method == "CONNECT" || r.Body.kind == bodyChunked && version == "HTTP/1.0") {
		err = errFraming
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// NextRequest is ReadRequest for a connection that has sent a request before: what
// cannot become another one is an error, at once, as are bytes of one that stay
// incomplete. It is nil if b has not all of it yet; with eof, which tells that no
// more will come, if there is none.
func NextRequest(b []byte, eof bool) (*Request, error) {
	r, err := ReadRequest(b)
	if r != nil || err != nil {
		return r, err
	}
	start := bytes.TrimLeft(b, "\r\n")
	if !startsWord(start) || eof && len(start) > 0 {
		return nil, errHead
	}
	return nil, nil
}

// requestHost is the host that a request is for: that of its target, if that
// has one, and its Host field must agree (RFC 9112, 3.2.2).
func requestHost(method, target string, field *string) (policy.Name, State, error) {
	authority := ""
	switch {
	case method == "CONNECT":
		authority = target
	case strings.HasPrefix(target, "/"), target == "*":
	default:
		_, rest, ok := strings.Cut(target, "://")
		if !ok {
			return "", Nameless, errHead
		}
		authority = rest
		if i := strings.IndexAny(rest, "/?#"); i >= 0 {
			authority = rest[:i]
		}
		if authority == "" || strings.Contains(authority, "@") {
			return "", Nameless, errHead // no host, or userinfo (RFC 9110, 4.2.1 and 4.2.4)
		}
	}
	switch {
	case authority == "" && (field == nil || *field == ""):
		return "", Nameless, nil
	case authority == "":
		return HostName(*field)
	}
	name, state, err := HostName(authority)
	if err != nil || field == nil {
		return name, state, err
	}
	fieldName, _, err := HostName(*field)
	if err != nil {
		return "", Nameless, err
	}
	if fieldName != name {
		return "", Nameless, errTwoHosts
	}
	return name, state, nil
}
