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
