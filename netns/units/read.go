package units

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Cat is what systemctl cat prints of a unit: its files, each after a line with its
// path. Without a systemctl the error is [exec.ErrNotFound]; if that fails, an
// [*exec.ExitError] with what it says.
func Cat(ctx context.Context, unit string) (string, error) {
	c := exec.CommandContext(ctx, "systemctl", "--no-pager", "cat", "--", unit)
	c.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_COLORS=0")
	out, err := c.Output()
	return string(out), err
}

// DropIns are the paths of the drop-ins in a directory (UNIT.d), in the order in
// which systemd reads them (systemd.unit(5)).
func DropIns(dir string) (paths []string, err error) {
	entries, err := os.ReadDir(dir) // sorted
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".conf") {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, err
}
