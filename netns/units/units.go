// Package units puts services of systemd behind appfw, and takes them back: it
// writes drop-ins for them, and units that start appfw for them. A service either
// reaches nothing but a proxy of appfw's ([Config.Proxy]), or runs in a network
// namespace that appfw serves ([Config.Namespace]).
//
// What is to be done is decided first, as a [Change] that can be shown, and then
// done:
//
//	c := units.Config{Load: load}
//	change, err := c.Proxy(ctx, "backup.service", units.Proxy{Options: units.Options{Policy: "backup.policy"}})
//	done, err := change.Apply(ctx)
//	...
//	change, err = c.Undo(ctx, "backup.service")
//
// All that is written has a mark; what has it not is left as it is. The package
// knows no policy (what loads one is given to it), starts and restarts no service but
// appfw's own, and prints nothing: what happened is returned. What the address lists of units
// mean is package policy/systemd's.
package units

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
	// Load reads a policy file. Its error is returned as it is. Nil: policies are taken
	// unread.
	Load func(policy string) (Policy, error)
	// FilesDir is the directory of the resolv.conf, nsswitch.conf and hosts that
	// programs in the namespace of that name see. [Config.Namespace] needs it, and nothing
	// else asks for it.
	FilesDir func(namespace string) string
	// Forget deletes the namespace of that name, with its files, when no service of
	// appfw's is in it any more. Nil: it stays.
	Forget func(namespace string) error
	// Systemd is told of what changes. Nil is that of this machine.
	Systemd Systemd
}

// Policy is what changes need to know of a policy.
type Policy struct {
	Files []string // that it is made of
	// Admits tells whether it lets a client come to a port of TCP. Nil: it does.
	Admits func(client netip.Addr, port uint16) bool
}

// Options are what both ways of putting a service behind appfw have.
type Options struct {
	Policy string // a file
	// Keep are names of what the service is not to lose: of settings, capabilities,
	// address families, system calls, paths, sockets, or "setuid".
	Keep  []string
	Log   string // --log of appfw's unit
	Quiet bool   // --quiet
}

// ErrNoPolicy is the error of a change that needs a policy, and has none.
var ErrNoPolicy = errors.New("which policy is not said")

// OptionError is a mistake in what was asked for.
type OptionError struct {
	Option string // "listen" of [Proxy], "program" of [Config], "publish" of [Namespace], "policy", "keep" and "log" of [Options]
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

// serviceName is the whole name of a service, or of a template of services, that may be
// put behind appfw (systemd.unit(5)); no unit of another kind.
func serviceName(name string) (string, error) {
	if !strings.Contains(name, ".") || !strings.HasSuffix(name, ".service") && !strings.HasSuffix(name, ".socket") && !strings.HasSuffix(name, ".timer") {
		name += ".service"
	}
	sensible := regexp.MustCompile(`^[A-Za-z0-9:_.\\-][A-Za-z0-9:_.\\@-]{0,200}\.service$`)
	if !sensible.MatchString(name) {
		return "", fmt.Errorf("%.80q is not the name of a service", name)
	}
	if strings.HasPrefix(name, "appfw-serve@") || strings.HasPrefix(name, "appfw-netns@") || strings.HasPrefix(name, "appfw-check@") {
		return "", fmt.Errorf("%s is appfw's own", name)
	}
	return name, nil
}

// isTemplate tells whether a unit is a template: nothing is between its @ and its suffix.
func isTemplate(unit string) bool {
	at := strings.IndexByte(unit, '@')
	return at >= 0 && at == strings.LastIndexByte(unit, '.')-1
}

// instance is the name of a service as the instance of another.
func instance(service string) string { return strings.TrimSuffix(service, ".service") }

// unitDirs are where units are, beside those that are written (systemd.unit(5)).
var unitDirs = []string{Directory, "/run/systemd/system", "/run/systemd/generator", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// userUnitDirs are where units of users are.
var userUnitDirs = []string{"/etc/systemd/user", "/run/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user"}

// isIn tells whether one of the directories has the service, or the template that it is of.
func isIn(dirs []string, service string) bool {
	names := []string{service}
	if i := strings.IndexByte(service, '@'); i >= 0 {
		names = append(names, service[:i+1]+".service")
	}
	for _, dir := range dirs {
		for _, name := range names {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				return true
			}
		}
	}
	return false
}

// find is an error if there is no such service.
func (c *Config) find(ctx context.Context, service string) error {
	if isIn(append([]string{c.directory()}, unitDirs...), service) || c.systemd().Knows(ctx, service) {
		return nil
	}
	users := userUnitDirs
	if home, err := os.UserHomeDir(); err == nil {
		users = append([]string{filepath.Join(home, ".config/systemd/user"), filepath.Join(home, ".local/share/systemd/user")}, users...)
	}
	if isIn(users, service) {
		return fmt.Errorf("%s is a unit of users (systemctl --user), whose managers can put nothing behind appfw: have its ExecStart= run the program by appfw run", service)
	}
	return fmt.Errorf("there is no unit %s", service)
}

// prepare begins a change that puts a service behind appfw: with what systemd knows of it,
// if that is asked here, and with its policy read, if it has one.
func (c *Config) prepare(ctx context.Context, service string, o Options) (b behind, err error) {
	if service, err = serviceName(service); err != nil {
		return b, err
	}
	if err := c.find(ctx, service); err != nil {
		return b, err
	}
	if c.here() {
		if b.facts, err = c.facts(ctx, service); err != nil {
			return b, err
		}
	}
	if b.facts != nil && !isTemplate(service) && b.facts.get("Id") != "" {
		service = b.facts.get("Id") // and not by an alias
	}
	b.change = c.change(service)
	if b.program, err = c.program(b.change); err != nil {
		return b, err
	}
	b.wall = wall{keep: o.Keep}
	if o.Policy != "" {
		var read string
		if b.policy, read, err = c.policyPath(o.Policy); err != nil {
			return b, err
		}
		b.Policy.Files = []string{read}
		if c.Load != nil {
			if b.Policy, err = c.Load(read); err != nil {
				return b, err
			}
		}
		b.wall.own = append(b.wall.own, b.policy)
	}
	b.wall.own = append(b.wall.own, b.program)
	b.wall.own = slices.DeleteFunc(b.wall.own, func(path string) bool { return strings.ContainsAny(path, " \t\n\"'\\%") || inOneOf(path, readOnly) })
	return b, b.suits()
}

// inOneOf tells whether a path is below one of the directories.
func inOneOf(path string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool { return isBelow(path, dir) })
}

// behind is a change that puts a service behind appfw, as it is being made.
type behind struct {
	change  *Change
	facts   *facts // nil: they are not known
	wall    wall
	program string // appfw, as units start it
	policy  string // its path, as units name it; "" if none is given
	Policy
}

// suits is an error if the service cannot be kept in as it is, and notes what is to be
// known about it.
func (b *behind) suits() error {
	if f := b.facts; f != nil {
		for _, s := range f.sockets {
			b.wall.other = append(b.wall.other, s.get("Id"))
		}
	}
	if err := b.wall.unknown(); err != nil {
		return err
	}
	service := b.change.Service
	if f := b.facts; f != nil && f.isRoot() && b.wall.keeps(keepSetuid) {
		return &OptionError{"keep", keepSetuid, service + " is root's, which needs it not"}
	}
	if f := b.facts; f != nil && f.isRoot() && f.opensSessions() && !b.wall.keeps("/proc") {
		b.wall.keep = append(b.wall.keep, "/proc")
		b.change.note("%s opens sessions of users (PAM), for which /proc is writable:", service)
	}
	for _, cost := range b.wall.costs() {
		b.change.note("%s", cost)
	}
	f := b.facts
	if f == nil {
		return nil
	}
	if f.get("Type") == "dbus" && !b.wall.keeps("/run/dbus") {
		return fmt.Errorf("%s needs D-Bus (Type=dbus): %s (--keep /run/dbus if that is meant)", service, kept["/run/dbus"])
	}
	privileged := f.privileged()
	if f.get("PermissionsStartOnly") == "yes" {
		privileged = append(privileged, "PermissionsStartOnly=yes")
	}
	if len(privileged) > 0 {
		b.change.note("commands of %s have all privileges, and nothing keeps them in: %s", service, strings.Join(privileged, ", "))
	}
	if devices := f.properties["DeviceAllow"]; len(devices) > 0 && !b.wall.keeps("PrivateDevices") {
		b.change.note("%s has no devices but the usual pseudo ones, whatever its DeviceAllow= says (--keep PrivateDevices to have them)", service)
	}
	return nil
}

// ShellWords are names of units as a shell takes them.
func ShellWords(names []string) string {
	var words []string
	for _, u := range names {
		if strings.ContainsAny(u, `*\\`) {
			u = "'" + u + "'"
		}
		words = append(words, u)
	}
	return strings.Join(words, " ")
}
