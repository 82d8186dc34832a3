package units

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Check is an error if something that appfw has written for a service is not in force:
// drop-ins that are read later, slices, and sockets may undo it. It runs before each
// start of the service, which does not start if it fails ([check unit] of text.go), so
// it also sees whether the service starts with what it depends on as it is now.
func (c Config) Check(ctx context.Context, service string) error {
	service, err := serviceName(service)
	if err != nil {
		return err
	}
	f, err := c.facts(ctx, service)
	if err != nil {
		return err
	}
	if f == nil {
		return fmt.Errorf("systemd has no unit %s", service)
	}
	dropIn, err := f.dropIn()
	if err != nil {
		return fmt.Errorf("%s: %w", service, err)
	}
	if err := f.check(dropIn); err != nil {
		return fmt.Errorf("%s: %w", service, err)
	}
	return f.checkStart(dropIn)
}

// dropIn is the text of the drop-in that systemd has read for the service.
func (f *facts) dropIn() (string, error) {
	for _, path := range f.words("DropInPaths") {
		if filepath.Base(path) != dropInName {
			continue
		}
		text, err := os.ReadFile(path)
		if err == nil && !marked(text) {
			err = fmt.Errorf("%s is not written by appfw", path)
		}
		return string(text), err
	}
	return "", fmt.Errorf("its drop-in %s is gone, or masked by another of that name", dropInName)
}

// settings are the last value of each setting of a text that is written here; what resets
// a list has no part in it.
func settings(text string) map[string]string {
	all := make(map[string]string)
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(key, "#") && value != "" {
			all[key] = value
		}
	}
	return all
}

// undone says that a setting of the drop-in is not in force.
func undone(key, is string) error {
	return fmt.Errorf("something undoes appfw's %s=: it is %q (systemctl cat shows what is read later)", key, is)
}

// check is an error if what a drop-in says does not hold.
func (f *facts) check(dropIn string) error {
	want := settings(dropIn)
	if want["NetworkNamespacePath"] == "" {
		if err := f.checkAddresses(want["IPAddressAllow"]); err != nil {
			return err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(want)) { // of several mistakes, always the same is told
		if err := f.checkSetting(key, want[key]); err != nil {
			return err
		}
	}
	if slices.Contains(f.privileged(), "ExecStart") {
		return errors.New("it starts with all privileges (ExecStart=+), so nothing keeps it in")
	}
	if err := f.checkOpened(want); err != nil {
		return err
	}
	return f.checkSockets(want["NetworkNamespacePath"], dropIn)
}

func (f *facts) checkSetting(key, want string) error {
	is := f.get(key)
	switch key {
	case "NetworkNamespacePath", "ProtectControlGroups", "ProtectKernelTunables", "ProtectKernelModules", "PrivateDevices", "SystemCallArchitectures":
		if is != want {
			return undone(key, is)
		}
	case "RestrictNamespaces": // what is let through
		if is == "no" || slices.Contains(f.words(key), strings.TrimPrefix(want, "~")) {
			return undone(key, is)
		}
	case "DevicePolicy":
		if is != want && is != "strict" {
			return undone(key, is)
		}
	case "CapabilityBoundingSet":
		for _, name := range strings.Fields(strings.TrimPrefix(want, "~")) {
			if slices.Contains(f.words(key), strings.ToLower(name)) {
				return undone(key, strings.ToLower(name))
			}
			if slices.Contains(f.words("AmbientCapabilities"), strings.ToLower(name)) {
				return fmt.Errorf("AmbientCapabilities= gives it %s: %s (--keep %[1]s if that is meant)", name, kept[name])
			}
		}
	case "RestrictAddressFamilies", "SystemCallFilter":
		if !f.shut(key, strings.Fields(strings.TrimPrefix(want, "~"))) {
			return undone(key, is)
		}
	case "InaccessiblePaths", "ReadOnlyPaths":
		for _, path := range strings.Fields(want) {
			if !slices.Contains(f.words(key), path) {
				return undone(key, is)
			}
		}
	}
	return nil
}

// shut tells whether a filter lets none of the names through. It has names that are
// allowed, or "~" and such as are not (systemd.exec(5)).
func (f *facts) shut(key string, names []string) bool {
	is := f.get(key)
	if is == "" {
		return false
	}
	rest, denies := strings.CutPrefix(is, "~")
	var listed []string
	for _, word := range strings.Fields(rest) {
		listed = append(listed, callName(word))
	}
	for _, name := range names {
		if slices.Contains(listed, callName(name)) != denies {
			return false
		}
	}
	return true
}

// checkAddresses is an error if the service may send to others than the address: what
// slices allow holds for it as well (systemd.resource-control(5)).
func (f *facts) checkAddresses(only string) error {
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		if !slices.Contains(f.words("IPAddressDeny"), all) {
			return undone("IPAddressDeny", f.get("IPAddressDeny"))
		}
	}
	want, err := netip.ParseAddr(only)
	if err != nil {
		return fmt.Errorf("IPAddressAllow=%s of the drop-in is not the address of a proxy", only)
	}
	open := false
	for i, p := range append([]properties{f.properties}, f.slices...) {
		for _, word := range p.words("IPAddressAllow") {
			prefix, err := netip.ParsePrefix(word)
			if is := err == nil && prefix == netip.PrefixFrom(want, want.BitLen()); is {
				open = true
				continue
			}
			if i > 0 {
				return fmt.Errorf("the slice %s that it is in has IPAddressAllow=%s, which opens that to it, too: take it away there, or give it another slice (Slice=)", p.get("Id"), word)
			}
			return undone("IPAddressAllow", f.get("IPAddressAllow"))
		}
	}
	if !open {
		return undone("IPAddressAllow", f.get("IPAddressAllow"))
	}
	return nil
}

// checkOpened is an error if a path that is covered, or read only, is opened again within
// it, or seen at another place.
func (f *facts) checkOpened(want map[string]string) error {
	paths := func(key string) map[string]string { // and by which name each is kept
		all := make(map[string]string)
		for _, p := range strings.Fields(want[key]) {
			p = strings.TrimPrefix(p, optional)
			all[p] = p
		}
		return all
	}
	covered, shut := paths("InaccessiblePaths"), paths("ReadOnlyPaths")
	for key, path := range map[string]string{"ProtectControlGroups": "/sys/fs/cgroup", "ProtectKernelTunables": "/sys"} {
		if want[key] != "" {
			shut[path] = key
		}
	}
	for _, key := range []string{"ReadWritePaths", "BindPaths", "BindReadOnlyPaths"} {
		for _, p := range f.words(key) {
			from, _, _ := strings.Cut(strings.TrimLeft(p, "-+"), ":")
			from = filepath.Clean(from)
			var opens string
			switch key {
			case "ReadWritePaths":
				opens = touched(shut, func(s string) bool { return from == s || isBelow(from, s) })
			case "BindPaths":
				opens = cmp.Or(touched(covered, overlaps(from)), touched(shut, overlaps(from)))
			default:
				opens = touched(covered, overlaps(from))
			}
			if opens != "" {
				return fmt.Errorf("%s=%s gives it back what appfw takes from it: %s (--keep %s if that is meant)", key, p, costOf(opens), opens)
			}
		}
	}
	return nil
}

// overlaps tells of paths whether one has the other below itself, or is the same.
func overlaps(a string) func(b string) bool {
	return func(b string) bool { return a == b || isBelow(a, b) || isBelow(b, a) }
}

// isBelow tells whether path is below dir.
func isBelow(path, dir string) bool { return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/") }

// touched is the name of the first of the paths that is so; "" if none is.
func touched(paths map[string]string, is func(path string) bool) string {
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		if is(path) {
			return paths[path]
		}
	}
	return ""
}

// checkSockets is an error if systemd passes the service a socket by which it leaves: one
// can be connected anew (connect(2), AF_UNSPEC), and belongs to where it was made.
func (f *facts) checkSockets(namespace, dropIn string) error {
	for _, s := range f.sockets {
		name := s.get("Id")
		if !s.networked() || strings.Contains(dropIn, keepsSocket(name)) {
			continue
		}
		if namespace == "" {
			return fmt.Errorf("%s listens for it at %s, and such a socket leads past appfw: use appfw systemd netns (or --keep %[1]s if that is meant)", name, s["Listen"][0])
		}
		if s.get("NetworkNamespacePath") != namespace {
			return fmt.Errorf("%s listens for it outside of its namespace (NetworkNamespacePath=%s)", name, s.get("NetworkNamespacePath"))
		}
	}
	return nil
}

// checkStart is an error if what the service is about to use is not yet what is written:
// sockets that systemd opened before, and a proxy that listens elsewhere.
func (f *facts) checkStart(dropIn string) error {
	for _, s := range f.sockets {
		path := slices.IndexFunc(s.words("DropInPaths"), func(p string) bool { return filepath.Base(p) == dropInName })
		if path < 0 || !s.networked() {
			continue
		}
		info, err := os.Stat(s.words("DropInPaths")[path])
		if err != nil {
			return err
		}
		if s.isActive() && s.since().Before(info.ModTime()) {
			return fmt.Errorf("%s still listens outside of the namespace: systemctl restart %[1]s %s", s.get("Id"), f.get("Id"))
		}
	}
	return nil
}

// costOf is what it costs not to keep a service from a path.
func costOf(path string) string {
	if cost := kept[path]; cost != "" {
		return cost
	}
	return path
}

// ErrUndone is wrapped by errors of changes that were taken back, as something undoes
// them.
var ErrUndone = errors.New("nothing was changed")
