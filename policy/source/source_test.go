package source

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"appfw/policy"
)

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file, list, hosts := write("policy", "deny @list\nhosts hosts\n"), write("list", "ads.example\n"), write("hosts", "10.0.0.1 a.example\n")
	s := Source{Lines: []policy.Line{{Word: "policy", Arg: file, Pos: policy.Pos{File: "--policy"}}}}
	l, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	if l.Policy.DecideName("ads.example").Allowed() || !l.Policy.DecideName("a.example").Allowed() {
		t.Error("the list is not in force")
	}
	if got := l.Files(); !slices.Equal(got, []string{file, list}) {
		t.Errorf("files %q", got)
	}
	for _, line := range l.Policy.Settings().Hosts {
		f, err := l.Open(line.Arg)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if got := l.Files(); !slices.Equal(got, []string{file, list, hosts}) {
		t.Errorf("files %q", got)
	}
	if l.stamps != stamps(l.files...) {
		t.Error("the files seem to have changed")
	}
	for _, path := range l.Files() {
		before := stamps(l.files...)
		write(filepath.Base(path), "# another size\n")
		if stamps(l.files...) == before {
			t.Errorf("a change of %s is not seen", path)
		}
	}

	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	_, err = s.Load()
	if mistake, ok := errors.AsType[*policy.SyntaxError](err); !ok || !strings.HasSuffix(mistake.Error(), "no such file or directory") {
		t.Error(err)
	}
}

func TestCheckReload(t *testing.T) {
	compile := func(text string) *policy.Policy {
		lines, err := policy.ReadLines("p", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		p, err := policy.Compile(policy.Config{Lines: lines})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	const byDefault, toAll = "without an allow, all", "without an allow-from, all"
	for _, tt := range []struct{ old, next, want string }{
		{"allow a.example", "allow b.example", ""},
		{"allow a.example", "deny b.example", byDefault},
		{"allow a.example", "deny b.example\ndefault allow", ""},
		{"allow a.example", "", ""}, // which denies all
		{"deny a.example", "deny b.example", ""},
		{"allow-from 10.0.0.1", "", toAll},
		{"allow-from 10.0.0.1", "allow-from any", ""},
		{"allow-from 10.0.0.1", "deny-from 10.0.0.2", toAll},
		{"", "deny-from 10.0.0.2", ""},
	} {
		err := CheckReload(compile(tt.old), compile(tt.next))
		if (err == nil) != (tt.want == "") || err != nil && !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%q for %q: %v", tt.next, tt.old, err)
		}
	}
}
