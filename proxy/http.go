package proxy

import (
	"bytes"
	"errors"
	"strings"
	"unicode"

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

// identifyHTTP recognizes a request by its first line (RFC 9112, 3). It takes for
// one whatever some server may, and then reads it strictly. While what has come
// may still become one, its lines are held; what is no text is let go at once.
func identifyHTTP(b []byte) (policy.Name, State, error) {
	whole := len(b) < maxHead // later bytes must not matter: they may come apart
	b = b[:min(len(b), maxHead)]
	before := leadingBlanks(b)
	text := b[before:]
	if !startsWord(text) {
		return "", Nameless, nil
	}
	end := bytes.IndexByte(text, '\n')
	switch {
	case end < 0 && whole:
		return "", NeedMore, nil
	case end < 0: // blanks, a word and blanks: it may become a request yet
		return "", Nameless, errLongHead
	case !looksHTTP(text[:end]):
		return "", Nameless, nil // a line of another protocol
	}
	line, crlf := strings.CutSuffix(string(text[:end]), "\r")
	method, rest, _ := strings.Cut(line, " ")
	target, version, _ := strings.Cut(rest, " ")
	switch {
	case method == "PRI" && rest == "* HTTP/2.0": // RFC 9113, 3.4
		return "", Nameless, errHTTP2
	case !crlf || version != "HTTP/1.1" && version != "HTTP/1.0",
		strings.Trim(method, tokenChars) != "",
		strings.ContainsFunc(line, unicode.IsControl),
		strings.Trim(string(b[:before]), "\r\n") != "": // empty lines may be passed over (RFC 9112, 2.2)
		return "", Nameless, errHead
	}
	fields, ended, err := cutHead(text[end:])
	switch {
	case err != nil:
		return "", Nameless, err
	case !ended && whole:
		return "", NeedMore, nil
	case !ended:
		return "", Nameless, errLongHead
	}
	host, err := hostField(string(fields))
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
		if authority == "" || strings.Contains(authority, "@") {
			return "", Nameless, errHead // no host, or userinfo (RFC 9110, 4.2.1 and 4.2.4)
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

// cutHead returns the fields of a head, up to the empty line that ends them; b
// starts with the end of the first line.
func cutHead(b []byte) (fields []byte, ended bool, err error) {
	crlf, lf := bytes.Index(b, []byte("\n\r\n")), bytes.Index(b, []byte("\n\n"))
	switch {
	case lf >= 0 && (crlf < 0 || lf < crlf):
		return nil, false, errHead // a bare LF: servers differ on whether it ends the head
	case crlf < 0:
		return nil, false, nil
	}
	return b[1 : crlf+1], true, nil
}

// tokenChars are those of a token (RFC 9110, 5.6.2).
const tokenChars = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// blank tells whether lenient servers part the words of a line there: RFC 9112,
// 3 lets them at some of these, and Python's http.server does at all.
func blank(c byte) bool {
	return c >= '\t' && c <= '\r' || c >= 0x1c && c <= ' ' || c == 0x85 || c == 0xa0
}

// leadingBlanks is how many bytes stand before the first word.
func leadingBlanks(b []byte) int {
	for i, c := range b {
		if !blank(c) {
			return i
		}
	}
	return len(b)
}

// startsWord tells whether b is, or may become, a token and a blank.
func startsWord(b []byte) bool {
	for _, c := range b {
		if blank(c) {
			return true
		}
		if strings.IndexByte(tokenChars, c) < 0 {
			return false
		}
	}
	return true
}

// looksHTTP tells whether some server may take the line for that of a request:
// it has a version, in any case, or is one of HTTP/0.9.
func looksHTTP(line []byte) bool {
	line = line[leadingBlanks(line):]
	if bytes.Contains(bytes.ToUpper(line), []byte("HTTP/")) {
		return startsWord(line)
	}
	for i, c := range line {
		if blank(c) {
			return knownMethods[string(line[:i])] && leadingBlanks(line[i:]) < len(line)-i
		}
	}
	return false
}

// knownMethods are those that HTTP/0.9 to HTTP/1.1 servers know. Of a line that
// starts with another word, only the version at its end makes a request.
var knownMethods = map[string]bool{
	"GET": true, "HEAD": true, "POST": true, "PUT": true, "DELETE": true, "CONNECT": true,
	"OPTIONS": true, "TRACE": true, "PATCH": true,
}
