package manual

import (
	"fmt"
	"strings"
)

// kind is what a block of a topic is.
type kind int

const (
	paragraph kind = iota
	heading
	item    // of a list
	code    // as it stands
	columns // of a table: two
)

// block is a part of a topic that is set by itself.
type block struct {
	kind  kind
	text  string    // Markdown, in one line; of code, its lines
	info  string    // of code: what follows the fence
	cells [2]string // of columns
}

// parse reads the Markdown that topics are written in: "# " and "## " headings,
// paragraphs, "- " lists, fenced code, and tables of two columns, whose first row names
// them. Anything else is an error, so that no topic has what one of its readers is not shown.
func parse(text string) (list []block, err error) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	open := false // the last block goes on
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		switch {
		case line == "":
			open = false
			continue
		case strings.HasPrefix(line, "```"):
			b := block{kind: code, info: line[3:]}
			for i++; ; i++ {
				if i == len(lines) {
					return nil, fmt.Errorf("line %d: code without an end", len(lines))
				}
				if lines[i] == "```" {
					break
				}
				b.text += lines[i] + "\n"
			}
			list, open = append(list, b), false
			continue
		case strings.HasPrefix(line, "#"):
			list, open = append(list, block{kind: heading, text: strings.TrimLeft(line, "# ")}), false
			continue
		case strings.HasPrefix(line, "|"):
			b, rule, err := row(line)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", i+1, err)
			}
			if !rule {
				list = append(list, b)
			} else if len(list) > 0 {
				list = list[:len(list)-1] // the names of the columns are for the web
			}
			open = false
			continue
		case strings.HasPrefix(line, "- "):
			list, open = append(list, block{kind: item, text: line[2:]}), true
			continue
		}
		if open {
			list[len(list)-1].text += " " + strings.TrimSpace(line)
			continue
		}
		list, open = append(list, block{text: line}), true
	}
	return list, nil
}

// row reads a line of a table, or the rule below its first.
func row(line string) (b block, rule bool, err error) {
	const escaped = "\x00"
	cells := strings.Split(strings.ReplaceAll(strings.Trim(line, "| "), `\|`, escaped), "|")
	if len(cells) != 2 {
		return b, false, fmt.Errorf("a table has two columns, not %d", len(cells))
	}
	for i, c := range cells {
		b.cells[i] = strings.ReplaceAll(strings.TrimSpace(c), escaped, "|")
	}
	b.kind = columns
	return b, strings.HasPrefix(b.cells[0], "---"), nil
}

// span is a part of a line in one type.
type span struct {
	text string
	code bool
	bold bool
}

// spans divides a line at `code` and **bold**.
func spans(text string) (list []span) {
	for text != "" {
		i := strings.IndexAny(text, "`*")
		mark := "`"
		if i >= 0 && text[i] == '*' {
			if mark = "**"; !strings.HasPrefix(text[i:], mark) {
				i = -1
			}
		}
		end := -1
		if i >= 0 {
			end = strings.Index(text[i+len(mark):], mark)
		}
		if end < 0 {
			return append(list, span{text: text})
		}
		if i > 0 {
			list = append(list, span{text: text[:i]})
		}
		inner := text[i+len(mark):][:end]
		list = append(list, span{text: inner, code: mark == "`", bold: mark == "**"})
		text = text[i+len(mark)+end+len(mark):]
	}
	return list
}
