package main

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"appfw/dnsguard"
	"appfw/netns"
	"appfw/policy"
	"appfw/proxy"
)

// hostConfig is what appfw reads of the host's configuration.
type hostConfig struct {
	resolv   dnsguard.ResolvConf
	servers  func() []netip.AddrPort      // its resolvers by now
	hosts    map[policy.Name][]netip.Addr // answered by appfw's resolver
	local    []byte                       // of /etc/hosts, what is about the loopback
	nsswitch []byte                       // nil if there is none
}

func readHost() (hostConfig, error) {
	var h hostConfig
	resolv, err := readFile("/etc/resolv.conf")
	if err == nil || os.IsNotExist(err) {
		h.resolv, err = dnsguard.ReadResolvConf(bytes.NewReader(resolv))
	}
	if err != nil {
		return h, fmt.Errorf("read the host's resolvers: %w", err)
	}
	h.servers = dnsguard.HostResolvers("/etc/resolv.conf", time.Now)
	h.refresh()
	h.nsswitch, _ = readFile("/etc/nsswitch.conf")
	return h, nil
}

// refresh reads /etc/hosts. If it cannot be read, what was there before stays.
func (h *hostConfig) refresh() {
	content, err := readFile("/etc/hosts")
	if err != nil {
		return
	}
	if hosts, err := dnsguard.ReadHosts(bytes.NewReader(content)); err == nil {
		h.hosts, h.local = hosts, localHosts(content)
	}
}

// readFile reads a regular file; anything else (a FIFO would wait) is an error.
func readFile(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	return io.ReadAll(f)
}

// appView is what the app sees of the host's files: resolv.conf and
// nsswitch.conf lead to appfw's resolver, and sockets by which another process
// would resolve, connect or run programs for it are hidden.
func appView(h hostConfig, shown []string) netns.View {
	uid := os.Getuid()
	runtimeDir := fmt.Sprintf("/run/user/%d", uid)
	v := netns.View{
		Files:   map[string][]byte{"/etc/resolv.conf": resolvConf(h.resolv)},
		Private: []string{"/run", runtimeDir},
		Hidden:  hiddenSockets(runtimeDir, uid),
		Shown:   shown,
	}
	if h.local != nil {
		v.Files["/etc/hosts"] = h.local
	}
	if h.nsswitch != nil {
		v.Files["/etc/nsswitch.conf"] = nsswitch(h.nsswitch)
	}
	if uid == 0 {
		// Its owner may write there without any capability, and so have the
		// kernel start programs outside (core_pattern, uevent_helper).
		v.ReadOnly = []string{"/proc/sys", "/proc/sysrq-trigger", "/sys"}
	} else {
		// ssh(1) wants these files to be root's or its user's, and with one
		// user mapped, root's seem to be nobody's. Copies are the user's.
		config, _ := filepath.Glob("/etc/ssh/ssh_config.d/*.conf")
		for _, name := range config {
			if content, err := readFile(name); err == nil {
				v.Files[name] = content
			}
		}
	}
	return v
}

// appEnv is the app's environment. With proxies, the variables by which programs
// find one name the one in the gateway.
func appEnv(proxies bool) []string {
	env := os.Environ()
	if !proxies {
		return env
	}
	at := netip.AddrPortFrom(netns.Gateway4, proxy.ExplicitPort).String()
	for name, value := range map[string]string{
		"ALL_PROXY":   "socks5h://" + at,
		"HTTP_PROXY":  "http://" + at,
		"HTTPS_PROXY": "http://" + at,
		"NO_PROXY":    "localhost,127.0.0.1,::1",
	} {
		for _, name := range []string{name, strings.ToLower(name)} { // programs read the one or the other
			env = setEnv(env, name, value)
		}
	}
	return env
}

func resolvConf(host dnsguard.ResolvConf) []byte {
	lines := append([]string{"# appfw answers here, for the names that its policy allows.", "nameserver " + netns.Gateway4.String()}, host.Lines...)
	return []byte(strings.Join(lines, "\n") + "\n")
}

// localHosts keeps of hosts(5) the names of the loopback. All others go by the
// resolver, which knows the file, too: what the app looked up there by itself,
// no rule for names would see.
func localHosts(hosts []byte) []byte {
	local := []byte("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	for line := range strings.Lines(string(hosts)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if a, err := netip.ParseAddr(fields[0]); err == nil && a.IsLoopback() {
			local = append(local, strings.TrimSuffix(line, "\n")+"\n"...)
		}
	}
	return local
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

// hiddenSockets are the sockets that the host's processes are bound to, but for
// those that programs with a window need, and directories in which such sockets
// appear.
func hiddenSockets(runtimeDir string, uid int) []string {
	var hidden []string
	for _, dir := range []string{"/run", "/var/run"} {
		for _, s := range []string{
			"nscd", "unscd", "systemd/resolve", "avahi-daemon", // names
			"dbus", "systemd/private", // systemd and others start programs by D-Bus
			"docker", "docker.sock", "containerd", "podman", "crio", "buildkit", // containers
			"libvirt", "lxd", "incus", "snapd.socket", "snapd-snap.socket", // machines, packages
			"tor", "tailscale", "cups", "screen", "rpcbind.sock",
		} {
			hidden = append(hidden, filepath.Join(dir, s))
		}
	}
	for _, s := range []string{"bus", "systemd", "dbus-1", "at-spi", "docker", "docker.sock", "podman", "containerd", "buildkit", "libvirt", "emacs", "gvfs", "gvfsd"} {
		hidden = append(hidden, filepath.Join(runtimeDir, s))
	}
	if tmux := fmt.Sprintf("/tmp/tmux-%d", uid); ownedBy(tmux, uid) {
		hidden = append(hidden, tmux)
	}
	homes := []string{os.Getenv("HOME")}
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		homes = append(homes, u.HomeDir) // HOME is another's under sudo(8)
	}
	for _, home := range homes {
		for _, s := range []string{".docker/run", ".docker/desktop", ".colima"} {
			if path := filepath.Join(home, s); filepath.IsAbs(path) && ownedBy(path, uid) {
				hidden = append(hidden, path)
			}
		}
	}
	for _, env := range []string{"DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS", "DOCKER_HOST", "CONTAINER_HOST", "PODMAN_HOST", "TMUX"} {
		hidden = append(hidden, socketPaths(os.Getenv(env))...)
	}
	return append(hidden, boundSockets()...)
}

// ownedBy tells whether a path is a directory of the user's, and no link.
func ownedBy(path string, uid int) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Uid == uint32(uid)
}

// boundSockets are the paths that sockets of the host are bound to (unix(7),
// /proc/net/unix). A directory below /run that has nothing but hidden ones is
// hidden whole, so that a server that is started again stays hidden.
func boundSockets() []string {
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil
	}
	var hidden []string
	kept := map[string]bool{} // directories with a socket that is not hidden below
	for line := range strings.Lines(string(table)) {
		i := strings.IndexByte(line, '/')
		if i < 0 || strings.Contains(line[:i], "@") {
			continue // unnamed, abstract, or relative to nobody knows what
		}
		path := filepath.Clean(strings.TrimSuffix(line[i:], "\n"))
		if !neededSocket(path) {
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

// neededSocket tells of sockets that programs on a desktop need, and by which
// nothing is resolved or connected to: displays, sound, agents, the system's log.
func neededSocket(path string) bool {
	for _, pattern := range []string{
		"/tmp/.X11-unix/*", "/tmp/.ICE-unix/*", "/run/user/*/wayland-*", "/run/user/*/pipewire-*", "/run/user/*/pulse/*",
		"/run/user/*/keyring/ssh", "/run/user/*/keyring/.ssh", "/run/user/*/gnupg/S.gpg-agent*", "/run/user/*/ssh-agent*",
		"/tmp/ssh-*/agent.*", "/run/systemd/journal/*", "/dev/log",
	} {
		if ok, _ := filepath.Match(pattern, path); ok {
			return true
		}
	}
	return path == os.Getenv("SSH_AUTH_SOCK")
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

// userEnv is the environment for a program that runs as another user than this
// process: with that user's home, and not root's.
func userEnv(env []string, u *netns.User) []string {
	if u == nil || int(u.UID) == os.Geteuid() {
		return env
	}
	uid := strconv.FormatUint(uint64(u.UID), 10)
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		name, value, _ := strings.Cut(v, "=")
		return slices.Contains(ofUser, name) && value != "/run/user/"+uid
	})
	entry, err := user.LookupId(uid)
	if err != nil { // not in passwd(5)
		return setEnv(env, "HOME", "/")
	}
	return append(setEnv(env, "HOME", entry.HomeDir), "USER="+entry.Username, "LOGNAME="+entry.Username)
}

// ofUser are variables that say who somebody is, and where his files are.
var ofUser = []string{
	"USER", "LOGNAME", "MAIL", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME",
}

// setEnv sets a variable.
func setEnv(env []string, name, value string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, name+"=") })
	return append(env, name+"="+value)
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
