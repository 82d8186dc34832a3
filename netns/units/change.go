package units

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// File is a file of systemd's.
type File struct{ Path, Text string }

// Change is what is to be done about a service. Nothing is, until it is applied.
type Change struct {
	Service string   // its whole name: nginx.service
	Write   []File   // that put it behind appfw; none if it is taken back
	Remove  []string // files that are of no use then
	Notes   []string // what whoever looks at it should know

	config     *Config
	dropIn     string   // the path of the service's
	refused    error    // why it cannot be applied; nil: it can be
	program    string   // that is to be kept from sending first, as a test; "": none is
	namespaces []string // that are of no use then
	sockets    []string // the units that open sockets for the service, if they are changed
}

// Done is what came of a change, up to its error if there was one.
type Done struct {
	Wrote     []string // files, in their order
	Removed   []string
	Restarted []string // units of appfw's that ran, and now do what was asked for
	Notes     []string // what systemd could not be told, and why
	// Restart are the units that are to be restarted for the service to be as it was
	// asked for; none if it does not run and need not.
	Restart []string
}

// dropInName is the file name of drop-ins: it sorts behind those of others, as what is
// read last holds (systemd.unit(5)).
const dropInName = "zz-appfw.conf"

// formerDropIn is how drop-ins were called that were not the last.
const formerDropIn = "50-appfw.conf"

func (c *Config) change(service string) *Change {
	return &Change{Service: service, config: c, dropIn: c.dropInOf(service)}
}

// note adds to what whoever looks at the change should know.
func (c *Change) note(format string, args ...any) {
	c.Notes = append(c.Notes, fmt.Sprintf(format, args...))
}

// dropInOf is the path of the drop-in of a unit.
func (c *Config) dropInOf(unit string) string {
	return filepath.Join(c.directory(), unit+".d", dropInName)
}

// Apply does it: all files are written, or none; then systemd reads its units anew, and
// is asked whether all that was written is in force: if it is not, all is as before.
// Units of appfw's that run with what was there before are restarted at once, without the
// services behind them; those that are of no use are stopped, and removed. The service
// itself is not restarted: that is left to who reads Done.Restart.
func (c *Change) Apply(ctx context.Context) (done Done, err error) {
	if c.refused != nil {
		return done, c.refused
	}
	if c.program != "" {
		if err := c.config.systemd().KeepsAddresses(ctx, c.program); err != nil {
			return done, err
		}
	}
	if len(c.Write) > 0 {
		changed, err := c.put(ctx, &done)
		if err != nil {
			return done, err
		}
		if err := c.renew(ctx, &done, changed); err != nil {
			return done, err
		}
	}
	if err := c.clear(ctx, &done); err != nil {
		return done, err
	}
	return done, c.toRestart(ctx, &done)
}

// put writes the files, and sees to it that they hold. changed are those that were not so
// before.
func (c *Change) put(ctx context.Context, done *Done) (changed []string, err error) {
	former := filepath.Join(filepath.Dir(c.dropIn), formerDropIn)
	changed, restore, err := writeAll(c.Write)
	if err != nil {
		return nil, err
	}
	told := len(done.Notes)
	c.tell(ctx, done, "daemon-reload")
	if c.config.here() && told == len(done.Notes) { // what it could not be told, it cannot be asked
		if err := c.inForce(ctx); err != nil {
			restore()
			c.tell(ctx, done, "daemon-reload")
			return nil, fmt.Errorf("%s: %w; %w", c.Service, err, ErrUndone)
		}
	}
	for _, f := range c.Write {
		done.Wrote = append(done.Wrote, f.Path)
	}
	if text, err := os.ReadFile(former); err == nil && marked(text) {
		if err := os.Remove(former); err != nil {
			return nil, err
		}
		done.Removed = append(done.Removed, former)
		c.tell(ctx, done, "daemon-reload")
	}
	return changed, nil
}

// inForce is an error if what was written does not hold.
func (c *Change) inForce(ctx context.Context) error {
	f, err := c.config.facts(ctx, c.Service)
	if err != nil || f == nil {
		return err
	}
	text, err := f.dropIn()
	if err != nil {
		return err
	}
	return f.check(text)
}

// renew restarts units of appfw's that run, and whose files have changed: alone, without
// what depends on them, as after a crash.
func (c *Change) renew(ctx context.Context, done *Done, changed []string) error {
	for _, path := range changed {
		unit := filepath.Base(path)
		if !strings.HasSuffix(unit, ".service") && !strings.HasSuffix(unit, ".socket") || isTemplate(unit) {
			continue
		}
		p, err := c.config.shown(ctx, unit)
		if err != nil || !p.isActive() {
			continue
		}
		words := []string{"--job-mode=ignore-dependencies", "restart", unit}
		if strings.HasSuffix(unit, ".socket") { // it does not start while its service runs
			c.tell(ctx, done, "--job-mode=ignore-dependencies", "stop", instance(strings.TrimSuffix(unit, ".socket"))+".service")
		}
		if err := c.config.systemd().Tell(ctx, words...); err != nil {
			return fmt.Errorf("what runs is not what was asked for: %w; journalctl -u %s says more", err, unit)
		}
		done.Restarted = append(done.Restarted, unit)
	}
	return nil
}

// clear stops and removes what is of no use.
func (c *Change) clear(ctx context.Context, done *Done) error {
	if len(c.Remove) == 0 {
		return nil
	}
	remove := func(paths []string) error {
		for _, path := range paths {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			done.Removed = append(done.Removed, path)
			if dir := filepath.Dir(path); dir != c.config.directory() {
				_ = os.Remove(dir) // if there is nothing else in it
			}
		}
		return nil
	}
	var dropIns, units []string
	for _, path := range c.Remove {
		if filepath.Dir(path) == c.config.directory() {
			units = append(units, path)
		} else {
			dropIns = append(dropIns, path)
		}
	}
	if err := remove(dropIns); err != nil {
		return err
	}
	if len(dropIns) > 0 {
		c.tell(ctx, done, "daemon-reload") // from here on, the service depends on no unit that goes
	}
	for _, path := range units {
		if unit := filepath.Base(path); !isTemplate(unit) {
			c.tell(ctx, done, "stop", unit)
		}
	}
	if err := remove(units); err != nil {
		return err
	}
	if len(units) > 0 {
		c.tell(ctx, done, "daemon-reload")
	}
	if c.config.here() && c.config.Forget != nil {
		for _, name := range c.namespaces {
			if err := c.config.Forget(name); err != nil {
				done.Notes = append(done.Notes, err.Error())
			}
		}
	}
	return nil
}

// toRestart finds out what is to be restarted. Of a template it is what runs of it.
func (c *Change) toRestart(ctx context.Context, done *Done) error {
	if len(done.Wrote)+len(done.Removed) == 0 {
		return nil
	}
	service := c.Service
	if isTemplate(service) {
		service = strings.TrimSuffix(service, ".service") + "*.service"
	} else if len(done.Wrote) == 0 {
		p, err := c.config.shown(ctx, service)
		if err != nil || !p.isActive() && len(c.sockets) == 0 {
			return nil // the files are what counts
		}
	}
	done.Restart = append(slices.Clone(c.sockets), service)
	return nil
}

// tell tells systemd something. That it fails is a note: the files are what counts,
// and they are read at the next boot if not before.
func (c *Change) tell(ctx context.Context, done *Done, words ...string) {
	if err := c.config.systemd().Tell(ctx, words...); err != nil {
		done.Notes = append(done.Notes, err.Error())
	}
}

// writeAll writes files, none of them over one that appfw has not written, and says which
// have changed. After an error all is as it was; so it is after restore.
func writeAll(files []File) (changed []string, restore func(), err error) {
	before := make(map[string][]byte) // of files that there are already
	for _, f := range files {         // all of them, before any is written
		old, err := os.ReadFile(f.Path)
		if err == nil && !marked(old) {
			return nil, nil, fmt.Errorf("%s is there, and not written by appfw; it is left as it is", f.Path)
		}
		if err == nil {
			before[f.Path] = old
		}
	}
	restore = func() {
		for _, path := range changed {
			if old, there := before[path]; there {
				_ = writeWhole(path, string(old))
				continue
			}
			_ = os.Remove(path)
			_ = os.Remove(filepath.Dir(path)) // if there is nothing else in it
		}
	}
	for _, f := range files {
		if old, there := before[f.Path]; there && string(old) == f.Text {
			continue // so that it does not look newer than what is in force
		}
		if err := writeWhole(f.Path, f.Text); err != nil {
			restore()
			return nil, nil, err
		}
		changed = append(changed, f.Path)
	}
	return changed, restore, nil
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
