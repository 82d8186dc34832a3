package netns

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// One has the lock, and it leaves nothing.
func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "locks")
	first, err := lockIn(dir, "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockIn(dir, "x"); !errors.Is(err, errTaken) {
		t.Errorf("taken twice: %v", err)
	}
	other, err := lockIn(dir, "y")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(first.Close(), other.Close()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is left: %v", err)
	}
	var all sync.WaitGroup
	var have, had atomic.Int32
	for range 20 {
		all.Go(func() {
			for range 200 {
				l, err := lockIn(dir, "x")
				if errors.Is(err, errTaken) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if have.Add(1) != 1 {
					t.Error("two have it")
				}
				had.Add(1)
				have.Add(-1)
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if had.Load() == 0 {
		t.Error("nobody had it")
	}
}

// A directory that others could change, or that leads elsewhere, is not used.
func TestLockDirectory(t *testing.T) {
	base := t.TempDir()
	open, link, file := filepath.Join(base, "open"), filepath.Join(base, "link"), filepath.Join(base, "file")
	own := filepath.Join(base, "own")
	err := errors.Join(os.Mkdir(own, 0o700), os.Mkdir(open, 0o777), os.Chmod(open, 0o777), os.Symlink(own, link), os.WriteFile(file, nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{open, link, file} {
		if l, err := lockIn(dir, "x"); err == nil {
			t.Errorf("%s: %v", dir, l)
		}
	}
	if err := os.Symlink(file, filepath.Join(own, "x")); err != nil {
		t.Fatal(err)
	}
	if _, err := lockIn(own, "x"); err == nil {
		t.Error("a link was followed")
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(own, 1, 1); err != nil {
			t.Fatal(err)
		}
		if _, err := lockIn(own, "y"); err == nil {
			t.Error("another's directory was used")
		}
	}
}
