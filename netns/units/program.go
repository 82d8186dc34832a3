package units

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// installed is where make install puts appfw.
const installed = "/usr/local/bin/appfw"

// UnseenError is the error of a change by which units were to start a program that
// they do not see.
type UnseenError struct{ Program, Directory string }

func (e *UnseenError) Error() string {
	return fmt.Sprintf("units cannot start %s, as they have no %s", e.Program, e.Directory)
}

// program is appfw as the units of the change start it. If they could not start it,
// the change shows another one, says so, and cannot be applied.
func (c *Config) program(change *Change) (path string, err error) {
	switch path = c.Program; {
	case path == "" && !c.here():
		path = installed // that of this machine says nothing of another's
	case path == "":
		if path, err = os.Executable(); err != nil {
			return "", err
		}
	}
	if !filepath.IsAbs(path) {
		return "", &OptionError{"program", path, "units start programs by an absolute path"}
	}
	if !c.here() {
		return path, nil
	}
	if dir := unseen(path); dir != "" {
		change.refused = &UnseenError{path, dir}
		change.Notes = append(change.Notes, fmt.Sprintf("%v; shown is %s, where make install puts it", change.refused, installed))
		return installed, nil
	}
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return "", fmt.Errorf("%s is not a program", path)
	}
	return path, nil
}

// unseen is the directory of a path that services do not see (ProtectHome=,
// PrivateTmp=); "" if there is none.
func unseen(path string) string {
	for _, dir := range []string{"/home", "/root", "/tmp", "/var/tmp", "/run/user"} {
		if strings.HasPrefix(path, dir+"/") {
			return dir
		}
	}
	return ""
}

// root is where the files are of the machine for which units are written: "/" of this one,
// that of an image by where its units are, or "" if that does not tell.
func (c *Config) root() string {
	if c.here() {
		return "/"
	}
	dir := filepath.Clean(c.directory())
	for _, units := range unitDirs {
		if root, ok := strings.CutSuffix(dir, units); ok && filepath.IsAbs(dir) {
			return root + "/"
		}
	}
	return ""
}

// policyPath is a policy as units name it, and where it is to be read here.
func (c *Config) policyPath(policy string) (named, read string, err error) {
	root := c.root()
	abs, err := filepath.Abs(policy)
	if err != nil || root == "/" {
		return abs, abs, err
	}
	if root != "" && isBelow(abs, root) {
		return strings.TrimPrefix(abs, strings.TrimSuffix(root, "/")), abs, nil
	}
	if !filepath.IsAbs(policy) {
		return "", "", &OptionError{"policy", policy, "units of another machine name it by its path there"}
	}
	if _, err := os.Stat(root + policy); root != "" && err == nil {
		return policy, filepath.Join(root, policy), nil
	}
	return policy, policy, nil
}
