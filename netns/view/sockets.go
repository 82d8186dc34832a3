package view

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// daemons are sockets, and directories of them, below /run.
var daemons = []string{
	"nscd", "unscd", "systemd/resolve", "avahi-daemon", // names
	"dbus", "systemd/private", // systemd and others start programs by D-Bus
	"docker", "docker.sock", "containerd", "podman", "crio", "buildkit", // containers
	"libvirt", "lxd", "incus", "snapd.socket", "snapd-snap.socket", // machines, packages
	"tor", "tailscale", "cups", "screen", "rpcbind.sock",
}

// userDaemons are those below a user's directory of /run.
var userDaemons = []string{
	"bus", "systemd", "dbus-1", "at-spi", "docker", "docker.sock", "podman", "containerd", "buildkit", "libvirt", "emacs", "gvfs", "gvfsd",
}

// addressVariables of the environment name sockets.
var addressVariables = []string{"DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS", "DOCKER_HOST", "CONTAINER_HOST", "PODMAN_HOST", "TMUX"}

// sockets are those that the host's processes are bound to, but for those that
// programs with a window need, and directories in which such sockets appear.
func (h Host) sockets(runtimeDir string) []string {
	var hidden []string
	for _, dir := range []string{"/run", "/var/run"} {
		for _, s := range daemons {
			hidden = append(hidden, filepath.Join(dir, s))
		}
	}
	for _, s := range userDaemons {
		hidden = append(hidden, filepath.Join(runtimeDir, s))
	}
	if tmux := fmt.Sprintf("/tmp/tmux-%d", h.UID); ownedBy(tmux, h.UID) {
		hidden = append(hidden, tmux)
	}
	for _, home := range []string{variable(h.Env, "HOME"), h.Home} { // HOME is another's under sudo(8)
		for _, s := range []string{".docker/run", ".docker/desktop", ".colima"} {
			if path := filepath.Join(home, s); filepath.IsAbs(path) && ownedBy(path, h.UID) {
				hidden = append(hidden, path)
			}
		}
	}
	for _, name := range addressVariables {
		hidden = append(hidden, socketPaths(variable(h.Env, name))...)
	}
	table, _ := os.ReadFile("/proc/net/unix")
	return append(hidden, boundSockets(string(table), variable(h.Env, "SSH_AUTH_SOCK"))...)
}

// ownedBy tells whether a path is a directory of the user's, and no link.
func ownedBy(path string, uid int) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Uid == uint32(uid)
}

// boundSockets are the paths that sockets of the host are bound to, by the kernel's
// table of them (unix(7), /proc/net/unix). A directory below /run that has nothing but
// hidden ones is hidden whole, so that a server that is started again stays hidden.
func boundSockets(table, agent string) []string {
	var hidden []string
	kept := map[string]bool{} // directories with a socket that is not hidden below
	for line := range strings.Lines(table) {
		i := strings.IndexByte(line, '/')
		if i < 0 || strings.Contains(line[:i], "@") {
			continue // unnamed, abstract, or relative to nobody knows what
		}
		path := filepath.Clean(strings.TrimSuffix(line[i:], "\n"))
		if !neededSocket(path, agent) {
			hidden = append(hidden, path)
			continue
		}
		for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
			kept[dir] = true
		}
	}
	for _, path := range hidden {
		dir := filepath.Dir(path)
		if rest, ok := strings.CutPrefix(dir, "/run/"); ok && !kept[dir] && !strings.HasPrefix(rest, "user") && rest != "systemd" && rest != "lock" {
			hidden = append(hidden, dir)
		}
	}
	return hidden
}

// needed are patterns of the sockets that programs on a desktop need, and by which
// nothing is resolved or connected to: displays, sound, agents, the system's log.
var needed = []string{
	"/tmp/.X11-unix/*", "/tmp/.ICE-unix/*", "/run/user/*/wayland-*", "/run/user/*/pipewire-*", "/run/user/*/pulse/*",
	"/run/user/*/keyring/ssh", "/run/user/*/keyring/.ssh", "/run/user/*/gnupg/S.gpg-agent*", "/run/user/*/ssh-agent*",
	"/tmp/ssh-*/agent.*", "/run/systemd/journal/*", "/dev/log",
}

// neededSocket tells of those, and of the ssh-agent(1) of the environment.
func neededSocket(path, agent string) bool {
	for _, pattern := range needed {
		if ok, _ := filepath.Match(pattern, path); ok {
			return true
		}
	}
	return path == agent
}

// socketPaths finds the paths in an address like unix:path=/run/bus,guid=1,
// unix:///run/docker.sock or /tmp/tmux-1000/default,1,0.
func socketPaths(address string) (paths []string) {
	for part := range strings.FieldsFuncSeq(address, func(r rune) bool { return r == ',' || r == ';' }) {
		part = strings.TrimPrefix(strings.TrimPrefix(part, "unix:"), "path=")
		if strings.HasPrefix(part, "/") {
			paths = append(paths, filepath.Clean(part))
		}
	}
	return paths
}
