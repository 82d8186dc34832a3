package units

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Undo takes a service back: its drop-in goes, and the units that no other drop-in
// speaks of.
func (c Config) Undo(service string) (*Change, error) {
	service, err := serviceName(service)
	if err != nil {
		return nil, err
	}
	change := c.change(service)
	text, err := os.ReadFile(change.dropIn)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("nothing is written for %s: there is no %s", service, change.dropIn)
	case err != nil:
		return nil, err
	case !marked(text):
		return nil, fmt.Errorf("%s is not written by appfw; it is left as it is", change.dropIn)
	}
	change.Remove = append([]string{change.dropIn}, c.unitsOf(change.dropIn, text)...)
	return change, nil
}

// obsolete are the units that the service has from another way of being behind
// appfw, and not by its new drop-in.
func (c *Change) obsolete() (files []string) {
	old, err := os.ReadFile(c.dropIn)
	if err != nil || !marked(old) {
		return nil
	}
	i := slices.IndexFunc(c.Write, func(f File) bool { return f.Path == c.dropIn })
	return slices.DeleteFunc(c.config.unitsOf(c.dropIn, old), func(path string) bool {
		return strings.Contains(c.Write[i].Text, strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)))
	})
}

// kinds are the kinds of appfw's units, in the order in which they are stopped.
var kinds = []string{".socket", ".target", ".service"}

// unitsOf are the files of appfw's units that a drop-in with the text speaks of, and
// no other one, in the order in which they are stopped.
func (c *Config) unitsOf(dropIn string, text []byte) (files []string) {
	appfwUnit := regexp.MustCompile(`\bappfw-(?:serve|netns)@[A-Za-z0-9:_.\\@-]+\.(?:service|socket)`)
	names := func(text []byte) (bases []string) {
		for _, name := range appfwUnit.FindAll(text, -1) {
			name, _ = bytes.CutSuffix(name, []byte(".socket"))
			bases = append(bases, instance(string(name)))
		}
		return bases
	}
	used := make(map[string]bool)
	others, _ := filepath.Glob(filepath.Join(c.directory(), "*.d", dropInName)) // fails for bad patterns only
	for _, other := range others {
		b, err := os.ReadFile(other)
		if other != dropIn && err == nil {
			for _, base := range names(b) {
				used[base] = true
			}
		}
	}
	for _, base := range names(text) {
		for _, kind := range kinds {
			path := filepath.Join(c.directory(), base+kind)
			b, err := os.ReadFile(path)
			if err == nil && marked(b) && !used[base] && !slices.Contains(files, path) {
				files = append(files, path)
			}
		}
	}
	return files
}
