package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// handmade is a shell in a network namespace that somebody made by hand.
func (w *world) handmade() (s *session, pid string) {
	w.t.Helper()
	args := []string{"--net", "sh"}
	if w.user.UID != 0 {
		args = append([]string{"--map-root-user"}, args...)
	}
	s = w.talk("unshare", args...)
	return s, strings.TrimSpace(s.ok("echo $$"))
}

const served = `appfw: serving the namespace (\S+)\n`

// A shell in a namespace made by hand, which has no way out, reaches what the policy
// allows while appfw is attached.
func TestAttach(t *testing.T) {
	both(t, func(w *world) {
		shell, pid := w.handmade()
		if out, ok := shell.run(getExample); ok {
			t.Errorf("before: %s", out)
		}
		w.denied(w.appfw("attach", "--netns", "/proc/self/ns/net"), "it is the network namespace of appfw itself")
		w.denied(w.appfw("attach", "--pid", "4194304"), "there is no namespace at /proc/4194304/ns/net")

		log := w.user.Home + "/log.json"
		a := w.start("attach", "--pid", pid, "--allow", "example.com", "--log", log, "--publish", "8080:8000")
		a.await(a.err, served)
		wants(t, shell.ok(getExample), "hello from example.com")
		wants(t, shell.ok("curl -sS -m 5 https://www.example.com || true"), notFound)
		if out, ok := shell.run("curl -sS -m 5 http://11.22.0.20"); ok {
			t.Errorf("denied: %s", out)
		}
		w.untouched(w.other)
		a.await(a.err, "appfw: denied tcp 11.22.0.20:80: no rule allows it")
		shell.ok(`python3 -c '
import socket
l = socket.create_server(("", 8000)); print("listening", flush=True)
c, a = l.accept(); c.sendall(b"from " + a[0].encode()); c.close()' > said 2>&1 & true`)
		shell.until("cat said", "listening")
		conn, err := w.DialFromHost("tcp", "127.0.0.1:8080")
		if err != nil {
			t.Fatal(err)
		}
		if got := say1(t, conn, "?"); got != "from 127.0.0.1" {
			t.Errorf("%q", got)
		}
		conn.Close()
		w.denied(w.appfw("attach", "--pid", pid), "another appfw has this namespace already")
		wants(t, shell.ok(getExample), "hello from example.com")

		// Killed, it leaves the shell without a network; the next one goes on.
		a.signal(unix.SIGKILL)
		a.end()
		if out, ok := shell.run(getExample); ok {
			t.Errorf("without appfw: %s", out)
		}
		a = w.start("attach", "--pid", pid, "--allow", "other.example")
		a.await(a.err, served)
		wants(t, shell.ok(getOther), "hello from other.example")
		if out, ok := shell.run(getExample); ok {
			t.Errorf("another policy: %s", out)
		}
		// Told to end, it leaves nothing.
		a.stop()
		if devices := shell.ok("cut -d: -f1 /proc/net/dev | tail -n +3"); strings.Contains(devices, "eth0") {
			t.Errorf("devices: %s", devices)
		}
		// It ends with the process.
		a = w.start("attach", "--pid", pid, "--allow", "other.example")
		a.await(a.err, served)
		shell.end()
		if code := a.end(); code != 0 {
			t.Errorf("it ended with %d: %s", code, a.err)
		}
		wants(t, string(mustRead(t, log)), `"verdict":"allow","direction":"in"`, `"verdict":"deny","direction":"out","proto":"tcp","addr":"11.22.0.20"`)
	})
}

// Where programs could go past appfw, it does not attach unless that is meant.
func TestAttachLeaky(t *testing.T) {
	both(t, func(w *world) {
		shell, pid := w.handmade()
		shell.ok("ip link set lo up && ip link add other type veth peer name another && ip link set other up && ip link set another up")
		w.denied(w.appfw("attach", "--pid", pid, "--allow", "example.com"), "it has other devices than the loopback, by which programs would go past appfw: another, other (--leaky if that is meant)")
		a := w.start("attach", "--pid", pid, "--allow", "example.com", "--leaky")
		a.await(a.err, served)
		wants(t, shell.ok(getExample), "hello from example.com")
		a.stop()
	})
}

func TestAttachWrong(t *testing.T) {
	both(t, func(w *world) {
		for want, args := range map[string][]string{
			"say which namespace: --netns PATH or --pid PID":            {"attach", "--allow", "any"},
			"attach runs no command: \"curl\" is too much":              {"attach", "--pid", "1", "curl"},
			"give the name of one namespace: appfw netns web":           {"netns"},
			"\"a/b\" is no name of a namespace":                         {"netns", "a/b"},
			"there is no namespace at /nowhere":                         {"attach", "--netns", "/nowhere"},
			`--allow: "exa mple": a name cannot have the character ' '`: {"attach", "--netns", "/proc/self/ns/net", "--allow", "exa mple"},
		} {
			w.denied(w.appfw(args...), want)
		}
		if w.user.UID != 0 {
			w.denied(w.appfw("netns", "web"), "namespaces with names are root's to make")
			w.denied(w.appfw("attach", "--pid", "1"), "permission denied")
		}
	})
}

// A named namespace is made, served, served again, and deleted; "ip netns exec" runs
// programs in it.
func TestNetns(t *testing.T) {
	w := newWorld(t)
	name := fmt.Sprintf("appfw-test-%d", os.Getpid())
	defer w.appfw("netns", "--delete", name)
	in := func(command ...string) result {
		t.Helper()
		return w.finish(w.Command(t.Context(), w.user, "ip", append([]string{"netns", "exec", name}, command...)...))
	}
	places := func() string { // what it has on the host, whose /etc is its own
		t.Helper()
		return w.finish(w.Command(t.Context(), w.user, "find", "/run/netns", "/etc/netns", "/run/appfw/netns", "-maxdepth", "1", "-name", name)).stdout
	}
	s := w.start("netns", name, "--allow", "example.com")
	s.await(s.err, served)
	if found := places(); strings.Count(found, "\n") != 3 {
		t.Errorf("served, it is at %s", found)
	}
	wants(t, w.ok(in("curl", "-sS", "https://example.com")), "hello from example.com")
	w.denied(in("curl", "-sS", "https://other.example"), notFound)
	wants(t, w.ok(in("cat", "/etc/resolv.conf")), "nameserver 192.0.0.1")
	wants(t, w.ok(in("cat", "/etc/nsswitch.conf")), "hosts: files dns")
	status := string(mustRead(t, fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid)))
	wants(t, status, "CapEff:\t0000000000001000\n", "CapPrm:\t0000000000001000\n", "NoNewPrivs:\t1\n") // CAP_NET_ADMIN alone
	w.untouched(w.other)
	w.denied(w.appfw("netns", "--delete", name), "another appfw has this namespace already; end that first")
	s.stop()
	if r := in("curl", "-sS", "-m", "5", "http://11.22.0.10"); r.code == 0 {
		t.Error("without appfw there is a network")
	}
	w.denied(w.appfw("attach", "--netns", name), "there is no namespace at "+name+" (did you mean --netns /run/netns/"+name+"?)")
	s = w.start("netns", name, "--allow", "other.example")
	s.await(s.err, served)
	wants(t, w.ok(in("curl", "-sS", "https://other.example")), "hello from other.example")
	s.stop()
	w.ok(w.appfw("netns", "--delete", name))
	if found := places(); found != "" {
		t.Errorf("deleted, it is still at %s", found)
	}
	w.denied(w.appfw("netns", "--delete", name), "there is no namespace at /run/netns/"+name)
}
