package source

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCouldChange(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "a/sticky"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "a/sticky"), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a/policy", "a/sticky/policy"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"b/relative": "../a/policy", "b/absolute": dir + "/a/policy", "b/dir": "../a", "b/twice": "relative", "b/loop": "loop",
	} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	for _, tt := range []struct{ file, own, may, want string }{
		{file: "a/policy"},
		{file: "a/policy", may: "a/policy", want: "a/policy"},
		{file: "a/policy", own: "a/policy", want: "a/policy"},
		{file: "a/policy", may: "a", want: "a"}, // another may be put in its place
		{file: "a/policy", own: "a", want: "a"},
		{file: "a/policy", may: ".", want: "."},
		{file: "a/policy", own: "b", may: "b"},
		{file: "a/none", want: "a/none"}, // whoever makes it decides

		// In a sticky directory, an entry is its owner's and the directory's.
		{file: "a/sticky/policy", may: "a/sticky"},
		{file: "a/sticky/policy", own: "a/sticky", want: "a/sticky"},
		{file: "a/sticky/policy", own: "a/sticky/policy", want: "a/sticky/policy"},

		// Links lead along what can be changed, and may be theirs.
		{file: "b/relative"},
		{file: "b/absolute"},
		{file: "b/twice"},
		{file: "b/dir/policy"},
		{file: "b/dir/../a/policy"},
		{file: "b/relative", may: "b", want: "b"},
		{file: "b/relative", may: "a", want: "a"},
		{file: "b/relative", own: "b/relative", want: "b/relative"},
		{file: "b/absolute", own: "b/absolute", want: "b/absolute"},
		{file: "b/absolute", own: "a/policy", want: "a/policy"},
		{file: "b/twice", own: "b/relative", want: "b/relative"},
		{file: "b/dir/policy", may: "a", want: "a"},
		{file: "b/dir/policy", own: "b/dir", want: "b/dir"},
		{file: "b/dir/../a/policy", may: "b", want: "b"},
		{file: "b/loop", want: "b/loop"},
	} {
		in := func(path, list string) bool { return list != "" && path == filepath.Join(dir, list) }
		w := Writers{
			own: func(path string, _ *unix.Stat_t) bool { return in(path, tt.own) },
			may: func(path string) bool { return in(path, tt.may) },
		}
		for _, file := range []string{tt.file, dir + "/" + tt.file} {
			path, ok := w.couldChange([]string{file})
			if ok != (tt.want != "") || ok && path != filepath.Join(dir, tt.want) {
				t.Errorf("%s, own %q, may %q: %s, %t; want %s", file, tt.own, tt.may, strings.TrimPrefix(path, dir), ok, tt.want)
			}
		}
		if path, ok := (Writers{}).couldChange([]string{tt.file}); ok {
			t.Errorf("%s is nobody's, not %s", tt.file, path)
		}
	}
}

func TestSameUser(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, w := range map[string]Writers{"SameUser": SameUser(), "SameNamespace": SameNamespace()} {
		if _, ok := w.couldChange([]string{file}); !ok {
			t.Errorf("%s could not change a file of theirs", what)
		}
	}
	if path, ok := NotRoot().couldChange([]string{"/etc/passwd"}); ok {
		t.Errorf("all could change %s", path)
	}
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, ok := NotRoot().couldChange([]string{file}); !ok {
		t.Error("nobody could change a file that is open to all")
	}
}
