package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// unixHost is a process of the host that makes sockets; as: how it is started, if not
// simply.
func (w *world) unixHost(as ...string) *session {
	w.t.Helper()
	command := append(as, probing("unix")...)
	return w.talk(command[0], command[1:]...)
}

func (s *session) does(lines ...string) {
	s.t.Helper()
	for _, line := range lines {
		if got := s.ask(line); got != "ok" {
			s.t.Fatalf("%s: %s", line, got)
		}
	}
}

// refused is the error of connecting to what is covered: a file that nobody can open.
const refused = "permission denied"

// network is how somebody starts a program in a network namespace of its own.
func (w *world) network() []string {
	if w.user.UID == 0 {
		return []string{"unshare", "-n"}
	}
	return []string{"unshare", "-Urn"}
}

// socketCase is a socket that a process of the host makes, and where it can be reached.
type socketCase struct {
	name  string
	as    []string
	lines []string
	at    string
}

// socketCases are ways in which a socket is not where, or what, its name says. dir is
// of this case alone.
func (w *world) socketCases(dir string) []socketCase {
	at := func(name string) string { return filepath.Join(dir, name) }
	deep := filepath.Join(w.user.Home, filepath.Base(dir), "a/b/c/d/e")
	list := []socketCase{
		{"plain", nil, []string{"listen " + at("1")}, at("1")},
		{"datagrams", nil, []string{"listen " + at("2") + " datagram"}, at("2")},
		{"packets", nil, []string{"listen " + at("3") + " seqpacket"}, at("3")},
		{"linked, as a master of ssh", nil, []string{"listen " + at("4.x"), "link " + at("4.x") + " " + at("4"), "remove " + at("4.x")}, at("4")},
		{"linked twice", nil, []string{"listen " + at("5.x"), "mkdir " + at("sub"), "link " + at("5.x") + " " + at("sub/5")}, at("sub/5")},
		{"renamed", nil, []string{"listen " + at("6.x"), "mkdir " + at("sub"), "rename " + at("6.x") + " " + at("sub/6")}, at("sub/6")},
		{"renamed to far below home", nil, []string{"listen " + at("7.x"), "mkdir " + deep, "rename " + at("7.x") + " " + deep + "/7"}, deep + "/7"},
		{"relative", nil, []string{"chdir " + dir, "listen 8"}, at("8")},
		{"by a link", nil, []string{"chdir " + dir, "listen /proc/self/cwd/9"}, at("9")},
		{"in another network namespace", w.network(), []string{"listen " + at("10")}, at("10")},
		{"in another network namespace, renamed", w.network(), []string{"listen " + at("11.x"), "rename " + at("11.x") + " " + at("11")}, at("11")},
	}
	if w.user.UID == 0 {
		list = append(list, socketCase{"in another mount namespace", []string{"unshare", "-m", "sh", "-c", `mount --bind "$0" /mnt && exec "$@"`, dir},
			[]string{"listen /mnt/12"}, at("12")})
	}
	return list
}

// A socket of the host is not reached, wherever it is and whatever it was called.
func TestHostSockets(t *testing.T) {
	both(t, func(w *world) {
		t := w.t
		base, err := os.MkdirTemp("/tmp", "sockets-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(base) })
		if err := os.Chown(base, int(w.user.UID), int(w.user.GID)); err != nil {
			t.Fatal(err)
		}
		early, late := filepath.Join(base, "early"), filepath.Join(base, "late")
		hosts := map[string]*session{}
		do := func(cases []socketCase) {
			for _, c := range cases {
				h := w.unixHost(c.as...)
				h.does("mkdir "+filepath.Join(base, "early"), "mkdir "+filepath.Join(base, "late"))
				h.does(c.lines...)
				hosts[c.name+" "+c.at] = h
			}
		}
		do(w.socketCases(early))
		app := w.session(append([]string{"--"}, probing("unix")...)...)
		tries := func(cases []socketCase) {
			t.Helper()
			for _, c := range cases {
				if got := app.ask("connect " + c.at); got != refused {
					t.Errorf("%s: %s: %s", c.name, c.at, got)
				}
			}
		}
		tries(w.socketCases(early))
		// What appears later is covered within a second or so.
		do(w.socketCases(late))
		for _, c := range w.socketCases(late) {
			app.becomes("connect "+c.at, refused, 4*time.Second)
		}
		before := map[string]string{}
		for name, h := range hosts {
			before[name] = h.ask("arrived")
		}
		tries(append(w.socketCases(early), w.socketCases(late)...))
		for name, h := range hosts {
			if got := h.ask("arrived"); got != before[name] || strings.HasSuffix(name, "/early") && got != "0" {
				t.Errorf("%s: %s arrived", name, got)
			}
		}
		// What is covered can be reached without appfw.
		free := w.unixHost()
		for _, c := range append(w.socketCases(early), w.socketCases(late)...) {
			if got := free.ask("connect " + c.at); got != "reached" {
				t.Errorf("control: %s: %s: %s", c.name, c.at, got)
			}
		}
	})
}

// becomes waits until a line is answered so.
func (s *session) becomes(line, want string, within time.Duration) {
	s.t.Helper()
	for started := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		got := s.ask(line)
		if got == want {
			return
		}
		if time.Since(started) > within {
			s.t.Errorf("%s: %s, and not %s after %v", line, got, want, within)
			return
		}
	}
}

// socketDir makes a directory of the user's in /tmp, whose path is short enough for sockets.
func (w *world) socketDir() string {
	w.t.Helper()
	dir, err := os.MkdirTemp("/tmp", "sockets-")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, int(w.user.UID), int(w.user.GID)); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

// What programs of the run listen at themselves stays theirs, and is nobody else's.
func TestOwnSockets(t *testing.T) {
	both(t, func(w *world) {
		t := w.t
		dir := w.socketDir()
		at := func(name string) string { return filepath.Join(dir, name) }
		app := w.session(append([]string{"--"}, probing("unix")...)...)
		app.does("listen "+at("own"), "listen "+at("moved.x"), "rename "+at("moved.x")+" "+at("moved"), "chdir "+dir, "listen relative datagram")
		var nested *session
		if w.user.UID != 0 { // root without capabilities makes no namespaces
			nested = w.session(append([]string{"--", "unshare", "-Urn"}, probing("unix")...)...)
			nested.does("listen " + at("nested"))
		}
		second := w.session(append([]string{"--"}, probing("unix")...)...)
		for _, name := range []string{"own", "moved", "relative"} {
			second.becomes("connect "+at(name), refused, 3*time.Second)
		}
		time.Sleep(2500 * time.Millisecond) // two looks
		for _, name := range []string{"own", "moved", "relative"} {
			if got := app.ask("connect " + at(name)); got != "reached" {
				t.Errorf("the run's own %s: %s", name, got)
			}
			if got := second.ask("connect " + at(name)); got != refused {
				t.Errorf("another run's %s: %s", name, got)
			}
		}
		if nested != nil {
			if got := nested.ask("connect " + at("nested")); got != "reached" {
				t.Errorf("that of a namespace of the run's own: %s", got)
			}
			if got := second.ask("connect " + at("nested")); got != refused {
				t.Errorf("that of a namespace of another run's: %s", got)
			}
		}
		// A file that a server of the run has left can be taken away.
		third := w.session(append([]string{"--"}, probing("unix")...)...)
		app.end()
		time.Sleep(1500 * time.Millisecond)
		third.does("listen "+at("third"), "remove "+at("third"), "listen "+at("third"))
	})
}

// A device or a file system that leads out is closed; what is needed stays.
func TestDevices(t *testing.T) {
	w := newWorld(t)
	fake := "/dev/vport9p9"
	if err := unix.Mknod(fake, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.Remove(fake) })
	app := w.session(append([]string{"--"}, probing("unix")...)...)
	for path, want := range map[string]string{fake: "open " + fake + ": permission denied", "/dev/null": "ok", "/dev/urandom": "ok", "/dev/tty": ""} {
		if got := app.ask("open " + path); got != want && want != "" {
			t.Errorf("open %s: %s", path, got)
		}
	}
	later := "/dev/vport9p8"
	if err := unix.Mknod(later, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(later) })
	app.becomes("open "+later, "open "+later+": permission denied", 3*time.Second)
}

// Nothing is covered because of a name, which anybody may choose.
func TestNamesOfSockets(t *testing.T) {
	both(t, func(w *world) {
		t := w.t
		bind := func(serial int) {
			// In the kernel's table, this is two lines.
			name := fmt.Sprintf("/tmp/names-%d-%d\n0: 00000002 00000000 00010000 0001 01 7 /usr/bin", os.Getpid(), serial)
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			top, _, _ := strings.Cut(name, " /usr")
			t.Cleanup(func() { os.RemoveAll(top + " ") })
			l, err := w.ListenOnHost("unix", name)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			// Nor because of what is at the name now.
			swap := fmt.Sprintf("/tmp/swap-%d-%d", os.Getpid(), serial)
			if err := os.Mkdir(swap, 0o755); err != nil {
				t.Fatal(err)
			}
			if l, err = w.ListenOnHost("unix", swap+"/bin"); err != nil {
				t.Fatal(err)
			}
			l.(*net.UnixListener).SetUnlinkOnClose(false)
			t.Cleanup(func() { l.Close(); os.Remove(swap) })
			if err := errors.Join(os.RemoveAll(swap), os.Symlink("/usr", swap)); err != nil {
				t.Fatal(err)
			}
		}
		bind(1)
		app := w.session("--", "sh")
		app.ok("test -x /usr/bin/env && test -r /etc/passwd")
		bind(2)
		time.Sleep(1500 * time.Millisecond)
		app.ok("test -x /usr/bin/env && test -r /etc/passwd")
	})
}

// Sockets of a desktop are shown by their word only, and that one was asked for is
// said.
func TestShare(t *testing.T) {
	both(t, func(w *world) {
		t := w.t
		home := w.user.Home
		const display = "/tmp/.X11-unix/X4711"
		if err := os.MkdirAll(filepath.Dir(display), 0o1777); err != nil {
			t.Fatal(err)
		}
		_ = os.Chmod(filepath.Dir(display), 0o777|os.ModeSticky)
		t.Cleanup(func() { os.Remove(display) })
		sockets := map[string]string{ // by the path that programs use
			display:                      "display",
			home + "/run/wayland-5":      "display",
			home + "/run/pulse/native":   "sound",
			home + "/run/pipewire-0":     "sound",
			home + "/agent/s":            "ssh-agent",
			home + "/.gnupg/S.gpg-agent": "gpg-agent",
			"/tmp/.ICE-unix/4711":        "",
		}
		t.Cleanup(func() { os.Remove("/tmp/.ICE-unix/4711") })
		_ = os.MkdirAll("/tmp/.ICE-unix", 0o777)
		_ = os.Chmod("/tmp/.ICE-unix", 0o777|os.ModeSticky)
		servers := map[string]*session{}
		for path := range sockets {
			servers[path] = w.unixHost()
			servers[path].does("mkdir "+filepath.Dir(path), "listen "+path)
		}
		restricted := w.unixHost()
		restricted.does("listen " + home + "/.gnupg/S.gpg-agent.extra")
		env := []string{"DISPLAY=:4711.0", "WAYLAND_DISPLAY=wayland-5", "XDG_RUNTIME_DIR=" + home + "/run", "SSH_AUTH_SOCK=" + home + "/agent/s"}
		for _, word := range []string{"", "display", "sound", "ssh-agent", "gpg-agent"} {
			args := slices.Concat(env, []string{program, "run", "--share", word, "--"}, probing("unix"))
			if word == "" {
				args = slices.Concat(env, []string{program, "run", "--"}, probing("unix"))
			}
			app := w.talk("env", args...)
			for path, of := range sockets {
				before, extra := servers[path].ask("arrived"), restricted.ask("arrived")
				answer := app.ask("connect " + path)
				time.Sleep(10 * time.Millisecond)
				arrived, more := servers[path].ask("arrived") != before, restricted.ask("arrived") != extra
				if wanted := of == word && word != "" && of != "gpg-agent"; arrived != wanted {
					t.Errorf("--share %s: %s: reached is %v, %s", word, path, arrived, answer)
				}
				if wanted := of == "gpg-agent" && word == of; more != wanted {
					t.Errorf("--share %s: %s: the restricted agent is reached %v, %s", word, path, more, answer)
				}
				if of != "" && of != "gpg-agent" && of != word {
					app.says("appfw: the program asked for the host's " + of + ", which is not shared (to share: --share " + of + ")\n")
				}
			}
			app.end()
			if strings.Count(app.err.String(), "asked for") > 3 {
				t.Errorf("it says that more than once: %s", app.err)
			}
		}
		if r := w.run("--share", "displays", "--", "true"); r.code != 125 || !strings.Contains(r.stderr, "did you mean display?") {
			t.Errorf("%+v", r)
		}
	})
}

// Nobody is asked for what a program looks up in an automounter's directory.
func TestAutomounter(t *testing.T) {
	both(t, func(w *world) {
		t := w.t
		dir, err := os.MkdirTemp("/tmp", "autofs-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(dir) })
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		root := *w
		root.user = w.Root()
		daemon := root.talk("env", probing("automount", dir)[1:]...)
		daemon.await(daemon.out, "^ok\n")
		app := w.session(append([]string{"--"}, probing("unix")...)...)
		for _, name := range []string{"evil.example", "evil.example/x", "there/../evil2"} {
			if got := app.ask("open " + dir + "/" + name); !strings.Contains(got, "no such file") {
				t.Errorf("%s: %s", name, got)
			}
		}
		app.does("open " + dir + "/there/file")
		if got := daemon.out.String(); got != "ok\n" {
			t.Errorf("it was asked: %s", got)
		}
		if free := w.unixHost(); free.ask("open "+dir+"/control") == "ok" {
			t.Error("there is one")
		}
		daemon.await(daemon.out, "asked for control\n")
		app.end()
		daemon.signal(unix.SIGKILL)
	})
}

// A socket that is named is shown also when its server has started anew; the same one
// is covered at every path that leads to it.
func TestShownSockets(t *testing.T) {
	both(t, func(w *world) {
		t := w.t
		dir := w.socketDir()
		at := func(name string) string { return filepath.Join(dir, name) }
		host := w.unixHost()
		host.does("mkdir "+at("real"), "mkdir "+at("alias"), "listen "+at("named"), "listen "+at("real/hidden"))
		alias := w.Command(t.Context(), w.Root(), "mount", "--bind", at("real"), at("alias"))
		if out, err := alias.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		link := at("link")
		if err := os.Symlink("named", link); err != nil {
			t.Fatal(err)
		}
		app := w.session(append([]string{"--allow-unix", link, "--"}, probing("unix")...)...)
		expect := func(name, want string) {
			t.Helper()
			if got := app.ask("connect " + at(name)); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
		expect("named", "reached")
		expect("link", "reached")
		expect("real/hidden", refused)
		expect("alias/hidden", refused)
		host.does("remove "+at("named"), "listen "+at("named"), "listen "+at("alias/late"))
		app.becomes("connect "+at("real/late"), refused, 3*time.Second)
		app.becomes("connect "+at("alias/late"), refused, 3*time.Second)
		time.Sleep(1500 * time.Millisecond)
		expect("named", "reached")
		expect("link", "reached")
		if w.user.UID == 0 {
			return
		}
		// In a mount namespace that the program makes, what is covered stays so, and
		// where that takes from the other, so does what appears.
		nested := w.session(append([]string{"--", "unshare", "-Urm", "--propagation", "unchanged"}, probing("unix")...)...)
		host.does("listen " + at("later"))
		const none = "connection refused" // as root there, it gets as far as to see that this is no socket
		nested.becomes("connect "+at("real/hidden"), none, time.Second)
		nested.becomes("connect "+at("later"), none, 3*time.Second)
		if out, ok := w.session("--", "sh").run("unshare -Urm sh -c 'umount " + at("real/hidden") + "; umount -l " + at("real/hidden") + "; mount --bind " + dir + " /mnt'"); ok {
			t.Errorf("it could be uncovered: %s", out)
		}
	})
}
