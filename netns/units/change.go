package units

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// File is a file of systemd's.
type File struct{ Path, Text string }

// Change is what is to be done about a service. Nothing is, until it is applied.
type Change struct {
	Service string   // its whole name: nginx.service
	Write   []File   // that put it behind appfw; none if it is taken back
	Remove  []string // files that are of no use then
	Notes   []string // what whoever looks at it should know

	config  *Config
	dropIn  string // the path of the service's
	refused error  // why it cannot be applied; nil: it can be
	program string // that is to be kept from sending first, as a test; "": none is
}

// Done is what came of a change, up to its error if there was one.
type Done struct {
	Wrote   []string // files, in their order
	Removed []string
	Notes   []string // what systemd could not be told, and why
}

// dropInName is the file name of drop-ins.
const dropInName = "50-appfw.conf"

func (c *Config) change(service string) *Change {
	return &Change{Service: service, config: c, dropIn: filepath.Join(c.directory(), service+".d", dropInName)}
}

// Apply does it: all files are written, or none; then systemd reads its units anew,
// stops those that are of no use, and these are removed. The service itself is not
// restarted.
func (c *Change) Apply(ctx context.Context) (Done, error) {
	var done Done
	if c.refused != nil {
		return done, c.refused
	}
	if c.program != "" {
		if err := c.config.systemd().KeepsAddresses(ctx, c.program); err != nil {
			return done, err
		}
	}
	units := c.Remove
	if len(c.Write) > 0 {
		if err := writeAll(c.Write); err != nil {
			return done, err
		}
		for _, f := range c.Write {
			done.Wrote = append(done.Wrote, f.Path)
		}
	} else {
		if err := os.Remove(c.dropIn); err != nil {
			return done, err
		}
		done.Removed = append(done.Removed, c.dropIn)
		_ = os.Remove(filepath.Dir(c.dropIn)) // if there is nothing else in it
		units = units[1:]
	}
	c.tell(ctx, &done, "daemon-reload") // from here on, the service depends on no unit that goes
	for _, path := range units {
		c.tell(ctx, &done, "stop", filepath.Base(path))
	}
	for _, path := range units {
		if err := os.Remove(path); err != nil {
			return done, err
		}
		done.Removed = append(done.Removed, path)
	}
	if len(units) > 0 {
		c.tell(ctx, &done, "daemon-reload")
	}
	return done, nil
}

// tell tells systemd something. That it fails is a note: the files are what counts,
// and they are read at the next boot if not before.
func (c *Change) tell(ctx context.Context, done *Done, words ...string) {
	if err := c.config.systemd().Tell(ctx, words...); err != nil {
		done.Notes = append(done.Notes, err.Error())
	}
}

// writeAll writes files, none of them over one that appfw has not written. After an
// error all is as it was.
func writeAll(files []File) error {
	before := make(map[string][]byte) // of files that there are already
	for _, f := range files {         // all of them, before any is written
		old, err := os.ReadFile(f.Path)
		if err == nil && !marked(old) {
			return fmt.Errorf("%s is there, and not written by appfw; it is left as it is", f.Path)
		}
		if err == nil {
			before[f.Path] = old
		}
	}
	for i, f := range files {
		err := writeWhole(f.Path, f.Text)
		if err == nil {
			continue
		}
		for _, done := range files[:i] {
			if old, there := before[done.Path]; there {
				_ = writeWhole(done.Path, string(old))
			} else {
				_ = os.Remove(done.Path)
			}
		}
		return err
	}
	return nil
}

// writeWhole writes a file that is never seen half written.
func writeWhole(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".appfw-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// marked tells whether a file has the mark of what is written here.
func marked(text []byte) bool { return bytes.HasPrefix(text, []byte(mark)) }
