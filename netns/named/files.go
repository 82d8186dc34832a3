package named

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// filesDir has a directory for each named namespace. "ip netns exec" binds the files
// of those in ipDir over the ones in /etc.
const (
	filesDir = "/run/appfw/netns"
	ipDir    = "/etc/netns"
)

// FilesDir is where the files of a namespace are.
func FilesDir(name string) string { return filepath.Join(filesDir, name) }

// WriteFiles writes the files of /etc that programs in a named namespace are to see,
// by path, to where "ip netns exec" takes them from. They last until the next boot.
func WriteFiles(name string, files map[string][]byte) error {
	dir := FilesDir(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for path, content := range files {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), content, 0o644); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(ipDir, 0o755); err != nil {
		return err
	}
	if err := os.Symlink(dir, filepath.Join(ipDir, name)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// RemoveFiles removes what WriteFiles wrote.
func RemoveFiles(name string) error {
	link := filepath.Join(ipDir, name)
	if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, filesDir+"/") {
		_ = os.Remove(link)
	}
	err := os.RemoveAll(FilesDir(name))
	for _, dir := range []string{filesDir, filepath.Dir(filesDir)} {
		_ = os.Remove(dir) // if it was the last
	}
	return err
}
