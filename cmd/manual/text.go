package manual

import (
	"strings"
	"unicode/utf8"
)

// width is that of a terminal, as most are no narrower.
const width = 79

// plain writes blocks for a terminal.
func plain(blocks []block) string {
	var b strings.Builder
	first := 0 // the width of the first column
	for i, k := range blocks {
		if i > 0 && (k.kind != blocks[i-1].kind || k.kind == paragraph || k.kind == code) {
			b.WriteByte('\n')
		}
		switch k.kind {
		case heading:
			b.WriteString(strings.ToUpper(unmarked(k.text)) + "\n")
		case code:
			for line := range strings.Lines(k.text) {
				b.WriteString("    " + line)
			}
		case item:
			fill(&b, "- ", "  ", unmarked(k.text))
		case columns:
			if blocks[i-1].kind != columns {
				first = widest(blocks[i:])
			}
			name := unmarked(k.cells[0])
			lead := "  " + name + strings.Repeat(" ", max(first-utf8.RuneCountInString(name), 0)+2)
			fill(&b, lead, strings.Repeat(" ", first+4), unmarked(k.cells[1]))
		default:
			fill(&b, "", "", unmarked(k.text))
		}
	}
	return b.String()
}

// widest is the width of the first column of the table that blocks begin with.
func widest(blocks []block) (n int) {
	for _, k := range blocks {
		if k.kind != columns {
			break
		}
		n = max(n, utf8.RuneCountInString(unmarked(k.cells[0])))
	}
	return n
}

// unmarked is a line without its marks.
func unmarked(text string) string {
	var b strings.Builder
	for _, s := range spans(text) {
		b.WriteString(s.text)
	}
	return b.String()
}

// fill writes words in lines that begin with lead, and later ones with indent.
func fill(b *strings.Builder, lead, indent, text string) {
	line, empty := lead, true
	for _, word := range strings.Fields(text) {
		if !empty && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			b.WriteString(line + "\n")
			line, empty = indent, true
		}
		if !empty {
			line += " "
		}
		line, empty = line+word, false
	}
	b.WriteString(line + "\n")
}
