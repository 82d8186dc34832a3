package units

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Undo takes a service back: its drop-ins go, those of its sockets, and the units that no
// other drop-in speaks of. What is gone already is no mistake: then there is less to do,
// or nothing ([Change.IsEmpty]).
func (c Config) Undo(ctx context.Context, service string) (*Change, error) {
	service, err := serviceName(service)
	if err != nil {
		return nil, err
	}
	if p, err := c.shown(ctx, service); c.here() && err == nil && !isTemplate(service) && p.get("LoadState") == "loaded" && p.get("Id") != "" {
		service = p.get("Id")
	}
	change := c.change(service)
	var text []byte // of all that is written for it
	for _, path := range []string{change.dropIn, filepath.Join(filepath.Dir(change.dropIn), formerDropIn)} {
		b, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return nil, err
		case !marked(b) && filepath.Base(path) == dropInName:
			return nil, fmt.Errorf("%s is not written by appfw; it is left as it is", path)
		case !marked(b):
			continue
		}
		change.Remove = append(change.Remove, path)
		text = append(text, b...)
	}
	for _, path := range c.socketsOf(service) {
		change.Remove = append(change.Remove, path)
		change.sockets = append(change.sockets, strings.TrimSuffix(filepath.Base(filepath.Dir(path)), ".d"))
	}
	units := c.unitsOf(change.dropIn, append(text, c.namesOf(service)...))
	change.Remove = append(change.Remove, units...)
	change.namespaces = namespacesOf(units)
	if change.IsEmpty() {
		if err := c.find(ctx, service); err != nil {
			return nil, err
		}
	}
	return change, nil
}

// IsEmpty tells whether there is nothing to do.
func (c *Change) IsEmpty() bool { return len(c.Write)+len(c.Remove) == 0 }

// socketsOf are the drop-ins of sockets that are written for the service.
func (c *Config) socketsOf(service string) (paths []string) {
	all, _ := filepath.Glob(filepath.Join(c.directory(), "*.socket.d", dropInName)) // fails for bad patterns only
	for _, path := range all {
		if b, err := os.ReadFile(path); err == nil && bytes.HasPrefix(b, []byte(mark+"netns "+service+" --remove\n")) {
			paths = append(paths, path)
		}
	}
	return paths
}

// namesOf are the names of appfw's units that were written for the service, by what stands
// in them: its drop-in may be gone.
func (c *Config) namesOf(service string) (text string) {
	text = checkName // which is of no use if no other service has it
	all, _ := filepath.Glob(filepath.Join(c.directory(), "appfw-*@*.service"))
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for _, way := range []string{"netns ", "proxy "} {
			if bytes.HasPrefix(b, []byte(mark+way+service+" --remove\n")) {
				text += "\n" + filepath.Base(path) + "\n"
			}
		}
	}
	return text
}

// namespacesOf are the names of the namespaces that these units serve.
func namespacesOf(units []string) (names []string) {
	for _, path := range units {
		if name, ok := strings.CutPrefix(filepath.Base(path), "appfw-netns@"); ok && strings.HasSuffix(name, ".service") {
			names = append(names, instance(name))
		}
	}
	return names
}

// obsolete are the files that the service has from another way of being behind appfw,
// and not by its new drop-in.
func (c *Change) obsolete() (files []string) {
	i := slices.IndexFunc(c.Write, func(f File) bool { return f.Path == c.dropIn })
	for _, path := range c.config.socketsOf(c.Service) {
		if !slices.ContainsFunc(c.Write, func(f File) bool { return f.Path == path }) {
			files = append(files, path)
		}
	}
	old, err := os.ReadFile(c.dropIn)
	if err != nil {
		old, err = os.ReadFile(filepath.Join(filepath.Dir(c.dropIn), formerDropIn))
	}
	if err != nil || !marked(old) {
		return files
	}
	units := slices.DeleteFunc(c.config.unitsOf(c.dropIn, old), func(path string) bool {
		return strings.Contains(c.Write[i].Text, strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)))
	})
	c.namespaces = namespacesOf(units)
	return append(files, units...)
}

// kinds are the kinds of appfw's units, in the order in which they are stopped.
var kinds = []string{".socket", ".target", ".service"}

// appfwUnit finds the names of appfw's units in a text.
var appfwUnit = regexp.MustCompile(`\bappfw-(?:serve|netns)@[A-Za-z0-9:_.\\@-]+\.(?:service|socket)|` + checkName)

// unitsOf are the files of appfw's units that a drop-in with the text speaks of, and
// no other one, in the order in which they are stopped.
func (c *Config) unitsOf(dropIn string, text []byte) (files []string) {
	names := func(text []byte) (bases []string) {
		for _, name := range appfwUnit.FindAll(text, -1) {
			name, _ = bytes.CutSuffix(name, []byte(".socket"))
			bases = append(bases, instance(string(name)))
		}
		return bases
	}
	used := make(map[string]bool)
	var others []string
	for _, name := range []string{dropInName, formerDropIn} {
		found, _ := filepath.Glob(filepath.Join(c.directory(), "*.service.d", name)) // fails for bad patterns only
		others = append(others, found...)
	}
	for _, other := range others {
		b, err := os.ReadFile(other)
		if filepath.Dir(other) != filepath.Dir(dropIn) && err == nil {
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
