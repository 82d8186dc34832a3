package view

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"appfw/netns"
)

func TestNameFiles(t *testing.T) {
	h := Host{Resolver: netip.MustParseAddr("192.0.0.1"), Resolv: []string{"search example.com", "options ndots:2"}}
	h.Name, h.Own = "box.example", []netip.Addr{netip.MustParseAddr("192.0.0.2")}
	resolv := "# appfw answers here, for the names that its policy allows.\nnameserver 192.0.0.1\nsearch example.com\noptions ndots:2\n"
	local := "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
	for _, tt := range []struct {
		hosts, nsswitch string
		want            map[string]string
	}{
		{"", "", map[string]string{}},
		{"10.0.0.1 db\n\n# 127.0.0.1 comment\n127.0.1.1\tme me.example # me\n::1 six", "", map[string]string{
			"/etc/hosts": local + "127.0.1.1 me me.example\n::1 six\n192.0.0.2 box.example box\n",
		}},
		{"127.0.0.1 localhost\n::1 six\n172.17.0.2 Box.Example alias\n10.0.0.2 db", "", map[string]string{
			"/etc/hosts": "127.0.0.1 localhost\n::1 six\n192.0.0.2 Box.Example alias\n",
		}},
		{"::1 localhost box.example\nfe80::1%eth0 box.example", "", map[string]string{"/etc/hosts": "::1 localhost box.example\n"}},
		{"127.0.0.1\nnonsense", "passwd: files systemd\n  hosts: mymachines resolve [!UNAVAIL=return] files\nservices: db", map[string]string{
			"/etc/hosts": local + "192.0.0.2 box.example box\n", "/etc/nsswitch.conf": "passwd: files systemd\nservices: db\nhosts: files dns\n",
		}},
	} {
		h.Hosts, h.Nsswitch = nil, nil
		if tt.hosts != "" {
			h.Hosts = []byte(tt.hosts)
		}
		if tt.nsswitch != "" {
			h.Nsswitch = []byte(tt.nsswitch)
		}
		tt.want["/etc/resolv.conf"] = resolv
		got := map[string]string{}
		for name, content := range h.NameFiles() {
			got[name] = string(content)
		}
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("of %q and %q: %q, want %q", tt.hosts, tt.nsswitch, got, tt.want)
		}
	}
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{fifo, dir, filepath.Join(dir, "none")} {
		if b, err := ReadFile(name); err == nil {
			t.Errorf("%s: %q", name, b)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadFile(file); err != nil || b == nil {
		t.Errorf("an empty file: %v, %v", b, err)
	}
}

func TestSocketPaths(t *testing.T) {
	for address, want := range map[string][]string{
		"":                           nil,
		"unix:path=/run/bus,guid=1":  {"/run/bus"},
		"unix:///run/docker.sock":    {"/run/docker.sock"},
		"/tmp/tmux-1000/default,1,0": {"/tmp/tmux-1000/default"},
		"unix:abstract=/tmp/x":       nil,
		"tcp://127.0.0.1:2375":       nil,
		"unix:path=/a;unix:path=/b/": {"/a", "/b"},
	} {
		if got := socketPaths(address); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", address, got, want)
		}
	}
}

func TestOf(t *testing.T) {
	h := Host{Resolver: netip.MustParseAddr("192.0.0.1"), UID: 1234567, Env: []string{"DOCKER_HOST=unix:///srv/docker.sock", "DOCKER_HOST=unix:///srv/second"}}
	v := Of(h, []string{"/srv/shown"})
	for _, path := range []string{"/run/dbus", "/run/docker.sock", "/run/user/1234567/bus", "/run/systemd/journal"} {
		if !slices.Contains(v.Hidden, path) {
			t.Errorf("%s is not hidden", path)
		}
	}
	if slices.Contains(v.Hidden, "/srv/second") || !slices.Equal(v.Shown, []string{"/srv/shown"}) || v.ReadOnly != nil || !slices.Equal(v.Private, []string{"/run", "/run/user/1234567"}) {
		t.Errorf("%+v", v)
	}
	h.UID = 0
	if v := Of(h, nil); !slices.Contains(v.ReadOnly, "/proc/sys") {
		t.Errorf("root could write to %q", v.ReadOnly)
	}
}

func TestEnvironments(t *testing.T) {
	env := []string{"HOME=/root", "USER=root", "XDG_RUNTIME_DIR=/run/user/7", "XDG_CACHE_HOME=/root/.cache", "TERM=dumb"}
	before := slices.Clone(env)
	for _, tt := range []struct {
		user *netns.User
		want []string
	}{
		{nil, env},
		{&netns.User{UID: uint32(os.Geteuid())}, env},
		{&netns.User{UID: 7, Name: "u", Home: "/home/u"}, []string{"XDG_RUNTIME_DIR=/run/user/7", "TERM=dumb", "HOME=/home/u", "USER=u", "LOGNAME=u"}},
		{&netns.User{UID: 8}, []string{"TERM=dumb", "HOME=/"}},
	} {
		if got := OfUser(env, tt.user); !slices.Equal(got, tt.want) {
			t.Errorf("%+v: %q, want %q", tt.user, got, tt.want)
		}
	}
	got := WithProxy([]string{"all_proxy=x", "ALL_PROXY_X=y"}, netip.MustParseAddrPort("192.0.0.1:1080"))
	want := []string{
		"ALL_PROXY_X=y", "ALL_PROXY=http://192.0.0.1:1080", "all_proxy=http://192.0.0.1:1080",
		"HTTP_PROXY=http://192.0.0.1:1080", "http_proxy=http://192.0.0.1:1080", "HTTPS_PROXY=http://192.0.0.1:1080", "https_proxy=http://192.0.0.1:1080",
		"NO_PROXY=localhost,127.0.0.1,::1", "no_proxy=localhost,127.0.0.1,::1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("with a proxy: %q", got)
	}
	if !slices.Equal(env, before) {
		t.Errorf("it has become %q", env)
	}
}

// The files of a thread are replaced, hidden and shown, and nobody else's. Needs root.
func TestMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount")
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"private", "read-only", "sockets"} {
		if err := os.Mkdir(at(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"file", "private/kept", "private/gone", "read-only/file", "sockets/gone", "sockets/shown"} {
		if err := os.WriteFile(at(f), []byte("host's"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	v := View{
		Files:    map[string][]byte{at("file"): []byte("app's"), at("none"): nil},
		Private:  []string{at("private"), at("nosuch")},
		Hidden:   []string{at("private/gone"), at("sockets")},
		Shown:    []string{at("sockets/shown")},
		ReadOnly: []string{at("read-only")},
	}
	seen := make(chan map[string]string)
	read := func() map[string]string {
		m := map[string]string{}
		for _, f := range []string{"file", "none", "private/kept", "private/gone", "private/late", "sockets/gone", "sockets/shown"} {
			if b, err := os.ReadFile(at(f)); err == nil {
				m[f] = string(b)
			}
		}
		return m
	}
	mounted, late := make(chan error), make(chan bool)
	go func() {
		runtime.LockOSThread() // it ends with the goroutine
		mounted <- v.Mount()
		<-late
		m := read()
		if err := os.WriteFile(at("read-only/file"), []byte("app's"), 0); err != nil {
			m["read-only/file"] = strings.TrimPrefix(err.Error(), "open "+at("read-only/file")+": ")
		}
		seen <- m
	}()
	if err := <-mounted; err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("private/late"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	late <- true
	want := map[string]string{"file": "app's", "private/kept": "host's", "sockets/shown": "host's", "read-only/file": "read-only file system"}
	if got := <-seen; !reflect.DeepEqual(got, want) {
		t.Errorf("the app sees %q, want %q", got, want)
	}
	want = map[string]string{"file": "host's", "private/kept": "host's", "private/gone": "host's", "private/late": "", "sockets/gone": "host's", "sockets/shown": "host's"}
	if got := read(); !reflect.DeepEqual(got, want) {
		t.Errorf("the host sees %q, want %q", got, want)
	}
}

// What others choose of a line of mountinfo is taken as it is meant, and what is
// mounted over is not seen.
func TestMounts(t *testing.T) {
	ms := parseMounts(`1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 0:5 / /run rw shared:7 - tmpfs tmpfs rw
3 2 0:6 / /run/a\040b rw - tmpfs tmpfs rw
4 1 8:1 /run/x /srv rw - ext4 /dev/sda1 rw
5 1 0:7 / /net rw - autofs auto.net rw,fd=6,pgrp=1,indirect
6 5 0:8 / /net/host/export rw - nfs4 host:/export rw
7 2 0:9 / /run rw - tmpfs tmpfs rw
8 1 0:10 /data/deep /mnt rw - xfs /dev/sdb rw
9 1 0:10 / /vol rw - xfs /dev/sdb rw
10 1 8:1 /usr /copy rw - ext4 /dev/sda1 rw
nonsense
11 1 0:11 / /without
`)
	for path, want := range map[string]int{
		"/": 1, "/etc/passwd": 1, "/run": 7, "/run/a b/c": 7, "/run/a": 7, "/srv/s": 4, "/srvx": 1, "/net/host": 5, "/net/host/export/f": 6, "/mnt": 8,
	} {
		if m := ms.of(path); m == nil || m.id != want {
			t.Errorf("%s is on %+v, want %d", path, m, want)
		}
	}
	for _, tt := range []struct {
		dev    uint64
		inside string
		want   []string
	}{
		{8<<20 | 1, "/run/x/s", []string{"/srv/s"}}, // at /run/x lies the tmpfs
		{8<<20 | 1, "/usr/s", []string{"/usr/s", "/copy/s"}},
		{10, "/data/deep/s", []string{"/mnt/s", "/vol/data/deep/s"}},
		{10, "/data/deeper/s", []string{"/vol/data/deeper/s"}},
		{5, "/s", nil}, {9, "/s", []string{"/run/s"}}, {99, "/s", nil},
	} {
		if got := ms.locations(tt.dev, tt.inside); !slices.Equal(got, tt.want) {
			t.Errorf("%#x %s is at %q, want %q", tt.dev, tt.inside, got, tt.want)
		}
	}
	if got := ms.of("/mnt/s").inside("/mnt/s"); got != "/data/deep/s" {
		t.Errorf("in its file system, it is %s", got)
	}
}

func TestConnectsByPath(t *testing.T) {
	for line, want := range map[string]bool{
		"autofs auto.net rw,fd=6,indirect":                             true,
		"autofs systemd-1 rw,fd=30,pgrp=1,direct":                      true,
		"afs none rw,dyn":                                              true,
		"nfs4 host:/export rw":                                         false,
		"ext4 /dev/sda1 rw":                                            false,
		"fuse.sshfs me@host: rw,user_id=1000,group_id=1000":            false, // one server, his own
		"fuse.sshfs x@host: rw,user_id=1001,group_id=1001,allow_other": true,
		"fuse.rclone r: rw,user_id=0,group_id=0,allow_other":           false, // root's, for all
		"fuse user_id=1000 rw,user_id=1001,group_id=1":                 true,
		"fuse.gvfsd-fuse gvfsd-fuse rw,user_id=1000,group_id=1000":     true,
		"fuse.avfsd avfsd rw,user_id=1000,group_id=1000":               true,
		"fuse x rw":          true,
		"fusectl fusectl rw": false,
	} {
		m, ok := parseMount("5 1 0:7 / /net rw - " + line + "\n")
		if !ok || m.connects(1000) != want {
			t.Errorf("%s: %v, want %v", line, !want, want)
		}
	}
}

func TestDesktop(t *testing.T) {
	for display, want := range map[string]string{
		":0": "/tmp/.X11-unix/X0", "unix:12.3": "/tmp/.X11-unix/X12", "": "", "0": "", "host:0": "", "localhost:10.0": "", ":": "", ":../../etc/x": "", ":0/../x": "",
	} {
		if got := xSocket(display); got != want {
			t.Errorf("DISPLAY=%s: %q, want %q", display, got, want)
		}
	}
	dir := t.TempDir()
	for _, name := range []string{"S.gpg-agent", "S.gpg-agent.extra", "wayland-0", "pipewire-0", "pipewire-0-manager", "agent"} {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	h := Host{UID: 1, Env: []string{"XDG_RUNTIME_DIR=" + dir, "GNUPGHOME=" + dir, "SSH_AUTH_SOCK=" + dir + "/agent", "PULSE_SERVER=tcp:host"}, Share: []string{"sound", "display"}}
	want := []shared{
		{"display", dir + "/wayland-0", dir + "/wayland-0"}, {"sound", dir + "/pipewire-0", dir + "/pipewire-0"},
		{"ssh-agent", dir + "/agent", dir + "/agent"}, {"gpg-agent", dir + "/S.gpg-agent.extra", dir + "/S.gpg-agent"},
	}
	if got := h.desktop(); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if v := Of(h, nil); !slices.Equal(v.Shown, []string{dir + "/wayland-0", dir + "/pipewire-0"}) || h.missing() != nil {
		t.Errorf("shown are %q; missing are %q", v.Shown, h.missing())
	}
	h.Env = nil
	if got := h.missing(); !slices.Equal(got, []string{"sound", "display"}) {
		t.Errorf("missing are %q", got)
	}
}

// Whether somebody listens is told by the kernel, and the server does not notice.
func TestListens(t *testing.T) {
	for kind, name := range map[int]string{unix.SOCK_STREAM: "stream", unix.SOCK_DGRAM: "datagram", unix.SOCK_SEQPACKET: "packet"} {
		path := filepath.Join(t.TempDir(), name)
		server, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(server, &unix.SockaddrUnix{Name: path}); err != nil {
			t.Fatal(err)
		}
		file, err := unix.Open(path, unix.O_PATH, 0)
		if err != nil {
			t.Fatal(err)
		}
		bound, err := boundSockets()
		if err != nil {
			t.Fatal(err)
		}
		ms, err := readMounts("self")
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(file, &st); err != nil {
			t.Fatal(err)
		}
		if want := (boundSocket{inode{ms.of(path).dev, uint32(st.Ino)}, path}); !slices.Contains(bound, want) {
			t.Errorf("%+v is not in %+v", want, bound)
		}
		if kind != unix.SOCK_DGRAM {
			if !listens(file) {
				t.Errorf("%s: it is bound", name)
			}
			_ = unix.Listen(server, 1)
		}
		if !listens(file) {
			t.Errorf("%s: it listens", name)
		}
		if kind == unix.SOCK_DGRAM {
			_, _, err = unix.Recvfrom(server, make([]byte, 1), 0)
		} else {
			_, _, err = unix.Accept(server)
		}
		if err != unix.EAGAIN {
			t.Errorf("%s: the server got something: %v", name, err)
		}
		unix.Close(server)
		if listens(file) {
			t.Errorf("%s: nobody listens", name)
		}
		unix.Close(file)
	}
}

// A file is opened where its name says, or not at all.
func TestOpenFile(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ms, err := readMounts("self")
	if err != nil {
		t.Fatal(err)
	}
	defer ms.close()
	if err := os.Mkdir(dir+"/real", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/real/f", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f := &finder{mounts: ms}
	for name, want := range map[string]error{"real/f": nil, "link/f": unix.ELOOP, "none": unix.ENOENT} {
		fd, _, err := ms.openFile(dir+"/"+name, unix.O_PATH)
		if err != want {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if err == nil {
			unix.Close(fd)
		}
	}
	if _, _, err := ms.openFile("/proc/self", unix.O_PATH); err != unix.EXDEV {
		t.Errorf("/proc: %v", err)
	}
	if got, ok := f.resolve(dir + "/link"); !ok || got != dir+"/real" {
		t.Errorf("the link is %s, %v", got, ok)
	}
	if err := os.Symlink("loop", dir+"/loop"); err != nil {
		t.Fatal(err)
	}
	if got, ok := f.resolve(dir + "/loop"); ok {
		t.Errorf("the loop is %s", got)
	}
}
