package sniff

import "strings"

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

// knownMethods are those that all servers know, whatever follows them.
var knownMethods = map[string]bool{
	"GET": true, "HEAD": true, "POST": true, "PUT": true, "DELETE": true, "CONNECT": true,
	"OPTIONS": true, "TRACE": true, "PATCH": true,
}

// requestLine parses a request line (RFC 9112, 3), with its end. It is strict: what
// is none to this function may still be one to some server.
func requestLine(line string) (method, target, version string, ok bool) {
	line, crlf := strings.CutSuffix(line, "\r\n")
	method, rest, _ := strings.Cut(line, " ")
	target, version, _ = strings.Cut(rest, " ")
	ok = crlf && (version == "HTTP/1.1" || version == "HTTP/1.0") && target != "" &&
		method != "" && strings.Trim(method, tokenChars) == "" && !hasControl(line) && !strings.Contains(line, "\t")
	return method, target, version, ok
}

// hasVersion tells whether a line, with its end, may be a request's to some server
// because of its version, wherever that looks for it.
func hasVersion(text string) bool {
	var x line
	for i := range len(text) {
		x.add(text[i], withinHead)
	}
	return x.isRequest()
}

// hasControl tells whether s has a control character of ASCII, but for tabs.
func hasControl(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
			return true
		}
	}
	return false
}

// hidesHost tells whether a server that splits lines as Python's str.splitlines does
// finds a Host field within one.
func hidesHost(text string) bool {
	for _, end := range []string{"\x85", "\u2028", "\u2029"} {
		for rest, found := text, true; found; {
			if _, rest, found = strings.Cut(rest, end); found && namesHost(rest) {
				return true
			}
		}
	}
	return false
}

// namesHost tells whether a text is, or may begin with, a Host field.
func namesHost(text string) bool {
	var x line
	for i := range len(text) {
		if x.findHost(text[i]) {
			return true
		}
		if x.host == noHost {
			return false
		}
	}
	return false
}
