package proxy

import (
	"bytes"
	"errors"
	"strings"

	"appfw/policy"
)

// maxHead bounds the head of an HTTP request: as much as servers take.
const maxHead = 64 << 10

var (
	errHead     = errors.New("the head of the HTTP request cannot be understood")
	errLongHead = errors.New("the head of the HTTP request is too long")
	errTwoHosts = errors.New("the HTTP request names more than one host")
	errHTTP2    = errors.New("HTTP/2 without TLS does not show its host")
)

// identifyHTTP recognizes a request by its first line (RFC 9112, 3). While what
// has come may still become one, it is held; what is no text is let go at once.
func identifyHTTP(b []byte) (policy.Name, State, error) {
	if !startsRequest(b) {
		return "", Nameless, nil
	}
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		if len(b) > maxHead {
			return "", Nameless, errLongHead
		}
		return "", NeedMore, nil
	}
	line := strings.TrimSuffix(string(b[:end]), "\r")
	method, rest, _ := strings.Cut(line, " ")
	target, version, ok := strings.Cut(rest, " ")
	switch {
	case method == "PRI" && rest == "* HTTP/2.0": // RFC 9113, 3.4
		return "", Nameless, errHTTP2
	case !ok || !strings.HasPrefix(version, "HTTP/"):
		if strings.Contains(line, "HTTP/") || knownMethods[method] && rest != "" {
			return "", Nameless, errHead // HTTP/0.9, or spaces where none belong
		}
		return "", Nameless, nil // a line of another protocol
	case version != "HTTP/1.1" && version != "HTTP/1.0":
		return "", Nameless, errHead
	}
	fields := b[end+1:]
	stop := headEnd(fields)
	if stop < 0 {
		if len(b) > maxHead {
			return "", Nameless, errLongHead
		}
		return "", NeedMore, nil
	}
	host, err := hostField(string(fields[:stop]))
	if err != nil {
		return "", Nameless, err
	}
	return requestHost(method, target, host)
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
		if strings.Contains(authority, "@") {
			return "", Nameless, errHead // no userinfo in requests (RFC 9110, 4.2.4)
		}
	}
	switch {
	case authority == "" && (field == nil || *field == ""):
		return "", Nameless, nil
	case authority == "":
		return hostName(*field)
	}
	name, state, err := hostName(authority)
	if err != nil || field == nil {
		return name, state, err
	}
	fieldName, _, err := hostName(*field)
	if err != nil {
		return "", Nameless, err
	}
	if fieldName != name {
		return "", Nameless, errTwoHosts
	}
	return name, state, nil
}

// hostField is the value of the one Host field; nil if there is none.
func hostField(fields string) (*string, error) {
	var host *string
	for line := range strings.Lines(fields) {
		line, hasLF := strings.CutSuffix(line, "\n")
		line, hasCR := strings.CutSuffix(line, "\r")
		if !hasLF || !hasCR || strings.ContainsAny(line, "\r\x00") {
			return nil, errHead // bare LF or CR: servers differ on it (RFC 9112, 2.2)
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.Trim(name, tokenChars) != "" {
			return nil, errHead // folding and space before the colon, too
		}
		if !strings.EqualFold(name, "host") {
			continue
		}
		if host != nil {
			return nil, errTwoHosts
		}
		value = strings.Trim(value, " \t")
		host = &value
	}
	return host, nil
}

// headEnd is the length of the fields, without the empty line that ends them;
// -1 if it has not come.
func headEnd(fields []byte) int {
	if bytes.HasPrefix(fields, []byte("\r\n")) || bytes.HasPrefix(fields, []byte("\n")) {
		return 0
	}
	crlf, lf := bytes.Index(fields, []byte("\n\r\n")), bytes.Index(fields, []byte("\n\n"))
	switch {
	case crlf < 0 && lf < 0:
		return -1
	case crlf < 0 || lf >= 0 && lf < crlf:
		return lf + 1
	}
	return crlf + 1
}

// tokenChars are those of a token (RFC 9110, 5.6.2).
const tokenChars = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// startsRequest tells whether b is, or may become, the first line of a request:
// a token, a space, and text.
func startsRequest(b []byte) bool {
	space := false
	for i, c := range b {
		switch {
		case c == '\n':
			return space
		case c == '\r':
			return space && (i+1 == len(b) || b[i+1] == '\n')
		case !space && c == ' ':
			if space = true; i == 0 {
				return false
			}
		case !space && strings.IndexByte(tokenChars, c) < 0, c < ' ' || c == 0x7f:
			return false
		}
	}
	return true
}

// knownMethods are those that HTTP/0.9 to HTTP/1.1 servers know. Of a line that
// starts with another word, only the version at its end makes a request.
var knownMethods = map[string]bool{
	"GET": true, "HEAD": true, "POST": true, "PUT": true, "DELETE": true, "CONNECT": true,
	"OPTIONS": true, "TRACE": true, "PATCH": true,
}
