package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A log that root writes in a directory of somebody else's, or in /tmp, is a file there, and
// nothing that its path was made to lead to.
func TestOpenLogOfRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		// Who is not root has no other rights than whoever leads it elsewhere.
		if leadsElsewhere("/tmp/x.json") {
			t.Error("the rights are those of others")
		}
		return
	}
	const theirs = 65534
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	made := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	secret, his, open := filepath.Join(dir, "secret"), filepath.Join(dir, "his"), filepath.Join(dir, "open")
	made(os.WriteFile(secret, nil, 0o644))
	made(os.Mkdir(his, 0o755))
	made(os.Mkdir(open, 0o755))
	made(os.Chmod(open, 0o777|fs.ModeSticky))
	for _, in := range []string{his, open} {
		made(os.Symlink(secret, in+"/link"))
		made(os.Link(secret, in+"/hard"))
		made(unix.Mkfifo(in+"/fifo", 0o666))
		made(os.Symlink(dir, in+"/up"))
		made(os.Lchown(in+"/up", theirs, theirs))
		made(os.WriteFile(in+"/old.json", []byte("old\n"), 0o600))
	}
	made(os.Chown(his, theirs, theirs))
	made(os.Symlink(filepath.Join(his, "link"), filepath.Join(dir, "mine"))) // root's, to his
	for _, path := range []string{
		his + "/link", his + "/hard", his + "/fifo", his + "/up/new", his + "/up/secret", his, filepath.Join(dir, "mine"),
		open + "/link", open + "/hard", open + "/fifo", open + "/up/new",
	} {
		file, err := OpenLog(path)
		if err == nil {
			file.Close()
			t.Errorf("%s: it was opened", path)
		}
	}
	if b, err := os.ReadFile(secret); err != nil || len(b) != 0 {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "new")); err == nil {
		t.Error("it made a file elsewhere")
	}
	// What is meant works: also a link that is root's, and what the process has open.
	made(os.Symlink(secret, filepath.Join(dir, "link")))
	for _, path := range []string{his + "/new.json", his + "/old.json", open + "/old.json", open + "/new.json", filepath.Join(dir, "link"), "/dev/null", fmt.Sprintf("/proc/self/fd/%d", os.Stderr.Fd())} {
		file, err := OpenLog(path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		file.Close()
	}
}

// For a program of another user, it is opened with that user's rights; with root's only
// where nobody else could have led it anywhere.
func TestOpenLogOf(t *testing.T) {
	as := func(fn func() error) error { return fn() }
	dir := t.TempDir()
	file, err := OpenLogOf(filepath.Join(dir, "a.json"), as)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	if err := os.Symlink(filepath.Join(dir, "a.json"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if file, err := OpenLogOf(filepath.Join(dir, "link"), as); err == nil {
		file.Close()
		t.Error("it followed a link")
	}
	refused := func(func() error) error { return fs.ErrPermission }
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if file, err := OpenLogOf(filepath.Join(dir, "b.json"), refused); err == nil || !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "others could change "+dir) {
		t.Errorf("%v, %v", file, err)
	}
	if os.Geteuid() != 0 {
		return // all that it has is its own
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if file, err = OpenLogOf(filepath.Join(dir, "b.json"), refused); err != nil {
		t.Fatal(err)
	}
	file.Close()
}
