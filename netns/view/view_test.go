package view

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNameFiles(t *testing.T) {
	h := Host{Resolver: netip.MustParseAddr("192.0.0.1"), Resolv: []string{"search example.com", "options ndots:2"}}
	resolv := "# appfw answers here, for the names that its policy allows.\nnameserver 192.0.0.1\nsearch example.com\noptions ndots:2\n"
	local := "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
	for _, tt := range []struct {
		hosts, nsswitch string
		want            map[string]string
	}{
		{"", "", map[string]string{}},
		{"10.0.0.1 db\n\n# 127.0.0.1 comment\n127.0.1.1\tme me.example # me\n::1 six", "", map[string]string{
			"/etc/hosts": local + "127.0.1.1\tme me.example # me\n::1 six\n",
		}},
		{"127.0.0.1\nnonsense", "passwd: files systemd\n  hosts: mymachines resolve [!UNAVAIL=return] files\nservices: db", map[string]string{
			"/etc/hosts": local, "/etc/nsswitch.conf": "passwd: files systemd\nservices: db\nhosts: files dns\n",
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

func TestBoundSockets(t *testing.T) {
	const row = "0000000000000000: 00000002 00000000 00010000 0001 01 1234 "
	for _, tt := range []struct{ bound, want string }{
		{"/srv/x.sock", "/srv/x.sock"},
		{"@/tmp/abstract", ""},
		{"relative", ""},
		{"/run/daemon/ctl", "/run/daemon/ctl /run/daemon"},
		{"/run/daemon//ctl with space", "/run/daemon/ctl with space /run/daemon"},
		{"/run/top.sock", "/run/top.sock"},
		{"/run/systemd/notify", "/run/systemd/notify"},
		{"/run/systemd/journal/stdout", ""},
		{"/run/user/1000/app/s", "/run/user/1000/app/s"},
		{"/run/user/1000/pulse/native", ""},
		{"/tmp/.X11-unix/X0", ""},
		{"/home/u/agent", ""}, // by SSH_AUTH_SOCK
	} {
		got := strings.Join(boundSockets("Num RefCount Protocol Flags Type St Inode Path\n"+row+"\n"+row+tt.bound+"\n", "/home/u/agent"), " ")
		if got != tt.want {
			t.Errorf("%s: hidden are %q, want %q", tt.bound, got, tt.want)
		}
	}
	// A directory that has one that is needed is not hidden whole.
	got := boundSockets(row+"/run/s/agent\n"+row+"/run/s/ctl\n", "/run/s/agent")
	if !slices.Equal(got, []string{"/run/s/ctl"}) {
		t.Errorf("beside the agent: %q", got)
	}
}

func TestOf(t *testing.T) {
	h := Host{Resolver: netip.MustParseAddr("192.0.0.1"), UID: 1234567, Env: []string{"DOCKER_HOST=unix:///srv/docker.sock", "DOCKER_HOST=unix:///srv/second"}}
	v := Of(h, []string{"/srv/shown"})
	for _, path := range []string{"/run/dbus", "/var/run/docker.sock", "/run/user/1234567/bus", "/srv/docker.sock"} {
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
		uid        uint32
		name, home string
		want       []string
	}{
		{7, "u", "/home/u", []string{"XDG_RUNTIME_DIR=/run/user/7", "TERM=dumb", "HOME=/home/u", "USER=u", "LOGNAME=u"}},
		{8, "", "", []string{"TERM=dumb", "HOME=/"}},
	} {
		if got := OfUser(env, tt.uid, tt.name, tt.home); !slices.Equal(got, tt.want) {
			t.Errorf("%d: %q, want %q", tt.uid, got, tt.want)
		}
	}
	got := WithProxy([]string{"all_proxy=x", "ALL_PROXY_X=y"}, netip.MustParseAddrPort("192.0.0.1:1080"))
	want := []string{
		"ALL_PROXY_X=y", "ALL_PROXY=socks5h://192.0.0.1:1080", "all_proxy=socks5h://192.0.0.1:1080",
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
