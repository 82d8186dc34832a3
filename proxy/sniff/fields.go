package sniff

import (
	"bytes"
	"strings"
)

// fields are those of a head's field lines that matter here.
type fields struct {
	host    *string // nil: there is none
	length  *string // Content-Length
	coding  *string // Transfer-Encoding
	upgrade []string
	key     string // Sec-WebSocket-Key of a request, Sec-WebSocket-Accept of a response
}

// decisive are the fields by which servers find host, end and protocol of a message.
var decisive = map[string]bool{
	"host": true, "content-length": true, "transfer-encoding": true, "upgrade": true, "connection": true,
}

// readFields reads field lines. One that decides may occur once.
func readFields(lines string) (f fields, err error) {
	last := "host" // nothing goes on at the start
	for line := range strings.Lines(lines) {
		line, hasLF := strings.CutSuffix(line, "\n")
		line, hasCR := strings.CutSuffix(line, "\r")
		if !hasLF || !hasCR || hasControl(line) || hidesHost(line) {
			return f, errHead // bare LF or CR, or what else splits lines: servers differ on it (RFC 9112, 2.2)
		}
		name, value, ok := strings.Cut(line, ":")
		if line != "" && (line[0] == ' ' || line[0] == '\t') {
			// obs-fold (RFC 9112, 5.2): to some it is a line by itself.
			if decisive[last] || ok && decisive[strings.ToLower(strings.Trim(name, " \t"))] {
				return f, errHead
			}
			continue
		}
		if !ok || name == "" || strings.Trim(name, tokenChars) != "" {
			return f, errHead // space before the colon, too
		}
		value = strings.Trim(value, " \t")
		last = strings.ToLower(name)
		switch last {
		case "host":
			err = once(&f.host, value, errTwoHosts)
		case "content-length":
			if f.length == nil || *f.length != value { // the same twice is but that (RFC 9110, 8.6)
				err = once(&f.length, value, errFraming)
			}
		case "transfer-encoding":
			err = once(&f.coding, value, errFraming)
		case "upgrade":
			for protocol := range strings.SplitSeq(value, ",") {
				f.upgrade = append(f.upgrade, strings.ToLower(strings.Trim(protocol, " \t")))
			}
		case "sec-websocket-key", "sec-websocket-accept":
			f.key = value
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
