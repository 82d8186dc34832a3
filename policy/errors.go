package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Pos is where a rule was written. The zero Line means the command line, and
// File is then the flag ("--allow").
type Pos struct {
	File         string
	Line, Column int // from 1
}

func (p Pos) String() string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line)
}

// SyntaxError is a mistake in a policy.
type SyntaxError struct {
	Pos  Pos    // of the word
	Word string // as it was written; may hold any bytes
	Msg  string // what is wrong with it
	Hint string // what was probably meant; may be empty
}

func (e *SyntaxError) Error() string {
	var b strings.Builder
	b.WriteString(e.Pos.File)
	if e.Pos.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Pos.Line, e.Pos.Column)
	} else if e.Pos.Column > 1 {
		fmt.Fprintf(&b, ": column %d", e.Pos.Column)
	}
	if e.Word != "" {
		fmt.Fprintf(&b, ": %.80q", e.Word)
	}
	b.WriteString(": " + e.Msg)
	if e.Hint != "" {
		fmt.Fprintf(&b, " (did you mean %s?)", e.Hint)
	}
	return b.String()
}

// maxMistakes are told at once.
const maxMistakes = 10

// mistakes gathers errors, so that all can be mended together.
type mistakes []error

// add takes in an error, be it of several, or nil; false if there are enough.
func (m *mistakes) add(err error) bool {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range several.Unwrap() {
			m.add(one)
		}
	} else if err != nil && len(*m) < maxMistakes {
		*m = append(*m, err)
	}
	return len(*m) < maxMistakes
}

func (m mistakes) err() error { return errors.Join(m...) }

// wordError is a SyntaxError of which the position is not known yet.
type wordError struct{ word, msg, hint string }

func (e *wordError) Error() string {
	return (&SyntaxError{Word: e.word, Msg: e.msg, Hint: e.hint}).Error()
}

// at places the mistake within arg, which was written at pos. What stands both
// as the host and further on is the host.
func (e *wordError) at(pos Pos, arg string) *SyntaxError {
	i := strings.LastIndex(arg, e.word)
	if rest, ok := strings.CutPrefix(arg, e.word); ok && (rest == "" || strings.IndexByte(":/", rest[0]) >= 0) {
		i = 0
	}
	if i > 0 {
		pos.Column = max(pos.Column, 1) + i
	}
	return &SyntaxError{Pos: pos, Word: e.word, Msg: e.msg, Hint: e.hint}
}

// Nearest is the candidate that s was probably meant to be: one that two typing
// mistakes at most lead to, and fewer than half its letters; "" if there is none.
func Nearest(s string, candidates []string) string {
	best, bestDistance := "", 3
	for _, c := range candidates {
		if d := editDistance(strings.ToLower(s), c); d < bestDistance && 2*d < len(c) {
			best, bestDistance = c, d
		}
	}
	return best
}

// editDistance counts insertions, deletions, replacements and swaps of
// neighbours (optimal string alignment). It gives up on long words.
func editDistance(a, b string) int {
	if len(a) > 32 || len(b) > 32 {
		return len(a) + len(b)
	}
	var d [33][33]int
	for i := range len(a) + 1 {
		for j := range len(b) + 1 {
			switch {
			case i == 0 || j == 0:
				d[i][j] = i + j
			default:
				cost := 1
				if a[i-1] == b[j-1] {
					cost = 0
				}
				d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
				if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
					d[i][j] = min(d[i][j], d[i-2][j-2]+1)
				}
			}
		}
	}
	return d[len(a)][len(b)]
}
