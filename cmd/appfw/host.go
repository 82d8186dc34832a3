package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"appfw/dnsguard"
	"appfw/netns"
	"appfw/policy"
)

// hostConfig is what appfw reads of the host's configuration.
type hostConfig struct {
	resolv   dnsguard.ResolvConf
	hosts    map[policy.Name][]netip.Addr
	nsswitch []byte // nil if there is none
}

func readHost() (hostConfig, error) {
	var h hostConfig
	resolv, err := os.Open("/etc/resolv.conf")
	if err == nil {
		defer resolv.Close()
		h.resolv, err = dnsguard.ReadResolvConf(resolv)
	} else if os.IsNotExist(err) {
		h.resolv, err = dnsguard.ReadResolvConf(strings.NewReader(""))
	}
	if err != nil {
		return h, fmt.Errorf("read the host's resolvers: %w", err)
	}
	if hosts, err := os.Open("/etc/hosts"); err == nil {
		defer hosts.Close()
		if h.hosts, err = dnsguard.ReadHosts(hosts); err != nil {
			return h, fmt.Errorf("read /etc/hosts: %w", err)
		}
	}
	h.nsswitch, _ = os.ReadFile("/etc/nsswitch.conf")
	return h, nil
}

// appView is what the app sees of the host's files: resolv.conf and
// nsswitch.conf lead to appfw's resolver, and the sockets through which another
// process would resolve, connect or run programs for it are hidden.
func appView(h hostConfig, shown []string) netns.View {
	uid := os.Getuid()
	runtimeDir := fmt.Sprintf("/run/user/%d", uid)
	v := netns.View{
		Files:   map[string][]byte{"/etc/resolv.conf": resolvConf(h.resolv)},
		Private: []string{"/run", runtimeDir},
		Hidden:  hiddenSockets(runtimeDir, uid),
		Shown:   shown,
	}
	if h.nsswitch != nil {
		v.Files["/etc/nsswitch.conf"] = nsswitch(h.nsswitch)
	}
	return v
}

func resolvConf(host dnsguard.ResolvConf) []byte {
	lines := append([]string{"# appfw answers here, for the names that its policy allows.", "nameserver " + netns.Gateway4.String()}, host.Lines...)
	return []byte(strings.Join(lines, "\n") + "\n")
}

// nsswitch has names looked up in /etc/hosts and by DNS only, and leaves other
// databases as they are (nsswitch.conf(5)).
func nsswitch(host []byte) []byte {
	var b strings.Builder
	for line := range strings.Lines(string(host)) {
		if !strings.HasPrefix(strings.TrimSpace(line), "hosts:") {
			b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	b.WriteString("hosts: files dns\n")
	return []byte(b.String())
}

// hiddenSockets are sockets, or directories of them, of services that resolve
// names, open connections or start programs for whoever asks.
func hiddenSockets(runtimeDir string, uid int) []string {
	var hidden []string
	for _, dir := range []string{"/run", "/var/run"} {
		for _, s := range []string{
			"nscd", "unscd", "systemd/resolve", "avahi-daemon", // names
			"dbus", "systemd/private", // systemd and others start programs by D-Bus
			"docker", "docker.sock", "containerd", "podman", "crio", "buildkit", "cri-dockerd.sock", "balena-engine.sock", // containers
			"libvirt", "lxd", "incus", "snapd.socket", "snapd-snap.socket", // machines, packages
			"tailscale", "cups", "screen", "pcscd", "rpcbind.sock",
		} {
			hidden = append(hidden, filepath.Join(dir, s))
		}
	}
	for _, s := range []string{
		"bus", "systemd", "dbus-1", "at-spi", "docker", "docker.sock", "podman", "containerd", "buildkit", "libvirt",
		"gnupg/S.dirmngr", "gvfs", "gvfsd", "emacs", "tmux",
	} {
		hidden = append(hidden, filepath.Join(runtimeDir, s))
	}
	hidden = append(hidden,
		"/var/lib/lxd/unix.socket", "/var/lib/incus/unix.socket", "/var/snap/lxd/common/lxd/unix.socket",
		fmt.Sprintf("/tmp/tmux-%d", uid))
	for _, pattern := range []string{"/tmp/dbus-*", "/tmp/.dbus-*"} {
		found, _ := filepath.Glob(pattern)
		hidden = append(hidden, found...)
	}
	if home, err := os.UserHomeDir(); err == nil {
		for _, s := range []string{".gnupg/S.dirmngr", ".docker/run", ".docker/desktop", ".colima"} {
			hidden = append(hidden, filepath.Join(home, s))
		}
	}
	for _, env := range []string{"DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS", "DOCKER_HOST", "CONTAINER_HOST", "PODMAN_HOST", "TMUX"} {
		hidden = append(hidden, socketPaths(os.Getenv(env))...)
	}
	return hidden
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

// appUser is who the app runs as: with root's rights, the user named or the one
// who called sudo; without, always the caller, and the result is nil.
func appUser(name string) (*netns.User, error) {
	root := os.Geteuid() == 0
	if !root {
		if name != "" && name != strconv.Itoa(os.Getuid()) {
			if u, err := user.Lookup(name); err != nil || u.Uid != strconv.Itoa(os.Getuid()) {
				return nil, fmt.Errorf("--user %s: only root can run a command as somebody else", printable(name))
			}
		}
		return nil, nil
	}
	if name == "" {
		if name = os.Getenv("SUDO_UID"); name == "" || name == "0" {
			return nil, nil // root itself, without any capability
		}
	}
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			id, nerr := strconv.ParseUint(name, 10, 32)
			if nerr != nil {
				return nil, fmt.Errorf("--user: there is no user %q", name)
			}
			return &netns.User{UID: uint32(id), GID: uint32(id)}, nil // without an entry in passwd(5)
		}
	}
	return lookupIDs(u)
}

func lookupIDs(u *user.User) (*netns.User, error) {
	var ids []uint32
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("look up the groups of %s: %w", u.Username, err)
	}
	for _, s := range append([]string{u.Uid, u.Gid}, groups...) {
		id, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s: id %q is not a number", u.Username, s)
		}
		ids = append(ids, uint32(id))
	}
	return &netns.User{UID: ids[0], GID: ids[1], Groups: ids[2:]}, nil
}
