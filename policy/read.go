package policy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Line is one line of a policy: a word, its argument and where it stands.
// "--allow X" of the command line is Line{Word: "allow", Arg: "X"}.
type Line struct {
	Word, Arg string
	Pos       Pos // of Arg
	Start     int // column of Word, from 1
}

// ReadLines reads a policy file: a word and its argument a line; a word that
// starts with "#" starts a comment. It checks the form of lines; Compile what they say.
// Beside an error, it returns the lines that are well-formed.
func ReadLines(name string, r io.Reader) ([]Line, error) {
	words := wordTable(Words())
	var lines []Line
	err := eachLine(name, r, func(text string, number int) error {
		line, err := words.parseLine(Pos{File: name, Line: number}, text)
		if err == nil && line.Word != "" {
			lines = append(lines, line)
		}
		return err
	})
	return lines, err
}

// parseLine parses the line at pos. A blank one has no word.
func (t wordTable) parseLine(pos Pos, text string) (Line, error) {
	text = withoutComment(text)
	fields := fieldsAt(text)
	if len(fields) == 0 {
		return Line{}, nil
	}
	first := fields[0]
	pos.Column = first.column
	if strings.HasPrefix(first.text, "--") {
		return Line{}, &SyntaxError{Pos: pos, Word: first.text, Msg: "a policy file has the flags without dashes", Hint: t.nearest(strings.TrimLeft(first.text, "-"))}
	}
	word, err := t.find(first.text, pos)
	if err != nil {
		return Line{}, err
	}
	if len(fields) == 1 {
		return Line{}, &SyntaxError{Pos: pos, Word: first.text, Msg: "something must follow this word"}
	}
	via := word.rule && len(fields) == 3 && strings.HasPrefix(fields[2].text, "via=")
	if len(fields) > 2 && !via {
		pos.Column = fields[2].column
		if word.secret && strings.Contains(fields[len(fields)-1].text, "@") { // it may be of a password
			return Line{}, &SyntaxError{Pos: pos, Msg: "no blank stands in an upstream; write %20 for one"}
		}
		return Line{}, &SyntaxError{Pos: pos, Word: fields[2].text, Msg: "only one thing may follow the word; give each destination a line"}
	}
	pos.Column = fields[1].column
	arg := strings.TrimRight(text[fields[1].column-1:], " \t\r")
	return Line{Word: first.text, Arg: arg, Pos: pos, Start: first.column}, nil
}

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
