package view

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ssh(1) refuses files of its configuration that belong neither to root nor to its user
// (readconf.c, SSHCONF_CHECKPERM): those that are included, and the user's own. With one
// user mapped, root's seem to be nobody's. Copies are the user's.

const (
	includeDepth = 16 // as in ssh(1), READCONF_MAX_DEPTH
	mostIncluded = 1_000
	mostConfig   = 1 << 20 // bytes of a file
)

// sshConfigs finds the files that ssh(1) checks and that seem to be nobody's.
type sshConfigs struct {
	*finder
	home  string            // of the user's configuration that is read; "" for the system's
	files map[string][]byte // by path
	begun map[string]bool   // by the configuration that it is part of, and path
}

// sshFiles are those of the host, by paths without links. What others may write to is
// none: ssh refuses it in any case.
func (f *finder) sshFiles() map[string][]byte {
	c := &sshConfigs{finder: f, files: map[string][]byte{}, begun: map[string]bool{}}
	if isMapped(0) || f.mounts == nil {
		return c.files
	}
	defer f.mounts.close()
	c.include("/etc/ssh/ssh_config", 0)
	delete(c.files, "/etc/ssh/ssh_config") // is not checked
	for _, c.home = range f.host.homes() {
		c.include(filepath.Join(c.home, ".ssh/config"), 0)
	}
	return c.files
}

// include takes a file, and those that it includes.
func (c *sshConfigs) include(name string, depth int) {
	name, ok := c.resolve(name)
	key := c.home + "\x00" + name
	if !ok || c.begun[key] || depth > includeDepth || len(c.begun) > mostIncluded {
		return
	}
	c.begun[key] = true
	fd, _, err := c.mounts.openFile(name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > mostConfig {
		return
	}
	content, err := io.ReadAll(io.LimitReader(file, mostConfig))
	if err != nil {
		return
	}
	if int(st.Uid) != c.host.UID && st.Mode&0o022 == 0 {
		c.files[name] = content
	}
	for line := range strings.Lines(string(content)) {
		keyword, rest, _ := strings.Cut(strings.Join(strings.Fields(strings.Replace(line, "=", " ", 1)), " "), " ")
		if !strings.EqualFold(keyword, "include") {
			continue
		}
		for _, pattern := range strings.FieldsFunc(rest, func(r rune) bool { return strings.ContainsRune(` "'`, r) }) {
			for _, name := range c.glob(c.absolute(pattern)) {
				c.include(name, depth+1)
			}
		}
	}
}

// absolute is the path of what is included.
func (c *sshConfigs) absolute(pattern string) string {
	pattern = os.Expand(pattern, func(name string) string { return variable(c.host.Env, name) })
	if rest, ok := strings.CutPrefix(pattern, "~/"); ok && c.home != "" {
		return filepath.Join(c.home, rest)
	}
	switch {
	case filepath.IsAbs(pattern):
		return filepath.Clean(pattern)
	case c.home != "":
		return filepath.Join(c.home, ".ssh", pattern)
	}
	return filepath.Join("/etc/ssh", pattern)
}

// glob are the paths that match an absolute pattern (glob(7)).
func (c *sshConfigs) glob(pattern string) (paths []string) {
	if !strings.ContainsAny(pattern, `*?[\`) {
		return []string{pattern}
	}
	parent, last := filepath.Split(pattern)
	for _, dir := range c.glob(filepath.Clean(parent)) {
		at, ok := c.resolve(dir)
		if !ok {
			continue
		}
		fd, _, err := c.mounts.openFile(at, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			continue
		}
		file := os.NewFile(uintptr(fd), at)
		names, _ := file.Readdirnames(mostIncluded)
		file.Close()
		for _, name := range names {
			if ok, _ := filepath.Match(last, name); ok && (name[0] != '.' || last[0] == '.') {
				paths = append(paths, filepath.Join(at, name))
			}
		}
	}
	return paths
}

// isMapped tells whether an id means something in this user namespace
// (user_namespaces(7)): what belongs to others seems to be nobody's.
func isMapped(id int) bool {
	content, _ := os.ReadFile("/proc/self/uid_map")
	for line := range strings.Lines(string(content)) {
		var first, outside, count int
		if _, err := fmt.Sscan(line, &first, &outside, &count); err == nil && id >= first && id-first < count {
			return true
		}
	}
	return false
}
