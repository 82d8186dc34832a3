package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The tests and files that documents for maintainers name are there.
func TestDocuments(t *testing.T) {
	const top = "../.."
	tests := make(map[string]bool)
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w*)\(`)
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			for _, m := range function.FindAllSubmatch(mustRead(t, path), -1) {
				tests[string(m[1])] = true
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	test := regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w*`)
	file := regexp.MustCompile("(?:cmd|dnsguard|netns|policy|proxy|testdata)/[a-z0-9_./-]*[a-z0-9]")
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md"} {
		text := string(mustRead(t, filepath.Join(top, name)))
		named := test.FindAllString(text, -1)
		if name == "SECURITY.md" && len(named) < 20 {
			t.Errorf("%s names %d tests", name, len(named))
		}
		for _, n := range named {
			if !tests[n] {
				t.Errorf("%s: there is no %s", name, n)
			}
		}
		for _, at := range file.FindAllStringIndex(text, -1) {
			path := text[at[0]:at[1]]
			if at[0] > 0 && strings.ContainsAny(text[at[0]-1:at[0]], "/.abcdefghijklmnopqrstuvwxyz") {
				continue // a part of another path
			}
			if _, err := os.Stat(filepath.Join(top, path)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
