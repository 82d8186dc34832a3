// Package message has the heads of HTTP/1 messages (RFC 9112) as they were sent: read,
// changed in some fields, and written with all other bytes as they are. Where bodies
// end is package sniff's matter, and so is what connections show; here nothing is judged.
//
//	request, err := message.ReadRequest(b)
//	if request != nil {
//		request.Target = "/path"
//		request.Set("Host", "example.com")
//		out = request.Append(out)
//	}
package message

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"appfw/proxy/sniff"
)

// MaxHead bounds a head, in bytes.
const MaxHead = 72 << 10

// Errors of heads.
var (
	ErrLong     = errors.New("the head of the message is too long")
	ErrHead     = errors.New("the head of the message cannot be understood")
	ErrFraming  = errors.New("where the body of the message ends cannot be understood")
	ErrTwoHosts = errors.New("the request has more than one Host field")
)

// Head are the field lines of a message, without their ends.
type Head []string

// Request is the head of a request.
type Request struct {
	Method, Target, Version string
	Head
	Size int        // bytes that were read for it, with empty lines before
	Body sniff.Body // finds the end of what follows
}

// Response is the head of a response.
type Response struct {
	Version string
	Status  int
	reason  string // with the blank before it
	Head
	Size int
	Body sniff.Body
	Ends bool // its body ends with the connection
}

// ReadRequest reads the head that b starts with; nil if b does not have all of it. What
// servers may read in two ways is an error.
func ReadRequest(b []byte) (*Request, error) {
	line, head, size, err := read(b)
	if size == 0 || err != nil {
		return nil, err
	}
	method, rest, _ := strings.Cut(line, " ")
	target, version, _ := strings.Cut(rest, " ")
	if strings.ContainsFunc(line, func(c rune) bool { return c < ' ' || c == 0x7f }) || !isToken(method) || target == "" || version != "HTTP/1.1" && version != "HTTP/1.0" {
		return nil, ErrHead
	}
	r := &Request{Method: method, Target: target, Version: version, Head: head, Size: size}
	if len(r.Values("Host")) > 1 {
		return nil, ErrTwoHosts
	}
	codings, lengths := r.Values("Transfer-Encoding"), r.Values("Content-Length")
	if len(codings) > 0 && len(lengths) > 0 { // the coding is what counts (RFC 9112, 6.3)
		r.Del("Content-Length")
		lengths = nil
	}
	if r.Body, err = sniff.Framing(codings, lengths); err != nil || len(codings) > 0 && version == "HTTP/1.0" {
		return nil, ErrFraming
	}
	return r, nil
}

// ReadResponse reads the head of a response to a request with the method; nil if b does
// not have all of it.
func ReadResponse(b []byte, method string) (*Response, error) {
	line, head, size, err := read(b)
	if size == 0 || err != nil {
		return nil, err
	}
	version, rest, _ := strings.Cut(line, " ")
	code := rest[:min(3, len(rest))]
	if version != "HTTP/1.1" && version != "HTTP/1.0" || len(code) < 3 || strings.Trim(code, "0123456789") != "" || code[0] == '0' {
		return nil, ErrHead
	}
	r := &Response{Version: version, reason: rest[3:], Head: head, Size: size}
	r.Status = int(code[0]-'0')*100 + int(code[1]-'0')*10 + int(code[2]-'0')
	if r.reason != "" && r.reason[0] != ' ' {
		return nil, ErrHead
	}
	if method == "HEAD" || r.Status < 200 || r.Status == 204 || r.Status == 304 {
		return r, nil
	}
	codings, lengths := r.Values("Transfer-Encoding"), r.Values("Content-Length")
	if len(lengths) > 1 && !slices.ContainsFunc(lengths, func(l string) bool { return l != lengths[0] }) {
		lengths = lengths[:1]
	}
	switch {
	case len(codings) == 0 && len(lengths) == 0,
		len(codings) == 1 && !strings.EqualFold(codings[0], "chunked") && len(lengths) == 0:
		r.Body, r.Ends = sniff.UntilEnd(), true
		return r, nil
	}
	if r.Body, err = sniff.Framing(codings, lengths); err != nil {
		return nil, ErrFraming
	}
	return r, nil
}

// read reads a start line and the lines of fields. size is 0 if b does not have all.
func read(b []byte) (line string, head Head, size int, err error) {
	start := 0
	for start < len(b) && (b[start] == '\r' || b[start] == '\n') { // RFC 9112, 2.2
		start++
	}
	for at := start; ; {
		end := bytes.IndexByte(b[at:], '\n')
		if end < 0 {
			if len(b) > MaxHead {
				return "", nil, 0, ErrLong
			}
			return "", nil, 0, nil
		}
		text := strings.TrimSuffix(string(b[at:at+end]), "\r")
		at += end + 1
		switch {
		case strings.ContainsAny(text, "\r\x00"):
			return "", nil, 0, ErrHead
		case text == "":
			return line, head, at, nil
		case line == "":
			line = text
			continue
		}
		name, _, ok := strings.Cut(text, ":")
		if !ok || !isToken(name) { // folding and blanks before the colon, too
			return "", nil, 0, ErrHead
		}
		head = append(head, text)
	}
}

// isToken tells whether s is a token (RFC 9110, 5.6.2).
func isToken(s string) bool {
	return s != "" && strings.Trim(s, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

func is(line, name string) bool {
	return len(line) > len(name) && line[len(name)] == ':' && strings.EqualFold(line[:len(name)], name)
}

// Values are those of the fields with the name, in their order.
func (h Head) Values(name string) (values []string) {
	for _, line := range h {
		if is(line, name) {
			values = append(values, strings.Trim(line[len(name)+1:], " \t"))
		}
	}
	return values
}

// Lists tells whether a field that is a list has the member, whatever its case.
func (h Head) Lists(name, member string) bool {
	for _, value := range h.Values(name) {
		for m := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.Trim(m, " \t"), member) {
				return true
			}
		}
	}
	return false
}

// Del takes out the fields with the names.
func (h *Head) Del(names ...string) {
	*h = slices.DeleteFunc(*h, func(line string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return is(line, name) })
	})
}

// Set has the head have one field of the name, where the first one was, else at the
// start.
func (h *Head) Set(name, value string) {
	text := name + ": " + value
	at := slices.IndexFunc(*h, func(line string) bool { return is(line, name) })
	if at < 0 {
		*h = slices.Insert(*h, 0, text)
		return
	}
	(*h)[at] = text
	rest := (*h)[at+1:]
	rest.Del(name)
	*h = append((*h)[:at+1], rest...)
}

// DelHop takes out what is between two hops alone (RFC 9110, 7.6.1): what Connection
// lists, and itself.
func (h *Head) DelHop() {
	var names []string
	for _, value := range h.Values("Connection") {
		for name := range strings.SplitSeq(value, ",") {
			names = append(names, strings.Trim(name, " \t"))
		}
	}
	names = slices.DeleteFunc(names, func(name string) bool { // which frame the message, or are for its end
		return name == "" || slices.ContainsFunc([]string{"Host", "Content-Length", "Transfer-Encoding"}, func(s string) bool { return strings.EqualFold(s, name) })
	})
	h.Del(append(names, "Connection", "Proxy-Connection", "Keep-Alive")...)
}

func (h Head) append(b []byte) []byte {
	for _, line := range h {
		b = append(append(b, line...), "\r\n"...)
	}
	return append(b, "\r\n"...)
}

// Append appends the head as it is sent.
func (r *Request) Append(b []byte) []byte {
	return r.append(fmt.Appendf(b, "%s %s %s\r\n", r.Method, r.Target, r.Version))
}

// Append appends the head as it is sent.
func (r *Response) Append(b []byte) []byte {
	return r.append(fmt.Appendf(b, "%s %d%s\r\n", r.Version, r.Status, r.reason))
}

// SplitURL is the authority in an absolute target of the scheme, without userinfo, and
// what is asked of that host, byte for byte (RFC 9112, 3.2); false if the target is none.
func SplitURL(target, scheme string) (authority, rest string, ok bool) {
	n := len(scheme) + len("://")
	if len(target) < n || !strings.EqualFold(target[:n], scheme+"://") {
		return "", "", false
	}
	authority = target[n:]
	if i := strings.IndexAny(authority, "/?#"); i >= 0 {
		authority, rest = authority[:i], authority[i:]
	}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		authority = authority[i+1:]
	}
	return authority, rest, authority != ""
}
