package sniff

import (
	"bytes"
	"strings"
)

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
