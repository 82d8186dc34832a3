package manual

import (
	"fmt"
	"strings"

	"appfw/cmd/version"
)

// page is a page of the manual, for man(7).
type page struct {
	name    string // "appfw.policy"
	section int
	title   string // what follows the name, in a line
	blocks  []block
	also    []string // "appfw(1)"
	aliases []string // other names of the page, in its section
}

// roff writes the page.
func (p page) roff() string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s %d \"%s\" \"appfw %s\" \"appfw manual\"\n", strings.ToUpper(p.name), p.section, version.Date, version.Number)
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roffText(p.name), roffText(p.title))
	if len(p.blocks) > 0 && p.blocks[0].kind != heading {
		b.WriteString(".SH DESCRIPTION\n")
	}
	for i, k := range p.blocks {
		if (k.kind == code || k.kind == paragraph) && i > 0 && p.blocks[i-1].kind != heading {
			b.WriteString(".PP\n")
		}
		switch k.kind {
		case heading:
			b.WriteString(".SH " + strings.ToUpper(roffLine(k.text)) + "\n")
		case code:
			b.WriteString(".RS 4\n.EX\n")
			for line := range strings.Lines(k.text) {
				b.WriteString(roffCode(strings.TrimSuffix(line, "\n")) + "\n")
			}
			b.WriteString(".EE\n.RE\n")
		case item:
			b.WriteString(".IP \\(bu 2\n" + roffLine(k.text) + "\n")
		case columns:
			b.WriteString(".TP\n" + roffLine(k.cells[0]) + "\n" + roffLine(k.cells[1]) + "\n")
		default:
			b.WriteString(roffLine(k.text) + "\n")
		}
	}
	if len(p.also) > 0 {
		var refs []string
		for _, a := range p.also {
			name, section, _ := strings.Cut(a, "(")
			refs = append(refs, ".BR "+roffText(name)+" ("+section)
		}
		b.WriteString(".SH SEE ALSO\n" + strings.Join(refs, " ,\n") + "\n")
	}
	return b.String()
}

// roffLine is a line of Markdown as text of a page.
func roffLine(text string) string {
	var b strings.Builder
	for _, s := range spans(text) {
		switch {
		case s.code:
			b.WriteString(`\fB` + roffEscape(s.text, true) + `\fP`)
		case s.bold:
			b.WriteString(`\fB` + roffEscape(s.text, false) + `\fP`)
		default:
			b.WriteString(roffEscape(s.text, false))
		}
	}
	return guarded(b.String())
}

func roffText(text string) string { return guarded(roffEscape(text, false)) }
func roffCode(line string) string { return guarded(roffEscape(line, true)) }

// guarded keeps a line from being a request.
func guarded(line string) string {
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		return `\&` + line
	}
	return line
}

// roffEscape writes what troff(1) would set as something else. In code a hyphen is the
// character that shells know, and quotes are straight.
func roffEscape(text string, code bool) string {
	var b strings.Builder
	for i, r := range text {
		switch {
		case r == '\\':
			b.WriteString(`\e`)
		case r == '-' && (code || strings.HasPrefix(text[i:], "--") || i > 0 && text[i-1] == '-'):
			b.WriteString(`\-`)
		case code && r == '\'':
			b.WriteString(`\(aq`)
		case code && r == '`':
			b.WriteString(`\(ga`)
		case r == '^':
			b.WriteString(`\(ha`)
		case r == '~':
			b.WriteString(`\(ti`)
		case r >= 0x80:
			fmt.Fprintf(&b, `\[u%04X]`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
