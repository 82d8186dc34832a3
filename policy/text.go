package policy

import (
	"strconv"
	"strings"
)

// Printable is s as one line that is safe to show: what a terminal could take for
// more than text is escaped as in a Go literal, so that names, errors and whatever
// else others choose cannot move the cursor, begin a line of their own or reorder
// one (bidirectional controls). Bytes that are not UTF-8 become U+FFFD.
//
// With max above 0, at most max bytes of that are kept, whole characters and
// escapes, and "…" follows where something was left out.
func Printable(s string, max int) string {
	var b strings.Builder
	for _, c := range s {
		text := string(c)
		if !strconv.IsPrint(c) {
			quoted := strconv.QuoteRuneToASCII(c)
			text = quoted[1 : len(quoted)-1]
		}
		if max > 0 && b.Len()+len(text) > max {
			b.WriteString("…")
			break
		}
		b.WriteString(text)
	}
	return b.String()
}
