package version

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestCommit(t *testing.T) {
	for _, test := range []struct {
		settings map[string]string
		want     string
	}{
		{nil, ""},
		{map[string]string{"vcs.modified": "true"}, ""},
		{map[string]string{"vcs.revision": "0123456789abcdef0123"}, "0123456789ab"},
		{map[string]string{"vcs.revision": "0123", "vcs.modified": "true"}, "0123, changed"},
	} {
		if got := ofCommit(test.settings); got != test.want {
			t.Errorf("of %v: %q, want %q", test.settings, got, test.want)
		}
	}
}

// The number is one of Semantic Versioning, and in no other file that names a version.
func TestNumber(t *testing.T) {
	if !regexp.MustCompile(`^\d+\.\d+\.\d+$`).MatchString(Number) {
		t.Errorf("%q is no version", Number)
	}
	for _, name := range []string{"../../Makefile", "../appfw/main.go"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), `"`+Number+`"`) {
			t.Errorf("%s has the version, too", name)
		}
	}
}
