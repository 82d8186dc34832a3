// Package units puts services of systemd behind appfw, and takes them back: it
// writes drop-ins for them, and units that start appfw for them. A service either
// reaches nothing but a proxy of appfw's ([Config.Proxy]), or runs in a network
// namespace that appfw serves ([Config.Namespace]).
//
// What is to be done is decided first, as a [Change] that can be shown, and then
// done:
//
//	c := units.Config{Load: load}
//	change, err := c.Proxy(ctx, "backup.service", units.Proxy{Policy: "backup.policy"})
//	done, err := change.Apply(ctx)
//	...
//	change, err = c.Undo("backup.service")
//
// All that is written has a mark; what has it not is left as it is. The package
// knows no policy (what loads one is given to it), starts and restarts no service,
// and prints nothing: what happened is returned. What the address lists of units
// mean is package policy/systemd's.
package units

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Directory is where the administrator's units are.
const Directory = "/etc/systemd/system"

// Config says where units are, and what they start.
type Config struct {
	// Directory is where units are written. Empty is [Directory]; any other is of
	// an image for another machine, and less of it is checked against this one.
	Directory string
	// Program is the path of appfw as units start it. Empty is this program.
	Program string
	// Load reads a policy file, and returns the files that it is made of. Its error
	// is returned as it is. Nil: policies are taken unread.
	Load func(policy string) (files []string, err error)
	// FilesDir is the directory of the resolv.conf, nsswitch.conf and hosts that
	// programs in the namespace of that name see. Only [Config.Namespace] asks for it.
	FilesDir func(namespace string) string
	// Systemd is told of what changes. Nil is that of this machine.
	Systemd Systemd
}

// ErrNoPolicy is the error of a change that needs a policy, and has none.
var ErrNoPolicy = errors.New("which policy is not said")

// OptionError is a mistake in what was asked for.
type OptionError struct {
	Option string // "listen" of [Proxy], "program" of [Config], "publish" of [Namespace]
	Value  string // as it was given
	Msg    string // what is wrong with it
}

func (e *OptionError) Error() string { return e.Option + " " + e.Value + ": " + e.Msg }

func (c *Config) directory() string {
	if c.Directory == "" {
		return Directory
	}
	return c.Directory
}

// here tells whether the units are for this machine, and not for an image of
// another.
func (c *Config) here() bool { return c.directory() == Directory }

func (c *Config) systemd() Systemd {
	if c.Systemd == nil {
		return machine{}
	}
	return c.Systemd
}

// serviceName is the whole name of a service that may be put behind appfw
// (systemd.unit(5)): not of a template, nor of a unit of another kind.
func serviceName(name string) (string, error) {
	if !strings.Contains(name, ".") || !strings.HasSuffix(name, ".service") && !strings.HasSuffix(name, ".socket") && !strings.HasSuffix(name, ".timer") {
		name += ".service"
	}
	sensible := regexp.MustCompile(`^[A-Za-z0-9:_.\\-][A-Za-z0-9:_.\\@-]{0,200}\.service$`)
	if !sensible.MatchString(name) || strings.HasSuffix(name, "@.service") {
		return "", fmt.Errorf("%.80q is not the name of a service", name)
	}
	return name, nil
}

// instance is the name of a service as the instance of another.
func instance(service string) string { return strings.TrimSuffix(service, ".service") }

// unitDirs are where units are, beside those that are written (systemd.unit(5)).
var unitDirs = []string{Directory, "/run/systemd/system", "/run/systemd/generator", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// exists tells whether there is a service, or the template that it is of.
func (c *Config) exists(ctx context.Context, service string) bool {
	names := []string{service}
	if i := strings.IndexByte(service, '@'); i >= 0 {
		names = append(names, service[:i+1]+".service")
	}
	for _, dir := range append([]string{c.directory()}, unitDirs...) {
		for _, name := range names {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				return true
			}
		}
	}
	return c.systemd().Knows(ctx, service)
}

// prepare begins a change that puts a service behind appfw, and reads its policy, if
// it has one: that, as units name it, and the files of which it is made.
func (c *Config) prepare(ctx context.Context, service, policy string) (change *Change, path string, files []string, err error) {
	if service, err = serviceName(service); err != nil {
		return nil, "", nil, err
	}
	if !c.exists(ctx, service) {
		return nil, "", nil, fmt.Errorf("there is no unit %s", service)
	}
	change = c.change(service)
	if policy == "" {
		return change, "", nil, nil
	}
	if path, err = filepath.Abs(policy); err != nil {
		return nil, "", nil, err
	}
	if c.Load != nil {
		files, err = c.Load(path)
	}
	return change, path, files, err
}
