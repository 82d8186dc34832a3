package main

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// make install puts all in its place, and make uninstall takes all of it away again.
func TestInstall(t *testing.T) {
	dest := t.TempDir()
	run := func(target string) {
		t.Helper()
		c := exec.Command("make", "-C", "../..", target, "DESTDIR="+dest, "PREFIX=/usr")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("make %s: %v\n%s", target, err, out)
		}
	}
	run("install")
	share := filepath.Join(dest, "usr/share")
	for _, name := range []string{
		"man/man1/appfw.1", "man/man5/appfw.policy.5", "bash-completion/completions/appfw", "zsh/site-functions/_appfw",
		"fish/vendor_completions.d/appfw.fish", "vim/vimfiles/syntax/appfw.vim", "doc/appfw/examples/build.policy",
	} {
		info, err := os.Stat(filepath.Join(share, name))
		if err != nil || info.Mode().Perm() != 0o644 || info.Size() == 0 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	bash := exec.Command("bash", "-c", `. "$1"; complete -p appfw`, "-", filepath.Join(share, "bash-completion/completions/appfw"))
	if out, err := bash.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("appfw")) {
		t.Errorf("bash: %v\n%s", err, out)
	}
	run("uninstall")
	_ = filepath.WalkDir(dest, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || strings.Contains(path, "appfw") && path != dest {
			t.Errorf("left: %s, %v", path, err)
		}
		return nil
	})
}
