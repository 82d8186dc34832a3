package policy

import (
	"strings"
	"testing"
)

func TestWords(t *testing.T) {
	seen := make(map[string]bool)
	for _, w := range Words() {
		if w.Name == "" || w.Arg == "" || w.Usage == "" || w.apply == nil || seen[w.Name] {
			t.Errorf("%q %q: %q", w.Name, w.Arg, w.Usage)
		}
		seen[w.Name] = true
		lines, err := ReadLines("p", strings.NewReader(" "+w.Name+" x # comment"))
		if err != nil || len(lines) != 1 || lines[0] != (Line{Word: w.Name, Arg: "x", Pos: Pos{"p", 1, len(w.Name) + 3}, Start: 2}) {
			t.Errorf("%s: %+v, %v", w.Name, lines, err)
		}
		if _, err := ReadLines("p", strings.NewReader(w.Name)); errText(err) != `p:1:1: "`+w.Name+`": something must follow this word` {
			t.Errorf("%s alone: %v", w.Name, err)
		}
		if _, err := ReadLines("p", strings.NewReader(w.Name+" x via=y")); (err == nil) != w.rule {
			t.Errorf("%s with via: %v", w.Name, err)
		}
		if _, err := ReadLines("p", strings.NewReader(w.Name+" x:hush hush@y")); err == nil || strings.Contains(err.Error(), "hush") == w.secret {
			t.Errorf("%s with a password: %v", w.Name, err)
		}
	}
}
