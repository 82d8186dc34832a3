package policy

import (
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestPrintable(t *testing.T) {
	for _, tt := range []struct {
		in   string
		max  int
		want string
	}{
		{"", 0, ""},
		{"", 1, ""},
		{"plain text", 0, "plain text"},
		{"ümläut → 世界", 0, "ümläut → 世界"},
		{"two\nlines\r\tand a tab", 0, `two\nlines\r\tand a tab`},
		{"\x1b[2J\x07\x00\x7f", 0, `\x1b[2J\a\x00\x7f`},
		{"\u009b31m", 0, `\u009b31m`},
		{"abc\u202edcba\u2066", 0, `abc\u202edcba\u2066`},
		{"\u2028\u00a0\ufeff", 0, `\u2028\u00a0\ufeff`},
		{`a\nb "quoted"`, 0, `a\nb "quoted"`},
		{"\xff\xfe", 0, "\ufffd\ufffd"},
		{"a\xe4\xb8", 0, "a\ufffd\ufffd"},

		{"12345", 5, "12345"},
		{"123456", 5, "12345…"},
		{"123\n", 5, `123\n`},
		{"1234\n5", 5, "1234…"}, // no half of an escape
		{"1234世", 5, "1234…"},   // nor of a character
		{"世", 1, "…"},
		{strings.Repeat("\x1b", 100), 10, `\x1b\x1b…`},
	} {
		if got := Printable(tt.in, tt.max); got != tt.want {
			t.Errorf("Printable(%q, %d) is %q, want %q", tt.in, tt.max, got, tt.want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b[31m\n\u202e\xff", 0)
	f.Add("a\x1b[31m\n\u202e\xff", 7)
	f.Fuzz(func(t *testing.T, s string, max int) {
		got := Printable(s, max)
		if !utf8.ValidString(got) {
			t.Errorf("%q leaves as %q, which is not UTF-8", s, got)
		}
		for _, c := range got {
			if !strconv.IsPrint(c) {
				t.Errorf("%q leaves as %q, with %q in it", s, got, c)
			}
		}
		if max > 0 && len(got) > max+len("…") {
			t.Errorf("%q is cut to %d bytes, not %d", s, len(got), max)
		}
		if Printable(got, 0) != got {
			t.Errorf("%q is not safe: it becomes %q", got, Printable(got, 0))
		}
	})
}
