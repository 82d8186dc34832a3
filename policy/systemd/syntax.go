package systemd

import (
	"iter"
	"strconv"
	"strings"
	"unicode/utf8"

	"appfw/policy"
)

// What is here reads text as systemd.syntax(7) says, and knows no settings.

// blanks divide words, and stand around keys and values.
const blanks = " \t\r\n"

// line is a line of a unit file together with those that continue it.
type line struct {
	file   string
	text   string
	pieces []piece
}

// piece is where a line of the file begins in the text.
type piece struct{ offset, line int }

func (l *line) add(text string, number int) {
	l.pieces = append(l.pieces, piece{len(l.text), number})
	l.text += text
}

// pos is where the text at the offset was written.
func (l *line) pos(offset int) policy.Pos {
	at := l.pieces[0]
	for _, p := range l.pieces {
		if p.offset <= offset {
			at = p
		}
	}
	return policy.Pos{File: l.file, Line: at.line, Column: offset - at.offset + 1}
}

func (l *line) error(offset int, word, msg string) error {
	return &policy.SyntaxError{Pos: l.pos(offset), Word: word, Msg: msg}
}

// logicalLines are the lines of a file as settings have them: without comments, and
// those that a backslash at the end joins as one.
func logicalLines(file, text string) iter.Seq[line] {
	return func(yield func(line) bool) {
		l := line{file: file}
		number := 0
		for physical := range physicalLines(text) {
			number++
			if t := strings.TrimLeft(physical, blanks); t != "" && (t[0] == '#' || t[0] == ';') {
				continue // also between lines of which one continues the other
			}
			l.add(physical, number)
			// A backslash at the end, itself not escaped, stands for a space.
			if n := len(physical) - len(strings.TrimRight(physical, `\`)); n%2 == 1 {
				l.text = l.text[:len(l.text)-1] + " "
				continue
			}
			if !yield(l) {
				return
			}
			l = line{file: file}
		}
		if len(l.pieces) > 0 {
			yield(l)
		}
	}
}

// physicalLines are the lines of text. CR, LF, and both together end one.
func physicalLines(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for text != "" {
			line, next := text, len(text)
			if i := strings.IndexAny(text, "\r\n"); i >= 0 {
				line, next = text[:i], i+1
				if next < len(text) && text[next] != text[i] && strings.IndexByte("\r\n", text[next]) >= 0 {
					next++
				}
			}
			if !yield(line) {
				return
			}
			text = text[next:]
		}
	}
}

// word is the word that begins at the offset or after: without its quotes and
// escapes, where it starts, and where what follows does; -1 if there is none.
func (l *line) word(at int) (word string, start, next int, err error) {
	for at < len(l.text) && strings.IndexByte(blanks, l.text[at]) >= 0 {
		at++
	}
	if start = at; at == len(l.text) {
		return "", at, -1, nil
	}
	var b []byte
	for quote := byte(0); ; {
		if at == len(l.text) {
			if quote != 0 {
				return "", 0, 0, l.error(start, l.text[start:], "the quote is not closed")
			}
			return string(b), start, at, nil
		}
		c := l.text[at]
		switch {
		case c == '\\':
			r, n, ok := unescape(l.text[at:])
			if !ok {
				return "", 0, 0, l.error(at, l.text[at:min(at+2, len(l.text))], "unknown escape sequence")
			}
			b, at = append(b, r...), at+n
			continue
		case c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote == 0 && strings.IndexByte(blanks, c) >= 0:
			return string(b), start, at, nil
		default:
			b = append(b, c)
		}
		at++
	}
}

// unescape is what the escape sequence that s starts with stands for, and its
// length (systemd.syntax(7), "Quoting").
func unescape(s string) (text string, n int, ok bool) {
	if len(s) < 2 {
		return "", 0, false
	}
	if i := strings.IndexByte(`abfnrtvs\"'`, s[1]); i >= 0 {
		return "\a\b\f\n\r\t\v \\\"'"[i : i+1], 2, true
	}
	digits, base := 0, 16
	from := 2
	switch s[1] {
	case 'x':
		digits = 2
	case 'u':
		digits = 4
	case 'U':
		digits = 8
	default:
		digits, base, from = 3, 8, 1
	}
	if len(s) < from+digits {
		return "", 0, false
	}
	v, err := strconv.ParseUint(s[from:from+digits], base, 32)
	switch {
	case err != nil || v == 0 || digits <= 3 && v > 255 || v > utf8.MaxRune:
		return "", 0, false
	case digits <= 3:
		return string([]byte{byte(v)}), from + digits, true
	}
	return string(rune(v)), from + digits, true
}
