package view

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Share are the words for what a program of a desktop may be shown.
var Share = []string{"display", "sound", "ssh-agent", "gpg-agent"}

// shared is a socket that does things for its clients, and is shown only by that word.
type shared struct {
	word string
	from string // the host's
	at   string // where the program looks for it
}

// desktop are those of the program's user that are there, by its environment. Of each
// it is the narrowest: of PipeWire not the manager's, of gpg-agent(1) the restricted
// one, and never a session manager's (ICE), which starts what a client asks.
func (h Host) desktop() (list []shared) {
	add := func(word, from, at string) {
		if isSocket(from) {
			list = append(list, shared{word, filepath.Clean(from), filepath.Clean(at)})
		}
	}
	runtime := h.runtimeDir()
	in := func(name string, defaults ...string) string { // a name in that directory, or a path
		value := variable(h.Env, name)
		if value == "" && len(defaults) > 0 {
			value = defaults[0]
		}
		if filepath.IsAbs(value) || value == "" {
			return value
		}
		return filepath.Join(runtime, filepath.Base(value))
	}
	for _, path := range []string{xSocket(variable(h.Env, "DISPLAY")), in("WAYLAND_DISPLAY", "wayland-0")} {
		add("display", path, path)
	}
	pulse := filepath.Join(runtime, "pulse/native")
	if paths := socketPaths(variable(h.Env, "PULSE_SERVER")); len(paths) > 0 {
		pulse = paths[0]
	}
	for _, path := range []string{pulse, in("PIPEWIRE_REMOTE", "pipewire-0")} {
		add("sound", path, path)
	}
	if agent := variable(h.Env, "SSH_AUTH_SOCK"); filepath.IsAbs(agent) {
		add("ssh-agent", agent, agent)
	}
	dirs := []string{filepath.Join(runtime, "gnupg")}
	for _, home := range h.homes() {
		dirs = append(dirs, filepath.Join(home, ".gnupg"))
	}
	if dir := variable(h.Env, "GNUPGHOME"); filepath.IsAbs(dir) {
		dirs = []string{dir}
	}
	for _, dir := range dirs {
		add("gpg-agent", filepath.Join(dir, "S.gpg-agent.extra"), filepath.Join(dir, "S.gpg-agent"))
	}
	return list
}

// useful are sockets of the host's that the program may need and that no word shows, by
// their paths, if they are there: of databases of users, which may ask a directory in the
// network for what they are asked, and of agents that keep credentials.
func (h Host) useful() (list []shared) {
	paths := []string{
		"/var/lib/sss/pipes/nss", "/run/nslcd/socket", "/run/samba/winbindd/pipe", "/run/authd.sock",
		"/run/systemd/userdb/io.systemd.Multiplexer", "/run/systemd/userdb/io.systemd.NameServiceSwitch",
		filepath.Join(variable(h.Env, "XDG_CACHE_HOME"), "git/credential/socket"),
	}
	for _, home := range h.homes() {
		paths = append(paths, filepath.Join(home, ".cache/git/credential/socket"), filepath.Join(home, ".git-credential-cache/socket"))
	}
	for _, path := range paths {
		if isSocket(path) && !slices.ContainsFunc(list, func(s shared) bool { return s.at == path }) {
			list = append(list, shared{path, path, path})
		}
	}
	return list
}

// runtimeDir is the user's directory of sockets.
func (h Host) runtimeDir() string {
	if dir := variable(h.Env, "XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Clean(dir)
	}
	return h.ownRun()
}

// ownRun is that directory where it belongs, and nobody else can make it.
func (h Host) ownRun() string { return fmt.Sprintf("/run/user/%d", h.UID) }

// xSocket is the socket of a DISPLAY of this host, as :0 or unix:1.0; "" if it is
// another's.
func xSocket(display string) string {
	host, screen, ok := strings.Cut(display, ":")
	number, _, _ := strings.Cut(screen, ".")
	if !ok || host != "" && host != "unix" || number == "" || strings.Trim(number, "0123456789") != "" {
		return ""
	}
	return "/tmp/.X11-unix/X" + number
}

func isSocket(path string) bool {
	var st unix.Stat_t
	return filepath.IsAbs(path) && unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK
}

func isDirectory(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// missing are the words of those that are to be shared of which the host has none.
func (h Host) missing() (words []string) {
	list := h.desktop()
	for _, word := range h.Share {
		if !slices.ContainsFunc(list, func(s shared) bool { return s.word == word }) {
			words = append(words, word)
		}
	}
	return words
}
