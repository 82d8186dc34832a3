package sniff

import (
	"bytes"
	"math"
	"strconv"
	"strings"
)

// bodyKind is how the end of a body is found (RFC 9112, 6.3).
type bodyKind uint8

const (
	bodyNone    bodyKind = iota
	bodyLength           // Content-Length
	bodyChunked          // Transfer-Encoding: chunked
	bodyEnd              // at the end of the connection
)

// Body finds the end of a message's body (RFC 9112, 6.3). The zero value is an
// empty one.
//
//	chunked:  size line → data → CRLF → size line → … → 0 → trailer lines → empty line
type Body struct {
	kind bodyKind
	left int64 // bytes of a length, or of a chunk and the CRLF after it

	line    []byte // of a chunked body: the line being read
	trailer bool   // the last chunk has been read
	lines   int    // bytes of trailer lines
}

// framing is how the body after a head with these fields ends. Where servers
// may differ it is an error, as whoever reads it otherwise sees other requests
// (RFC 9112, 11.2).
func (f *fields) framing() (Body, error) {
	switch {
	case f.coding != nil && f.length != nil:
		return Body{}, errFraming
	case f.coding != nil:
		if !strings.EqualFold(*f.coding, "chunked") {
			return Body{}, errFraming
		}
		return Body{kind: bodyChunked}, nil
	case f.length != nil:
		if *f.length == "" || strings.Trim(*f.length, "0123456789") != "" {
			return Body{}, errFraming
		}
		n, err := strconv.ParseInt(*f.length, 10, 64)
		if err != nil {
			return Body{}, errFraming
		}
		if n == 0 {
			return Body{}, nil
		}
		return Body{kind: bodyLength, left: n}, nil
	}
	return Body{}, nil
}

// maxChunkLine bounds a chunk's size line with its extensions.
const maxChunkLine = 4 << 10

// Read tells how many bytes at the start of b belong to the body, and whether it
// ends there. b follows what was read or skipped before. An error means that where
// the body ends cannot be told.
func (x *Body) Read(b []byte) (n int, done bool, err error) {
	switch x.kind {
	case bodyNone:
		return 0, true, nil
	case bodyEnd:
		return len(b), false, nil
	case bodyLength:
		n = int(min(x.left, int64(len(b))))
		x.left -= int64(n)
		return n, x.left == 0, nil
	}
	for n < len(b) {
		if x.left > 2 { // the data of a chunk
			m := int(min(x.left-2, int64(len(b)-n)))
			x.left -= int64(m)
			n += m
			continue
		}
		if x.left > 0 { // the CRLF after it
			if b[n] != "\n\r"[x.left-1] {
				return n, false, errFraming
			}
			x.left--
			n++
			continue
		}
		end := bytes.IndexByte(b[n:], '\n')
		part := b[n:]
		if end >= 0 {
			part = part[:end+1]
		}
		if len(x.line)+len(part) > maxChunkLine {
			return n, false, errFraming
		}
		x.line = append(x.line, part...)
		n += len(part)
		if end < 0 {
			return n, false, nil
		}
		if done, err = x.endLine(); done || err != nil {
			return n, done, err
		}
	}
	return n, false, nil
}

// endLine handles a line of a chunked body that is complete.
func (x *Body) endLine() (done bool, err error) {
	line, ok := strings.CutSuffix(string(x.line), "\r\n")
	x.line = x.line[:0]
	if !ok || strings.ContainsAny(line, "\r\n\x00") {
		return false, errFraming
	}
	if x.trailer {
		if x.lines += len(line); x.lines > MaxHead {
			return false, errFraming
		}
		if line == "" {
			return true, nil
		}
		f, err := readFields(line + "\r\n")
		if err == nil && (f.host != nil || f.length != nil || f.coding != nil || f.upgrade != nil) {
			err = errTrailer // some servers take them for the head's (RFC 9110, 6.5.1)
		}
		return false, err
	}
	digits, _, extended := strings.Cut(line, ";")
	if extended {
		digits = strings.TrimRight(digits, " \t") // RFC 9112, 7.1.1
	}
	size, err := strconv.ParseUint(digits, 16, 63)
	if err != nil || strings.Trim(digits, "0123456789abcdefABCDEF") != "" || size > math.MaxInt64-2 {
		return false, errFraming
	}
	if size == 0 {
		x.trailer = true
	} else {
		x.left = int64(size) + 2
	}
	return false, nil
}

// Opaque is how many of the next bytes are data, whatever they are: they need not
// be read here. math.MaxInt64 is all to the end of the connection.
func (x *Body) Opaque() int64 {
	switch {
	case x.kind == bodyEnd:
		return math.MaxInt64
	case x.kind == bodyLength:
		return x.left
	case x.kind == bodyChunked:
		return max(0, x.left-2)
	}
	return 0
}

// Skip says that n of them have gone by.
func (x *Body) Skip(n int64) {
	if x.kind != bodyEnd {
		x.left -= n
	}
}

// Framing is how the body of a message ends that has these values of Transfer-Encoding
// and of Content-Length. Where readers may differ, it is an error.
func Framing(codings, lengths []string) (Body, error) {
	var f fields
	for _, s := range []struct {
		to     **string
		values []string
	}{{&f.coding, codings}, {&f.length, lengths}} {
		switch {
		case len(s.values) > 1:
			return Body{}, errFraming
		case len(s.values) == 1:
			*s.to = &s.values[0]
		}
	}
	return f.framing()
}

// UntilEnd is a body that ends with the connection.
func UntilEnd() Body { return Body{kind: bodyEnd} }

// Empty tells whether there is none.
func (x *Body) Empty() bool { return x.kind == bodyNone }

// Ends tells whether it ends with the connection.
func (x *Body) Ends() bool { return x.kind == bodyEnd }
