package units

import (
	"context"
	"debug/elf"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// properties are those of one unit, by their names: what systemd has in force for it,
// of which some have several values (systemctl show).
type properties map[string][]string

// get is the value of a property that has one.
func (p properties) get(key string) string { return strings.Join(p[key], " ") }

// words are the values of a property that is a list.
func (p properties) words(key string) []string { return strings.Fields(p.get(key)) }

// facts is what systemd knows of a service.
type facts struct {
	properties
	slices  []properties // that it is in, the nearest first
	sockets []properties // by which systemd starts it
}

// wanted are the properties that facts have.
var wanted = []string{
	"Id", "LoadState", "ActiveState", "Type", "Slice", "User", "DynamicUser", "TriggeredBy", "DropInPaths", "FragmentPath", "RootDirectory", "RootImage",
	"IPAddressAllow", "IPAddressDeny", "NetworkNamespacePath",
	"CapabilityBoundingSet", "AmbientCapabilities", "RestrictAddressFamilies", "RestrictNamespaces", "SystemCallFilter", "SystemCallArchitectures",
	"ProtectControlGroups", "ProtectKernelTunables", "ProtectKernelModules", "PrivateDevices", "DevicePolicy", "DeviceAllow",
	"InaccessiblePaths", "ReadOnlyPaths", "ReadWritePaths", "BindPaths", "BindReadOnlyPaths", "PermissionsStartOnly",
	"ExecConditionEx", "ExecStartPreEx", "ExecStartEx", "ExecStartPostEx", "ExecReloadEx", "ExecStopEx", "ExecStopPostEx",
	"Listen", "ActiveEnterTimestampMonotonic",
}

// shown are the properties of a unit, of which systemd is asked.
func (c *Config) shown(ctx context.Context, unit string) (properties, error) {
	text, err := c.systemd().Show(ctx, unit, wanted...)
	if err != nil {
		return nil, err
	}
	p := make(properties)
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok && value != "" {
			p[key] = append(p[key], value)
		}
	}
	return p, nil
}

// facts are those of a service, or, of a template, those of an instance of it. They are
// nil if systemd does not run, or does not have the unit.
func (c *Config) facts(ctx context.Context, service string) (*facts, error) {
	if i := strings.IndexByte(service, '@'); i >= 0 && isTemplate(service) {
		service = service[:i+1] + "appfw" + service[i+1:]
	}
	p, err := c.shown(ctx, service)
	if err != nil || p.get("LoadState") != "loaded" {
		return nil, err
	}
	f := &facts{properties: p}
	for slice := p.get("Slice"); slice != ""; {
		s, err := c.shown(ctx, slice)
		if err != nil {
			return nil, err
		}
		f.slices = append(f.slices, s)
		if slice = s.get("Slice"); len(f.slices) > 100 {
			return nil, fmt.Errorf("%s is in slices without end", service)
		}
	}
	for _, name := range p.words("TriggeredBy") {
		if strings.HasSuffix(name, ".socket") {
			s, err := c.shown(ctx, name)
			if err != nil {
				return nil, err
			}
			f.sockets = append(f.sockets, s)
		}
	}
	return f, nil
}

// isActive tells whether a unit runs, or is about to.
func (p properties) isActive() bool {
	return slices.Contains([]string{"active", "reloading", "activating"}, p.get("ActiveState"))
}

// since is when a unit became active.
func (p properties) since() time.Time {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // cannot fail
	then, err := strconv.ParseInt(p.get("ActiveEnterTimestampMonotonic"), 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(then)*time.Microsecond - time.Duration(now.Nano()))
}

// networked tells of a socket whether it is one of a network, and not only of paths and
// abstract names (ListenStream= of systemd.socket(5)).
func (p properties) networked() bool {
	return slices.ContainsFunc(p["Listen"], func(at string) bool { return !strings.HasPrefix(at, "/") && !strings.HasPrefix(at, "@") })
}

// privileged are the commands of a service that systemd runs with all privileges ("+" of
// systemd.service(5)), as their settings are called.
func (f *facts) privileged() (settings []string) {
	for _, key := range wanted {
		setting, isExec := strings.CutSuffix(key, "Ex")
		if isExec && slices.ContainsFunc(f.properties[key], func(v string) bool {
			flags, _, _ := strings.Cut(v[strings.LastIndex(v, " flags=")+1:], " ;") // after the command itself
			flags = strings.TrimPrefix(flags, "flags=")
			return slices.Contains(strings.Fields(flags), "privileged")
		}) {
			settings = append(settings, setting)
		}
	}
	return settings
}

// isRoot tells whether the service starts as root.
func (f *facts) isRoot() bool {
	user := f.get("User")
	return (user == "" || user == "root" || user == "0") && f.get("DynamicUser") != "yes"
}

// opensSessions tells whether the service's program is linked to PAM, whose modules write
// into /proc for sessions (pam_loginuid(8)).
func (f *facts) opensSessions() bool {
	return slices.ContainsFunc(f.properties["ExecStartEx"], func(v string) bool {
		_, path, _ := strings.Cut(v, "path=")
		path, _, _ = strings.Cut(path, " ;")
		program, err := elf.Open(path)
		if err != nil {
			return false
		}
		defer program.Close()
		libraries, _ := program.ImportedLibraries()
		return slices.ContainsFunc(libraries, func(name string) bool { return strings.HasPrefix(name, "libpam.so") })
	})
}
