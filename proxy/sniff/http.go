package sniff

import (
	"bytes"
	"errors"
	"strings"

	"appfw/policy"
)

// MaxHead bounds the head of an HTTP request, in bytes: as much as servers take.
const MaxHead = 256 << 10

var (
	errHead     = errors.New("the head of the HTTP request cannot be understood")
	errLongHead = errors.New("the head of the HTTP request is too long")
	errTwoHosts = errors.New("the HTTP request names more than one host")
	errHTTP2    = errors.New("HTTP/2 without TLS does not show its host")
	errTrailer  = errors.New("the trailer of the HTTP request has a field that must not be there")
	errFraming  = errors.New("where the body of the HTTP request ends cannot be understood")
)

// Request is the head of an HTTP/1 request (RFC 9112).
type Request struct {
	Host   policy.Name
	State  State // Named, or Nameless if there is no name
	Size   int   // bytes of the head, with empty lines before it
	Method string
	Body   Body // finds the end of what follows the head
	// Upgrade are the protocols that it asks for instead of HTTP/1, in small letters,
	// and CONNECT asks for any.
	Upgrade []string
	key     string // of WebSocket
}

// Switches tells whether it asks for another protocol on the connection.
func (r *Request) Switches() bool { return r.Method == "CONNECT" || len(r.Upgrade) > 0 }

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
	case end < 0:
		return nil, errLongHead
	}
	line := string(text[:end+1])
	method, target, version, ok := requestLine(line)
	switch {
	case strings.HasPrefix(line, "PRI * HTTP/2"): // RFC 9113, 3.4
		return nil, errHTTP2
	case !ok, strings.Trim(string(b[:before]), "\r\n") != "": // empty lines may be passed over (RFC 9112, 2.2)
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
	r := &Request{Size: before + end + 1 + len(lines) + 2, Method: method, Upgrade: f.upgrade, key: f.key}
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

// requestHost is the host that a request is for: that of its target, if that
// has one, and its Host field must agree (RFC 9112, 3.2.2).
func requestHost(method, target string, field *string) (policy.Name, State, error) {
	host, inTarget := "", true
	switch {
	case method == "CONNECT":
		host = target
	case strings.HasPrefix(target, "//") && (strings.Contains(target, "://") || field == nil || *field == ""):
		return "", Nameless, errHead // a host to those that read it as RFC 3986, 4.2 does
	case strings.HasPrefix(target, "/"), target == "*":
		inTarget = false
	default:
		var err error
		if host, err = authority(target); err != nil {
			return "", Nameless, err
		}
	}
	switch {
	case !inTarget && (field == nil || *field == ""):
		return "", Nameless, nil
	case !inTarget:
		return HostName(*field)
	}
	name, state, err := HostName(host)
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

// authority is that of a target in absolute form (RFC 3986, 3), without userinfo (RFC
// 9110, 4.2.4).
func authority(target string) (string, error) {
	scheme, rest, ok := strings.Cut(target, "://")
	host := rest
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		host = rest[:i]
	}
	if !ok || scheme == "" || !alphanumeric(scheme[0]) || scheme[0] <= '9' ||
		strings.Trim(scheme, "+-.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" ||
		host == "" || strings.ContainsAny(host, "@\\") || strings.Contains(rest, "#") {
		return "", errHead
	}
	return host, nil
}
