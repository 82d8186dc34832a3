package sniff

import (
	"bytes"
	"strings"

	"appfw/policy"
)

const (
	// firstLines bounds the bytes of the first lines of a connection, in which a
	// server might look for a request: more than any takes that is none.
	firstLines = 64 << 10
	// maxLine bounds a line that names a host, in bytes.
	maxLine = 8 << 10
)

// Lines watches a connection that does not begin as a request of HTTP does, with
// the eyes of the most lenient server: any control character and any byte that is
// no ASCII may end a line, any blank parts its words, and whatever is no letter or
// digit may stand before a field's name. A line that names a host there, by a Host
// field or by its target, is held until it is complete. It goes on only if it is
// written as the RFCs say and the name was judged; all else goes on at once.
//
// The zero value is for the start of a connection.
type Lines struct {
	// HTTP says that the server may take requests of HTTP here: one was there before.
	// Then the lines are watched to the end, and none may name a host.
	HTTP bool

	began    bool // something else than blank lines has come
	seen     int  // bytes since, until there were firstLines
	number   int  // of complete lines since
	method   bool // one began with a method that all servers know
	headEnds bool // the first is a request of another protocol: to whom it is one of HTTP, the connection ends with it
	keep     bool // unless it asks to be kept
	hosted   bool // the line before is a Host field

	scanned int // bytes at the start of what is read next that were seen already
	line    line
}

// line is the line that is not complete yet.
type line struct {
	text  []byte // its first maxLine bytes
	names bool   // a host: it is held from there on
	field bool   // by a field
	url   bool   // a word has two slashes, and names a host if the line is a request's

	nul    bool // it has a NUL
	binary bool // it has what is no text
	cr     bool // the last byte is a CR
	split  bool // some server may take it for several

	host int  // letters of "host" that were found, or noHost
	term bool // some server may take the last byte for the end of a line

	words   int    // that have begun
	in      int    // bytes of the word so far; 0: between words
	version int    // letters of "HTTP/" that the word begins with
	first   []byte // the first word, as far as it matters
	method  string // that word, in capitals, once there is a second
	known   bool   // all servers know it for a method
	third   bool   // the second or third word begins with HTTP/
	last    bool   // the last one does
	slash   bool   // the last byte is one
}

const noHost = -1

// Read looks at b, which begins with what of the last call did not pass, and tells
// how many bytes of it may go on. With Named, the name is to be judged, and then Read
// called again; Nameless says that nothing has to be watched any more.
func (l *Lines) Read(b []byte, eof bool) (pass int, name policy.Name, s State, err error) {
	hold := -1
	if l.line.names {
		hold = 0
	}
	i := l.scanned
	l.scanned = 0
	for ; i < len(b); i++ {
		c := b[i]
		if !l.began {
			if blank(c) {
				continue
			}
			l.began = true
		}
		l.seen = min(l.seen+1, firstLines)
		if l.hosted && len(l.line.text) == 0 && (c == ' ' || c == '\t') {
			return 0, "", Nameless, errHead // the field goes on, to some
		}
		if l.line.add(c, l.place()) && hold < 0 {
			l.line.names, hold = true, i
			if l.line.field && l.HTTP {
				return 0, "", Nameless, errHead
			}
		}
		if c != '\n' {
			continue
		}
		name, s, err = l.end()
		l.line = line{text: l.line.text[:0], first: l.line.first[:0]}
		hold = -1
		switch {
		case err != nil:
			return 0, "", Nameless, err
		case s == Named:
			l.scanned = i + 1
			return 0, name, Named, nil
		case s == Nameless:
			return i + 1, "", Nameless, nil
		}
	}
	switch {
	case hold >= 0 && (eof || len(b)-hold > maxLine):
		return 0, "", Nameless, errHead
	case hold >= 0:
		l.scanned = len(b) - hold
		return hold, "", NeedMore, nil
	case eof, l.seen == firstLines && !l.HTTP && !l.method && !l.line.known && !l.line.isRequest():
		return len(b), "", Nameless, nil
	}
	return len(b), "", NeedMore, nil
}

// place is where a line is, and so what some server may take it for.
type place uint8

const (
	withinHead place = iota // lines of another protocol went before: it is a request only with a version of HTTP
	firstLine               // or with any word for a method
	afterHTTP               // or with a method that is text
)

func (l *Lines) place() place {
	switch {
	case l.HTTP:
		return afterHTTP
	case l.number == 0:
		return firstLine
	}
	return withinHead
}

// add takes in a byte, and tells whether from it on the line names a host.
func (x *line) add(c byte, at place) bool {
	if len(x.text) < maxLine {
		x.text = append(x.text, c)
	}
	x.nul, x.binary = x.nul || c == 0, x.binary || c < ' ' && !blank(c) || c >= 0x7f
	x.split = x.split || x.cr && c != '\n' || (c < ' ' || c == 0x7f) && c != '\t' && c != '\r' && c != '\n'
	x.cr = c == '\r'
	field, slashes, versioned := x.findHost(c), x.slash && c == '/', false
	x.slash = c == '/'
	switch {
	case blank(c):
		x.in = 0
	case x.in == 0:
		x.words, x.in, x.version, x.last = x.words+1, 1, 0, false
	default:
		x.in++
	}
	if x.in == x.version+1 && x.version < len("HTTP/") && upper(c) == "HTTP/"[x.version] {
		if x.version++; x.version == len("HTTP/") && x.words > 1 {
			x.last, x.third = true, x.third || x.words <= 3
			versioned = true
		}
	}
	if x.words == 1 && x.in > 0 && len(x.first) < maxMethod {
		x.first = append(x.first, c)
	}
	if x.words == 2 && x.in == 1 {
		x.method = strings.ToUpper(string(x.first))
		x.known = knownMethods[x.method]
	}
	switch {
	case field:
		return !x.nul || at != firstLine || x.isRequest() || x.known
	case x.words < 2, x.in == 0:
		return false
	case x.words > 2 && !x.split:
		return versioned && x.url
	case x.known:
		return slashes || x.in == 1 && x.method == "CONNECT"
	case slashes:
		x.url = true
		return at == firstLine && !x.nul || at == afterHTTP && !x.binary || x.isRequest()
	}
	return versioned && x.url
}

// maxMethod bounds the bytes of a first word that matter.
const maxMethod = 16

// isRequest tells whether the line may be a request's to some server because of its
// version.
func (x *line) isRequest() bool { return x.third || x.last }

// findHost looks for "host" and a colon, each where lenient servers may find it.
func (x *line) findHost(c byte) bool {
	const word = "HOST"
	term, after := c < ' ' && c != '\t' || c >= 0x7f, x.term
	x.term = term
	switch {
	case x.host == len(word) && c == ':':
		x.field = true
		return true
	case x.host == len(word) && (c == ' ' || c == '\t' || term && c != '\r' && c != '\n'):
	case term, (x.host == 0 || after) && !alphanumeric(c):
		x.host = 0
	case x.host == len(word) && after, x.host == 0 && upper(c) == word[0]:
		x.host = noHost
		if upper(c) == word[0] {
			x.host = 1
		}
	case x.host > 0 && x.host < len(word) && upper(c) == word[x.host]:
		x.host++
	default:
		x.host = noHost
	}
	return false
}

func upper(c byte) byte {
	if c >= 'a' && c <= 'z' {
		return c - 'a' + 'A'
	}
	return c
}

func alphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || upper(c) >= 'A' && upper(c) <= 'Z'
}

// end handles a line that is complete.
func (l *Lines) end() (policy.Name, State, error) {
	x := &l.line
	text, crlf := bytes.CutSuffix(x.text, []byte("\r\n"))
	empty := x.words == 0
	if x.isRequest() {
		l.HTTP = true
		if bytes.HasPrefix(text, []byte("PRI ")) { // RFC 9113, 3.4
			return "", Nameless, errHTTP2
		}
	}
	l.method = l.method || x.known
	if l.HTTP && switches(text) {
		return "", Nameless, errHead
	}
	first := l.number == 0
	l.number++
	l.hosted = x.names && x.field
	if x.names {
		name, s, err := x.named(text, crlf && !l.HTTP)
		if s == Named || err != nil {
			l.headEnds = l.headEnds || first && otherRequest(text)
			return name, s, err
		}
	}
	if l.HTTP || l.method {
		return "", NeedMore, nil
	}
	switch {
	case first && x.nul && !l.method:
		return "", Nameless, nil // no server takes that for a request
	case first:
		l.headEnds = otherRequest(text)
	case l.headEnds && bytes.Contains(bytes.ToLower(text), []byte("keep-alive")):
		l.keep = true
	case l.headEnds && empty && !l.keep:
		return "", Nameless, nil
	}
	return "", NeedMore, nil
}

// named is what a line names, if it may name anything and is written as it should be.
func (x *line) named(text []byte, may bool) (policy.Name, State, error) {
	line := string(text)
	if !x.field && x.method == "CONNECT" && !x.isRequest() {
		words := strings.Fields(line)
		if _, s, err := HostName(words[1]); err == nil && s == Named && strings.Contains(words[1], ":") {
			return "", Nameless, errHead
		}
		if !strings.Contains(words[1], "//") {
			return "", NeedMore, nil // a word of another protocol
		}
	}
	if !may || x.split || len(x.text) == maxLine {
		return "", Nameless, errHead
	}
	host := ""
	if x.field {
		name, value, _ := strings.Cut(line, ":")
		if host = strings.Trim(value, " \t"); !strings.EqualFold(name, "host") || host == "" {
			return "", Nameless, errHead
		}
	} else {
		method, rest, _ := strings.Cut(line, " ")
		target, _, _ := strings.Cut(rest, " ")
		var err error
		if host, err = authority(target); err != nil || strings.Trim(method, tokenChars) != "" {
			return "", Nameless, errHead
		}
	}
	name, s, err := HostName(host)
	if err == nil && s == Nameless {
		s = NeedMore // an address
	}
	return name, s, err
}

// otherRequest tells whether a line is a request of a protocol that is made like
// HTTP, and has another name: RTSP, ICAP, SIP.
func otherRequest(text []byte) bool {
	words := strings.Split(string(text), " ")
	if len(words) != 3 || words[0] == "" || strings.Trim(words[0], tokenChars) != "" {
		return false
	}
	protocol, version, ok := strings.Cut(words[2], "/")
	return ok && strings.Trim(protocol, tokenChars) == "" && !strings.EqualFold(protocol, "HTTP") &&
		version != "" && strings.Trim(version, "0123456789.") == ""
}

// switches tells whether a line may be a field that asks for another protocol.
func switches(text []byte) bool {
	name, _, _ := bytes.Cut(text, []byte(":"))
	name = bytes.TrimFunc(name, func(r rune) bool { return r >= 0x80 || !alphanumeric(byte(r)) })
	return strings.EqualFold(string(name), "upgrade")
}
