package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() {
	probes["escape"] = probeEscape
	probes["send"] = probeSend
}

// probeEscape tries what reaches past a network namespace.
func probeEscape([]string) error {
	try := func(what string, err error) {
		if err == nil {
			fmt.Println(what, "POSSIBLE")
		} else {
			fmt.Println(what, "refused:", err)
		}
	}
	for family, name := range map[int]string{unix.AF_VSOCK: "vsock", unix.AF_QIPCRTR: "qipcrtr", unix.AF_BLUETOOTH: "bluetooth", 43: "smc"} {
		_, err := unix.Socket(family, unix.SOCK_STREAM, 0)
		try(name, err)
	}
	_, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	try("raw", err)
	_, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	try("packet", err)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	try("transparent", unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1))
	try("mark", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, markTake))
	params := make([]byte, 120)
	_, _, e := unix.Syscall(425, 8, uintptr(unsafe.Pointer(&params[0])), 0) // io_uring_setup
	try("io_uring", errOf(e))
	c := byte('x')
	_, _, e = unix.Syscall(unix.SYS_IOCTL, 0, unix.TIOCSTI, uintptr(unsafe.Pointer(&c)))
	try("tiocsti", errOf(e))
	_, _, e = unix.Syscall(unix.SYS_IOCTL, 0, unix.TIOCSTI|1<<32, uintptr(unsafe.Pointer(&c)))
	try("tiocsti with high bits", errOf(e))
	_, err = os.ReadDir(fmt.Sprintf("/proc/%d/root", os.Getppid()))
	try("gateway's root", err)
	_, err = os.Readlink(fmt.Sprintf("/proc/%d/fd/0", os.Getppid()))
	try("gateway's descriptors", err)
	try("gateway's memory", unix.PtraceAttach(os.Getppid()))
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", os.Getppid()))
	if err == nil {
		runtime.LockOSThread()
		err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
	}
	try("gateway's namespace", err)
	_, _, e = unix.Syscall6(unix.SYS_REQUEST_KEY, uintptr(unsafe.Pointer(&[]byte("dns_resolver\x00")[0])), uintptr(unsafe.Pointer(&[]byte("other.example\x00")[0])), uintptr(unsafe.Pointer(&[]byte("\x00")[0])), 0, 0, 0)
	if e == unix.ENOSYS {
		try("request_key", e)
	} else {
		fmt.Println("request_key POSSIBLE:", e)
	}
	limit := unix.Rlimit{}
	try("gateway's limits", unix.Prlimit(os.Getppid(), unix.RLIMIT_NOFILE, &limit, nil))
	_, err = os.OpenFile("/proc/sys/kernel/core_pattern", os.O_WRONLY, 0)
	try("core_pattern", err)
	try("resolv.conf", errors.Join(os.Chmod("/etc/resolv.conf", 0o644), os.WriteFile("/etc/resolv.conf", nil, 0)))
	try("unmount", unix.Unmount("/etc/resolv.conf", unix.MNT_DETACH))
	status, err := os.ReadFile("/proc/self/status")
	fmt.Println(string(status))
	return err
}

// markTake is netns's mark of accepted packets.
const markTake = 0x61

func errOf(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

func TestConfined(t *testing.T) {
	both(t, func(w *world) {
		out := w.ok(w.run(append([]string{"--"}, probing("escape")...)...))
		if strings.Contains(out, "POSSIBLE") {
			t.Errorf("escapes:\n%s", out)
		}
		none := "\t0000000000000000\n"
		wants(t, out, "NoNewPrivs:\t1\n", "Seccomp:\t2\n", "CapInh:"+none, "CapPrm:"+none, "CapEff:"+none, "CapBnd:"+none, "CapAmb:"+none)
		// Not by another user namespace, either.
		out = w.run("--", "unshare", "-Urn", "sh", "-c", "ip link; ip route; nft list ruleset; umount /etc/resolv.conf; cat /etc/resolv.conf").stdout
		if strings.Contains(out, "eth0") {
			t.Errorf("in a user namespace of its own: %s", out)
		}
		if w.user.UID == 0 {
			return // root without capabilities cannot map itself
		}
		r := w.run("--allow", "any", "--", "unshare", "-Ur", "sh", "-c", "ip addr add 10.9.9.9/32 dev lo; ip link set eth0 down; nft add table ip x; ip route add 1.1.1.1 dev lo; cat /etc/resolv.conf")
		wants(t, r.stdout, "nameserver 192.0.0.1")
		if n := strings.Count(r.stderr, "Operation not permitted"); n < 4 {
			t.Errorf("the app's namespace could be changed: %s", r.stderr)
		}
	})
}

// The app sees the files and sockets it is to see.
func TestView(t *testing.T) {
	both(t, func(w *world) {
		dir := filepath.Join(w.Dir(), "sockets")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		wants(t, w.ok(w.run("--", "cat", "/etc/resolv.conf")), "nameserver 192.0.0.1\n")
		wants(t, w.ok(w.run("--", "cat", "/etc/nsswitch.conf")), "hosts: files dns\n")
		if out := w.ok(w.run("--", "sh", "-c", "ls -A /run/dbus /run/nscd /run/avahi-daemon /run/docker.sock /run/systemd/private 2>/dev/null; true")); strings.Contains(out, "socket") {
			t.Errorf("visible: %s", out)
		}

		// Whatever a process of the host listens on, unless it is named.
		path := filepath.Join(dir, "server.sock")
		l, err := w.ListenOnHost("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
		go answer(l)
		ask := []string{"--", "ncat", "--recv-only", "-U", path}
		if r := w.run(ask...); r.code == 0 {
			t.Errorf("the hidden socket answered %q", r.stdout)
		}
		wants(t, w.ok(w.run(append([]string{"--allow-unix", path}, ask...)...)), "host")

		// A link that somebody made where anybody can hides nothing.
		link := fmt.Sprintf("/tmp/dbus-appfw-test-%d", os.Getpid())
		if err := os.Symlink("/etc", link); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(link)
		c := w.Command(t.Context(), w.user, program, "run", "--", "ls", "/etc/passwd")
		c.Env = append(c.Env, "DOCKER_HOST=unix://"+link)
		w.ok(w.finish(c))
	})
}

// A descriptor that leads past the isolation is refused, and nothing is run.
func TestInheritedWaysOut(t *testing.T) {
	both(t, func(w *world) {
		l, err := w.ListenOnHost("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		file, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		root, err := os.Open("/")
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		for f, says := range map[*os.File]string{file: "/dev/stdin is a socket", root: "/dev/stdin is a directory"} {
			c := w.Command(t.Context(), w.user, program, "run", "--", "echo", "ran")
			c.Stdin = f
			if r := w.finish(c); r.code != 125 || r.stdout != "" || !strings.Contains(r.stderr, says) {
				t.Errorf("%+v", r)
			}
		}
		// Pipes, files and stream socket pairs are as good as ever.
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := os.NewFile(uintptr(pair[0]), "pair"), os.NewFile(uintptr(pair[1]), "pair")
		defer theirs.Close()
		if _, err := ours.WriteString("text"); err != nil {
			t.Fatal(err)
		}
		ours.Close()
		c := w.Command(t.Context(), w.user, program, "run", "--", "cat")
		c.Stdin = theirs
		if out := w.ok(w.finish(c)); out != "text" {
			t.Errorf("cat of a socket pair: %q", out)
		}
	})
}

// The environment and the user are as without appfw.
func TestInherited(t *testing.T) {
	both(t, func(w *world) {
		c := w.Command(t.Context(), w.user, "sh", "-c", `X='a b' exec "$0" run -- env`, program)
		wants(t, w.ok(w.finish(c)), "X=a b\n", "HOME="+w.user.Home+"\n")
		w.asBare(nil, "env")
		id := w.ok(w.run("--", "sh", "-c", "id -u; id -g; pwd"))
		if id != fmt.Sprintf("%d\n%d\n%s\n", w.user.UID, w.user.GID, w.user.Home) {
			t.Errorf("identity: %q", id)
		}
	})
}

func TestUser(t *testing.T) {
	w := newWorld(t)
	ids := []string{"--", "sh", "-c", "id -u; id -g; grep CapEff /proc/self/status"}
	if out := w.ok(w.run(append([]string{"--user", "nobody"}, ids...)...)); out != "65534\n65534\nCapEff:\t0000000000000000\n" {
		t.Errorf("--user nobody: %q", out)
	}
	if out := w.ok(w.run(append([]string{"--user", "12345"}, ids...)...)); out != "12345\n12345\nCapEff:\t0000000000000000\n" {
		t.Errorf("--user 12345: %q", out)
	}
	c := w.Command(t.Context(), w.user, program, append([]string{"run"}, ids...)...)
	c.Env = append(c.Env, "SUDO_UID=20001", "SUDO_GID=20001", "SUDO_USER=ordinary")
	if out := w.ok(w.finish(c)); out != "20001\n20001\nCapEff:\t0000000000000000\n" {
		t.Errorf("by sudo: %q", out)
	}
	// Nothing of root's is in the environment, nor is the directory.
	env := []string{"--", "sh", "-c", `echo "$HOME" "$USER" "$LOGNAME" "$XDG_RUNTIME_DIR"`}
	for name, want := range map[string]string{"12345": "/   \n", w.Ordinary().Name: fmt.Sprintf("%s %s %[2]s \n", w.Ordinary().Home, w.Ordinary().Name)} {
		c := w.Command(t.Context(), w.user, program, append([]string{"run", "--user", name}, env...)...)
		c.Env = append(c.Env, "USER=root", "LOGNAME=root", "XDG_RUNTIME_DIR=/run/user/0")
		if out := w.ok(w.finish(c)); out != want {
			t.Errorf("--user %s: %q, not %q", name, out, want)
		}
	}
	private := filepath.Join(w.Dir(), "private")
	if err := os.Mkdir(private, 0o700); err != nil {
		t.Fatal(err)
	}
	c = w.Command(t.Context(), w.user, program, "run", "--user", "nobody", "--", "echo", "ran")
	c.Dir = private
	if r := w.finish(c); r.code != 125 || r.stdout != "" || r.stderr != "appfw: the command was not run, as its user cannot enter the directory "+private+": permission denied; start appfw in another directory\n" {
		t.Errorf("in a directory of root's: %+v", r)
	}
	if r := w.run("--user", "", "--", "id", "-u"); r.code != 125 || r.stdout != "" {
		t.Errorf("--user of an unset variable: %+v", r)
	}
	if r := w.run("--user", "nosuchuser", "--", "true"); r.code != 125 {
		t.Errorf("--user nosuchuser: %+v", r)
	}
	w.user = w.Ordinary()
	if r := w.run("--user", "root", "--", "true"); r.code != 125 {
		t.Errorf("--user root by an ordinary user: %+v", r)
	}
}

// Nothing of the host's network differs during a run and after it, and nothing
// is left, however appfw ends.
func TestHostUntouched(t *testing.T) {
	both(t, func(w *world) {
		before := w.HostState()
		for _, victim := range []string{"supervisor", "gateway", "none"} {
			c := w.Command(t.Context(), w.user, program, "run", "--allow", "example.com", "--", "sh", "-c",
				"echo ready; read go; curl -sS --max-time 5 http://example.com && echo REACHED; echo done >&2")
			stdin, _ := c.StdinPipe()
			stdout, _ := c.StdoutPipe()
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 100)
			if n, _ := stdout.Read(b); string(b[:n]) != "ready\n" {
				t.Fatalf("it said %q", b[:n])
			}
			if during := w.HostState(); during != before {
				t.Errorf("the host's network differs during the run:\n%s\nbefore:\n%s", during, before)
			}
			switch victim {
			case "supervisor":
				_ = c.Process.Kill()
			case "gateway":
				_ = unix.Kill(child(t, c.Process.Pid), unix.SIGKILL)
			}
			_ = c.Cmd.Process.Signal(unix.Signal(0))
			if victim != "none" {
				_ = c.Wait()
			}
			fmt.Fprintln(stdin, "go")
			rest := new(strings.Builder)
			for {
				n, err := stdout.Read(b)
				rest.Write(b[:n])
				if err != nil {
					break
				}
			}
			_ = c.Wait()
			reached := strings.Contains(rest.String(), "REACHED")
			if reached != (victim == "none") {
				t.Errorf("%s killed: the app said %q", victim, rest)
			}
		}
		if after := w.HostState(); after != before {
			t.Errorf("the host's network differs after the runs:\n%s\nbefore:\n%s", after, before)
		}
	})
}

// Killed at any moment of its start, appfw leaves nothing on the host, and no
// app with a network.
func TestKilledAtAnyMoment(t *testing.T) {
	both(t, func(w *world) {
		before := w.HostState()
		var all sync.WaitGroup
		for i := range 60 {
			c := w.Command(t.Context(), w.user, program, "run", "--allow", "any", "--", "sleep", "1000")
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			all.Add(1)
			time.AfterFunc(time.Duration(i)*300*time.Microsecond, func() {
				defer all.Done()
				_ = c.Process.Kill()
				_ = c.Wait()
			})
		}
		all.Wait()
		// The gateways notice that their supervisors are gone, and end; the
		// kernel then takes the apps' ends of the veths away.
		var left []string
		for deadline := time.Now().Add(10 * time.Second); ; {
			left = left[:0]
			for _, p := range w.Processes() {
				devices, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", p.PID))
				if !strings.HasPrefix(p.Command, "sleep") || err == nil && strings.Contains(string(devices), "eth0") {
					left = append(left, p.Command)
				}
			}
			if len(left) == 0 || time.Now().After(deadline) {
				break
			}
		}
		if len(left) > 0 {
			t.Errorf("gateways, or apps with a network: %v", left)
		}
		if after := w.HostState(); after != before {
			t.Errorf("the host's network differs:\n%s\nbefore:\n%s", after, before)
		}
	})
}

func TestFiftySideBySide(t *testing.T) {
	both(t, func(w *world) {
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				r := w.run("--allow", "example.com", "--", "curl", "-sS", "https://example.com")
				if r.code != 0 || r.stdout != "hello from example.com\n" {
					t.Errorf("%+v", r)
				}
			})
		}
		all.Wait()
		if left := w.Processes(); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

// probeSend sends what a gate must not pass. args: what.
func probeSend(args []string) error {
	v4 := func(kind, proto int) (int, error) { return unix.Socket(unix.AF_INET, kind, proto) }
	to := func(last byte, port int) unix.Sockaddr {
		return &unix.SockaddrInet4{Addr: [4]byte{11, 22, 0, last}, Port: port}
	}
	var fd int
	var err error
	switch args[0] {
	case "udplite":
		fd, err = v4(unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE)
		err = errors.Join(err, unix.Connect(fd, to(20, 7)), unix.Send(fd, []byte("x"), 0))
	case "sctp":
		if fd, err = v4(unix.SOCK_STREAM, unix.IPPROTO_SCTP); err == nil {
			err = unix.Connect(fd, to(20, 7))
		}
	case "mptcp":
		if fd, err = v4(unix.SOCK_STREAM, unix.IPPROTO_MPTCP); err == nil {
			err = unix.Connect(fd, to(20, 80))
		}
	case "multicast":
		fd, err = v4(unix.SOCK_DGRAM, 0)
		err = errors.Join(err, unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Addr: [4]byte{239, 1, 2, 3}, Port: 7}))
	case "broadcast":
		fd, err = v4(unix.SOCK_DGRAM, 0)
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
			unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Addr: [4]byte{255, 255, 255, 255}, Port: 7}))
	case "fragments":
		fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20), // larger than the veth's MTU
			unix.Sendto(fd, make([]byte, 65510), 0, &unix.SockaddrInet6{Addr: [16]byte{0x2a, 0x0d, 0xaa, 0xaa, 15: 0x20}, Port: 7}))
	}
	fmt.Println(args[0], err)
	return nil
}

func TestNothingElsePasses(t *testing.T) {
	both(t, func(w *world) {
		for what, reason := range map[string]string{
			"udplite":   "denied udplite 11.22.0.20: only TCP, UDP and ICMP echo are carried",
			"mptcp":     "denied tcp 11.22.0.20:80: the rule --deny 11.22.0.20 (command line) denies it",
			"multicast": "denied udp 239.1.2.3:7: multicast addresses are not carried",
			"broadcast": "denied udp 255.255.255.255:7: broadcast addresses are not carried",
			"fragments": "it hides where it goes: fragment",
		} {
			r := w.run(append([]string{"--allow", "any", "--deny", "11.22.0.20", "--deny", "2a0d:aaaa::20", "--"}, probing("send", what)...)...)
			w.ok(r)
			if strings.Contains(r.stdout, "protocol not supported") {
				t.Logf("%s: this kernel has none", what)
				continue
			}
			if !strings.Contains(r.stderr, reason) {
				t.Errorf("%s: stderr does not say %q: %s%s", what, reason, r.stderr, r.stdout)
			}
		}
		w.untouched(w.other)
	})
}
