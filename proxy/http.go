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
	errFraming  = errors.New("where the body of the HTTP request ends cannot be understood")
)

// identifyHTTP recognizes a request by its first line (RFC 9112, 3). It takes for
// one whatever some server may, and then reads it strictly. While what has come
// may still become one, its lines are held; what is no text is let go at once.
func identifyHTTP(b []byte) (policy.Name, State, error) {
	text := b[:min(len(b), maxHead)]
	text = text[leadingBlanks(text):]
	if !startsWord(text) {
		return "", Nameless, nil
	}
	if end := bytes.IndexByte(text, '\n'); end >= 0 && !looksHTTP(text[:end]) {
		return "", Nameless, nil // a line of another protocol
	}
	r, err := readRequest(b)
	switch {
	case err != nil:
		return "", Nameless, err
	case r == nil:
		return "", NeedMore, nil
	}
	return r.host, r.state, nil
}

// request is the head of an HTTP/1 request.
type request struct {
	host     policy.Name
	state    State // Named, or Nameless if there is no name
	size     int   // bytes of the head, with empty lines before it
	method   string
	body     body
	switches bool // it asks for another protocol on the connection
}

// readRequest reads a head (RFC 9112) strictly: what servers may differ on is an
// error. It is nil if b has not all of it yet.
func readRequest(b []byte) (*request, error) {
	whole := len(b) < maxHead // later bytes must not matter: they may come apart
	b = b[:min(len(b), maxHead)]
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
	r := &request{size: before + end + 1 + len(lines) + 2, method: method, switches: method == "CONNECT" || f.upgrade}
	if r.host, r.state, err = requestHost(method, target, f.host); err != nil {
		return nil, err
	}
	r.body, err = f.framing()
	if err == nil && r.body.kind != bodyNone && (method == "CONNECT" || r.body.kind == bodyChunked && version == "HTTP/1.0") {
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

// fields are those of a head's field lines that matter here.
type fields struct {
	host    *string // nil: there is none
	length  *string // Content-Length
	coding  *string // Transfer-Encoding
	upgrade bool
}

// readFields reads field lines, each of which is to occur once at most.
func readFields(lines string) (f fields, err error) {
	for line := range strings.Lines(lines) {
		line, hasLF := strings.CutSuffix(line, "\n")
		line, hasCR := strings.CutSuffix(line, "\r")
		if !hasLF || !hasCR || strings.ContainsAny(line, "\r\x00") {
			return f, errHead // bare LF or CR: servers differ on it (RFC 9112, 2.2)
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.Trim(name, tokenChars) != "" {
			return f, errHead // folding and space before the colon, too
		}
		value = strings.Trim(value, " \t")
		switch strings.ToLower(name) {
		case "host":
			err = once(&f.host, value, errTwoHosts)
		case "content-length":
			err = once(&f.length, value, errFraming)
		case "transfer-encoding":
			err = once(&f.coding, value, errFraming)
		case "upgrade":
			f.upgrade = true
		}
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

func once(to **string, value string, twice error) error {
	if *to != nil {
		return twice
	}
	*to = &value
	return nil
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
// it has a version, in any case, or a word like a method and one like a target.
func looksHTTP(line []byte) bool {
	line = line[leadingBlanks(line):]
	if bytes.Contains(bytes.ToUpper(line), []byte("HTTP/")) {
		return startsWord(line)
	}
	end := bytes.IndexFunc(line, func(c rune) bool { return c < 0x80 && blank(byte(c)) })
	if end < 0 || len(line[end:]) == leadingBlanks(line[end:]) {
		return false
	}
	word, target := string(line[:end]), line[end+leadingBlanks(line[end:]):]
	return knownMethods[word] ||
		strings.Trim(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_") == "" && (target[0] == '/' || target[0] == '*' || bytes.Contains(target, []byte("://")))
}

// knownMethods are those that all servers know, whatever follows them.
var knownMethods = map[string]bool{
	"GET": true, "HEAD": true, "POST": true, "PUT": true, "DELETE": true, "CONNECT": true,
	"OPTIONS": true, "TRACE": true, "PATCH": true,
}
