package view

import (
	"fmt"
	"path/filepath"
	"slices"
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
	"systemd/journal", // it may pass on what it is told to another host
}

// userDaemons are those below a user's directory of /run.
var userDaemons = []string{
	"bus", "systemd", "dbus-1", "at-spi", "docker", "docker.sock", "podman", "containerd", "buildkit", "libvirt", "emacs", "gvfs", "gvfsd",
	"gnupg", "keyring", "gcr", "ssh-agent",
}

// desktops are directories in which displays and session managers appear. There, the
// program may have its own.
var desktops = []string{"/tmp/.X11-unix", "/tmp/.ICE-unix"}

// addressVariables of the environment name sockets.
var addressVariables = []string{
	"DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS", "DOCKER_HOST", "CONTAINER_HOST", "PODMAN_HOST", "TMUX",
	"SSH_AUTH_SOCK", "SESSION_MANAGER", "PULSE_SERVER", "NVIM",
}

// hidden are paths that are out of sight, whether or not there is a socket by now.
// They are of this list or the user's own, and so nobody else chose them.
func (h Host) hidden() (hidden []string) {
	dirs := []string{"/run"}
	if isDirectory("/var/run") { // usually it is a link to that, and what is shown there would be covered again
		dirs = append(dirs, "/var/run")
	}
	for _, dir := range dirs {
		for _, s := range daemons {
			hidden = append(hidden, filepath.Join(dir, s))
		}
	}
	for _, s := range userDaemons {
		hidden = append(hidden, filepath.Join(h.ownRun(), s))
	}
	if tmux := fmt.Sprintf("/tmp/tmux-%d", h.UID); ownedBy(tmux, h.UID) {
		hidden = append(hidden, tmux)
	}
	for _, home := range h.homes() {
		for _, s := range []string{".docker/run", ".docker/desktop", ".colima"} {
			if path := filepath.Join(home, s); ownedBy(path, h.UID) {
				hidden = append(hidden, path)
			}
		}
	}
	return append(hidden, desktops...)
}

// socketNames are names of sockets in the program's environment: hints, like others.
func (h Host) socketNames() (names []string) {
	for _, name := range addressVariables {
		names = append(names, socketPaths(variable(h.Env, name))...)
	}
	for _, s := range append(h.desktop(), h.useful()...) {
		names = append(names, s.from, s.at)
	}
	return names
}

// ownedBy tells whether a path is a directory of the user's, and no link.
func ownedBy(path string, uid int) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Uid == uint32(uid)
}

// mixed are directories below /run that hold more than the sockets of one server.
var mixed = []string{"/run/systemd", "/run/lock", "/run/udev", "/run/user"}

// socketDirs are the directories below /run that sockets were found in, and nothing
// that is shown: each is hidden whole, so that a server that is started again stays
// hidden. What everybody may write to is left, as anybody could make a socket there.
func socketDirs(files []socketFile, shown []string) (dirs []string) {
	for _, s := range files {
		dir := filepath.Dir(s.path)
		if _, ok := strings.CutPrefix(dir, "/run/"); !ok || slices.Contains(dirs, dir) || slices.Contains(mixed, dir) || strings.HasPrefix(dir, "/run/user/") {
			continue
		}
		var st unix.Stat_t
		if unix.Lstat(dir, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Mode&0o002 != 0 {
			continue
		}
		if !slices.ContainsFunc(shown, func(s string) bool { _, ok := below(s, dir); return ok }) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// socketPaths finds the paths in an address like unix:path=/run/bus,guid=1,
// unix:///run/docker.sock, local/host:/tmp/.ICE-unix/1 or /tmp/tmux-1000/default,1,0.
func socketPaths(address string) (paths []string) {
	for part := range strings.FieldsFuncSeq(address, func(r rune) bool { return r == ',' || r == ';' }) {
		part = strings.TrimPrefix(strings.TrimPrefix(part, "unix:"), "path=")
		if strings.HasPrefix(part, "local/") {
			_, part, _ = strings.Cut(part, ":")
		}
		if strings.HasPrefix(part, "/") {
			paths = append(paths, filepath.Clean(part))
		}
	}
	return paths
}
