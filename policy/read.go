package policy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
)

// withoutComment takes off what follows a "#" at the start of a line or of a
// word: within one it may be a part (tls://9.9.9.9#dns.example).
func withoutComment(text string) string {
	for i := range len(text) {
		if text[i] == '#' && (i == 0 || strings.IndexByte(" \t", text[i-1]) >= 0) {
			return text[:i]
		}
	}
	return text
}

// maxLine bounds a line of a file, in bytes.
const maxLine = 64 << 10

// ReadLines reads a policy file: a word and its argument a line; a word that
// starts with "#" starts a comment. It checks the form of lines; Compile what they say.
// Beside an error, it returns the lines that are well-formed.
func ReadLines(name string, r io.Reader) ([]Line, error) {
	var lines []Line
	err := eachLine(name, r, func(text string, number int) error {
		pos := Pos{File: name, Line: number, Column: 1}
		text = withoutComment(text)
		fields := fieldsAt(text)
		switch {
		case len(fields) == 0:
			return nil
		case strings.HasPrefix(fields[0].text, "--"):
			pos.Column = fields[0].column
			return &SyntaxError{Pos: pos, Word: fields[0].text, Msg: "a policy file has the flags without dashes", Hint: Nearest(strings.TrimLeft(fields[0].text, "-"), words)}
		case !slices.Contains(words, fields[0].text):
			pos.Column = fields[0].column
			return unknownWord(pos, fields[0].text)
		case len(fields) == 1:
			pos.Column = fields[0].column
			return &SyntaxError{Pos: pos, Word: fields[0].text, Msg: "something must follow this word"}
		case len(fields) == 3 && strings.HasPrefix(fields[2].text, "via=") && slices.Contains(words[:3], fields[0].text): // of rules
		case len(fields) > 2:
			pos.Column = fields[2].column
			if fields[0].text == "upstream" && strings.Contains(fields[len(fields)-1].text, "@") { // it may be of a password
				return &SyntaxError{Pos: pos, Msg: "no blank stands in an upstream; write %20 for one"}
			}
			return &SyntaxError{Pos: pos, Word: fields[2].text, Msg: "only one thing may follow the word; give each destination a line"}
		}
		pos.Column = fields[1].column
		arg := strings.TrimRight(text[fields[1].column-1:], " \t\r")
		lines = append(lines, Line{Word: fields[0].text, Arg: arg, Pos: pos, Start: fields[0].column})
		return nil
	})
	return lines, err
}

// readList reads a hosts file (hosts(5): an address, then names that belong to
// the list) or a plain list of names, wildcards, addresses and prefixes.
func readList(name string, r io.Reader, add func(h host, line int) error) error {
	return eachLine(name, r, func(text string, number int) error {
		text, _, _ = strings.Cut(text, "#")
		word, rest := cutField(text)
		if word == "" {
			return nil
		}
		var h host
		var err error
		if rest != "" {
			if _, aerr := netip.ParseAddr(word); aerr != nil {
				return listError(name, number, text, rest, errors.New("only one entry a line, or an address and its names (hosts(5))"))
			}
			for rest != "" {
				word, rest = cutField(rest)
				if localNames[strings.TrimSuffix(strings.ToLower(word), ".")] {
					continue
				}
				if likeAddress(word) {
					if _, aerr := netip.ParseAddr(word); aerr == nil {
						continue // "0.0.0.0 0.0.0.0", as many lists have it
					}
				}
				if h, err = parseEntry(word); err == nil && h.kind != exactName {
					err = errors.New("not a name")
				}
				if err != nil {
					return listError(name, number, text, word, err)
				}
				if err := add(h, number); err != nil {
					return listError(name, number, text, word, err)
				}
			}
			return nil
		}
		if h, err = parseEntry(word); err != nil {
			return listError(name, number, text, word, err)
		}
		if err := add(h, number); err != nil {
			return listError(name, number, text, word, err)
		}
		return nil
	})
}

// localNames stand in the head of every hosts file and are not meant.
var localNames = map[string]bool{
	"localhost": true, "localhost.localdomain": true, "local": true, "broadcasthost": true,
	"ip6-localhost": true, "ip6-loopback": true, "ip6-localnet": true, "ip6-mcastprefix": true,
	"ip6-allnodes": true, "ip6-allrouters": true, "ip6-allhosts": true,
}

func listError(name string, line int, text, word string, err error) error {
	e := &SyntaxError{Pos: Pos{File: name, Line: line, Column: strings.LastIndex(text, word) + 1}, Word: word, Msg: err.Error()}
	var w *wordError
	if errors.As(err, &w) {
		e.Msg, e.Hint = w.msg, w.hint
	}
	return e
}

// parseEntry parses an entry of a list. There, internationalized names are
// taken in either spelling and keywords mean nothing.
func parseEntry(s string) (host, error) {
	if likeAddress(s) {
		if p, isAddress, err := parsePrefix(s); isAddress {
			return host{kind: addresses, prefixes: []netip.Prefix{p}}, err
		}
	}
	kind := exactName
	if r, ok := strings.CutPrefix(s, "*."); ok {
		kind, s = belowName, r
	} else if r, ok := strings.CutPrefix(s, "."); ok {
		kind, s = treeName, r
	}
	n, err := ParseName(s)
	if spelling, ok := errors.AsType[*SpellingError](err); ok {
		n, err = ParseName(spelling.Canonical)
	}
	return host{kind: kind, name: n}, err
}

// likeAddress tells whether s may be an address.
func likeAddress(s string) bool { return isDigit(s[0]) || strings.Count(s, ":") > 1 }

// eachLine calls fn with each line and its number from 1. Of its errors, the first
// are returned, joined.
func eachLine(name string, r io.Reader, fn func(text string, number int) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), maxLine)
	s.Split(manyLines)
	var wrong mistakes
	number := 0
	for s.Scan() {
		for text := range strings.Lines(s.Text()) {
			number++
			if number == 1 {
				text = strings.TrimPrefix(text, "\ufeff")
			}
			if !wrong.add(fn(strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r"), number)) {
				return wrong.err()
			}
		}
	}
	switch err := s.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		wrong.add(&SyntaxError{Pos: Pos{File: name, Line: number + 1, Column: 1}, Msg: fmt.Sprintf("the line is longer than %d bytes", maxLine)})
	case err != nil:
		wrong.add(fmt.Errorf("read %s: %w", name, err))
	}
	return wrong.err()
}

// manyLines is a [bufio.SplitFunc] for as many whole lines as are there.
func manyLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	end := bytes.LastIndexByte(data, '\n') + 1
	if atEOF {
		end = len(data)
	}
	if end == 0 {
		return 0, nil, nil
	}
	return end, data[:end], nil
}

type field struct {
	text   string
	column int // from 1
}

func fieldsAt(text string) []field {
	var out []field
	for at := 0; ; {
		word, rest := cutField(text[at:])
		if word == "" {
			return out
		}
		start := strings.Index(text[at:], word) + at
		out = append(out, field{word, start + 1})
		at = len(text) - len(rest)
	}
}

// cutField takes the first field of text. Spaces, tabs and CR divide fields.
func cutField(text string) (word, rest string) {
	text = trimBlanks(text)
	for i := range len(text) {
		if isBlank(text[i]) {
			return text[:i], trimBlanks(text[i:])
		}
	}
	return text, ""
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' }

func trimBlanks(text string) string {
	for text != "" && isBlank(text[0]) {
		text = text[1:]
	}
	return text
}
