package systemd

import (
	"path"
	"strings"
)

// SplitCat divides what systemctl cat prints of a unit into the files, each of which
// has a line "# /PATH" before it. Of what looks like the head of another one, but may
// be a comment, it takes what is a drop-in's.
func SplitCat(unit, out string) (files []File) {
	name, start, at := "systemctl cat "+unit, 0, 0
	for text := range strings.Lines(out) {
		before := out[:at]
		at += len(text)
		file, isHead := strings.CutPrefix(text, "# ")
		file, ends := strings.CutSuffix(file, "\n")
		if !isHead || !ends || !strings.HasPrefix(file, "/") {
			continue
		}
		first := start == 0 && !strings.Contains(before, "[") // warnings may stand before
		later := strings.HasSuffix(file, ".conf") && strings.HasSuffix(path.Dir(file), ".d") && strings.HasSuffix(before, "\n\n")
		if !first && !later {
			continue
		}
		if before != "" {
			files = append(files, File{name, []byte(before[start:])})
		}
		start, name = at, file
	}
	return append(files, File{name, []byte(out[start:])})
}
