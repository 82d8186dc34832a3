package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"

	"appfw/netns"
)

// Programs in a user's namespace that can write the policy make none for themselves,
// whoever attached; what root alone can write is read anew.
func TestAttachOwnPolicy(t *testing.T) {
	both(t, func(w *world) {
		user := w.Ordinary()
		attacher := w.user
		w.user = user
		shell, pid := w.handmade()
		w.user = attacher
		policy := user.Home + "/own.policy"
		shell.ok("echo allow example.com > " + policy)
		a := w.start("attach", "--pid", pid, "--policy", policy)
		a.await(a.err, served)
		wants(t, shell.ok(getExample), "hello from example.com")
		shell.ok("echo allow other.example >> " + policy)
		a.signal(unix.SIGHUP)
		a.await(a.err, "appfw: the policy was not read anew: the program itself could change "+user.Home)
		if out, ok := shell.run(getOther); ok {
			t.Errorf("it allowed itself: %s", out)
		}
		w.untouched(w.other)
		a.stop()

		policy = w.write("roots.policy", "allow example.com\n")
		a = w.start("attach", "--pid", pid, "--policy", policy)
		a.await(a.err, served)
		w.write("roots.policy", "allow other.example\n")
		a.reload()
		wants(t, shell.ok(getOther), "hello from other.example")
		a.stop()
	})
}

// Clients that nobody accepts, the backlog being full, do not keep appfw from ending
// with its program.
func TestPublishBacklog(t *testing.T) {
	both(t, func(w *world) {
		near := w.Host("11.22.7.7")
		s := w.session("--publish", "0.0.0.0:8080:8000", "--", "python3", "-c", `
import os, socket, sys
l = socket.socket(); l.bind(("", 8000)); l.listen(0); print("listening", flush=True)
if os.fork() == 0:
    os.closerange(0, 3)
    while True: os.read(os.pipe()[0], 1)
sys.stdin.readline()`)
		s.await(s.out, "listening\n")
		for range 6 {
			if _, err := near.DialFrom("tcp", w.Addr4().String()+":8080"); err != nil {
				t.Fatal(err)
			}
		}
		started := time.Now()
		if s.end(); time.Since(started) > failFast {
			t.Errorf("it ended after %v", time.Since(started))
		}
	})
}

// Clients that a program does not accept are no burden without bounds: those that are
// too many are reset at once.
func TestPublishCrowd(t *testing.T) {
	w := newWorld(t)
	near := w.Host("11.22.7.7")
	s := w.session("--publish", "0.0.0.0:8080:8000", "--", "python3", "-c", `
import socket, sys
l = socket.socket(); l.bind(("", 8000)); l.listen(0); print("listening", flush=True)
sys.stdin.readline()`)
	s.await(s.out, "listening\n")
	const clients, most = 1400, 1024 + 2 // and a backlog of 0
	reset := make(chan struct{}, clients)
	for range clients {
		conn, err := near.DialFrom("tcp", w.Addr4().String()+":8080")
		if errors.Is(err, unix.ECONNRESET) {
			reset <- struct{}{}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(failFast))
		go func() {
			if _, err := conn.Read(make([]byte, 1)); errors.Is(err, unix.ECONNRESET) {
				reset <- struct{}{}
			}
		}()
	}
	late := time.After(failFast)
	for n := range clients - most {
		select {
		case <-reset:
		case <-late:
			t.Fatalf("%d were reset", n)
		}
	}
	s.end()
}

// A client that says that it is the app, its resolver, or a name is refused at once.
func TestPublishOwnAddresses(t *testing.T) {
	w := newWorld(t)
	s := w.session("--publish", "0.0.0.0:8080:8000", "--publish", "[::]:8080:8000", "--publish", "0.0.0.0:8080:7000/udp", "--allow-from", "any",
		"--upstream", "office=http://11.22.0.20:3128", "--", "python3", "-c", udpVisitors)
	s.await(s.out, "bound\nbound\n")
	for _, addr := range []string{"192.0.0.1", "192.0.0.2", "198.18.0.1"} {
		h := w.Host(addr)
		conn, err := h.DialFrom("tcp", w.Addr4().String()+":8080")
		started := time.Now()
		if err == nil {
			_ = conn.SetDeadline(time.Now().Add(patience))
			_, err = conn.Read(make([]byte, 1))
		}
		if !errors.Is(err, unix.ECONNRESET) || time.Since(started) > failFast {
			t.Errorf("%s: %v after %v", addr, err, time.Since(started))
		}
		s.await(s.err, "appfw: denied tcp from "+addr+" to port 8080: it is an address ")
		u, err := h.DialFrom("udp", w.Addr4().String()+":8080")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		s.await(s.err, "appfw: denied udp from "+addr+" to port 8080: it is an address ")
	}
	s.signal(unix.SIGTERM)
	s.end()
}

// Root in an attached namespace, who may change all that is in it, gets neither past
// the policy nor to the host's loopback, and hears so at once.
func TestAttachRootInside(t *testing.T) {
	both(t, func(w *world) {
		shell, pid := w.handmade()
		local, err := w.ListenOnHost("tcp", "127.0.0.1:5432")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				conn, err := local.Accept()
				if err != nil {
					return
				}
				conn.Close()
				t.Error("the host's loopback was reached")
			}
		}()
		a := w.start("attach", "--pid", pid, "--allow", "example.com", "--publish", "8080:8000")
		a.await(a.err, served)
		const try = "curl -sS -m 8 http://127.0.0.1:5432 || curl -sS -m 8 http://11.22.0.20 || curl -sS -m 8 http://192.0.0.1:65533"
		for _, script := range []string{
			try, // with the rules, and then without
			"nft delete table ip appfw; nft delete table ip6 appfw; " + try,
			// Straight into appfw's listener.
			`nft -f - <<END
table ip mine {
	chain out { type route hook output priority -200; tcp dport { 80, 5432 } meta mark set 0x61; }
	chain in { type filter hook prerouting priority -300; tcp dport { 80, 5432 } tproxy to :65533 meta mark set 0x61 accept; }
}
END
ip rule add fwmark 0x61 lookup 100; ip route add local default dev lo table 100
` + try + `; r=$?; ip rule del fwmark 0x61; nft delete table ip mine; (exit $r)`,
			`python3 - <<END
import socket, sys
for mark in 0x61, 0x62:
    for at in ("127.0.0.1", 5432), ("11.22.0.20", 80), ("192.0.0.1", 65533), ("127.0.0.1", 65533), ("192.0.0.2", 65533):
        s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark); s.settimeout(8)
        try: s.connect(at); s.sendall(b"GET / HTTP/1.0\r\n\r\n"); s.recv(1)
        except ConnectionError: continue
        print("connected", at); sys.exit(0)
sys.exit(1)
END`,
			// The loopback's addresses over the veth.
			`sysctl -w net.ipv4.conf.all.route_localnet=1; ip route del local 127.0.0.0/8 dev lo table local; ip route del local 127.0.0.1 dev lo table local
ip route add 127.0.0.1 via 192.0.0.1 dev eth0 onlink; ` + try,
		} {
			started := time.Now()
			if out, ok := shell.run(script); ok || strings.Contains(out, "timed out") || time.Since(started) > failFast {
				t.Errorf("%s: %v after %v: %s", script, ok, time.Since(started), out)
			}
		}
		w.untouched(w.other)
		// Without the veth, clients are told at once as well.
		shell.ok("ip link del eth0")
		conn, err := w.DialFromHost("tcp", "127.0.0.1:8080")
		if err == nil { // else the reset was faster than connect(2)
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(failFast))
			_, err = conn.Read(make([]byte, 1))
		}
		if !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("a client: %v", err)
		}
		a.stop()
	})
}

// Root in a user's namespace cannot look into an appfw that root has attached to it.
func TestAttachOutOfReach(t *testing.T) {
	w := newWorld(t)
	root := w.user
	w.user = w.Ordinary()
	shell, pid := w.handmade()
	w.user = root
	a := w.start("attach", "--pid", pid, "--allow", "example.com")
	a.await(a.err, served)
	for _, script := range []string{": < /proc/%d/mem", "ls /proc/%d/fd", "nsenter -t %d -n true", "kill %d"} {
		if out, ok := shell.run(fmt.Sprintf("( "+script+" )", a.cmd.Process.Pid)); ok {
			t.Errorf("%s: %s", script, out)
		}
	}
	wants(t, shell.ok(getExample), "hello from example.com")
	a.stop()
}

// An odd name tells the service manager nothing, a umask keeps no user from resolving,
// and what is served is not deleted; nor is what a link leads to.
func TestNetnsMistakes(t *testing.T) {
	w := newWorld(t)
	name := fmt.Sprintf("appfw test %d\nMAINPID=1", os.Getpid())
	other := fmt.Sprintf("appfw-other-%d", os.Getpid())
	for _, n := range []string{name, other} {
		defer w.appfw("netns", "--delete", n)
	}
	at := w.Dir() + "/notify"
	manager, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(manager)
	if err := unix.Bind(manager, &unix.SockaddrUnix{Name: at}); err != nil {
		t.Fatal(err)
	}
	s := w.talk("sh", "-c", `umask 077; NOTIFY_SOCKET="$1" exec "$0" netns "$2" --allow example.com`, program, at, name)
	s.await(s.err, "serving the namespace ")
	b := make([]byte, 1000)
	n, _, err := unix.Recvfrom(manager, b, 0)
	if said := string(b[:n]); err != nil || strings.Count(said, "\n") != 1 || !strings.HasPrefix(said, "READY=1\nSTATUS=Serving ") {
		t.Errorf("it said %q, %v", said, err)
	}
	if info, err := os.Stat("/run/appfw/netns/" + name + "/resolv.conf"); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v %v", info, err)
	}
	in := func(command ...string) result {
		t.Helper()
		return w.finish(w.Command(t.Context(), w.user, "ip", append([]string{"netns", "exec", name}, command...)...))
	}
	w.denied(w.appfw("netns", "--delete", name), "another appfw has this namespace already")
	wants(t, w.ok(in("curl", "-sS", "https://example.com")), "hello from example.com")
	s.stop()
	if err := os.Symlink("/run/netns/"+name, "/run/netns/"+other); err != nil {
		t.Fatal(err)
	}
	w.ok(w.appfw("netns", "--delete", other))
	w.ok(in("true"))
	w.ok(w.appfw("netns", "--delete", name))
}

// Of two sockets that are passed by one name, none is forgotten without a word.
func TestPublishPassedTwice(t *testing.T) {
	w := newWorld(t)
	near := w.Host("11.22.7.7")
	s := w.talk("systemd-socket-activate", "-l", "0.0.0.0:8080", "-l", "0.0.0.0:8081", "--fdname=web:web", program, "run", "--publish", "fd:web:8000", "--", "echo", "ran")
	s.await(s.err, "(?s)Listening.*Listening")
	if _, err := near.DialFrom("tcp", w.Addr4().String()+":8081"); err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Fatal(err)
	}
	s.await(s.err, "appfw: --publish fd:web:8000: the service manager passes 2 sockets of that name")
	if s.end() != exitFailed || s.out.String() != "" {
		t.Errorf("it ran: %s", s.out)
	}
}

// holdBack takes the packets of a queue, and gives none of them up.
const holdBack = `import socket, struct, sys
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
def config(attribute):
    body = struct.pack("!BBH", 0, 0, 5) + attribute
    s.send(struct.pack("=IHHII", 16 + len(body), 3 << 8 | 2, 5, 0, 0) + body); s.recv(4096)
config(struct.pack("=HH", 8, 1) + struct.pack("!BBH", 1, 0, 2))
config(struct.pack("=HH", 9, 2) + struct.pack("!IBxxx", 64, 1))
print("holding", flush=True)
sys.stdin.read()`

// Root in a namespace that holds back what its clients send does not keep appfw from
// ending.
func TestAttachHeldBack(t *testing.T) {
	w := newWorld(t)
	_, pid := w.handmade()
	a := w.start("attach", "--pid", pid, "--publish", "8080:7000/udp")
	a.await(a.err, served)
	ns, err := netns.Open("/proc/" + pid + "/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	err = ns.Do(func() error { // nft(8) cannot write the target
		rules, err := nftables.New()
		if err != nil {
			return err
		}
		table := rules.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "mine"})
		out := rules.AddChain(&nftables.Chain{Table: table, Name: "out", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter})
		info := xt.Unknown{5, 0, 1, 0, 0, 0}
		rules.AddRule(&nftables.Rule{Table: table, Chain: out, Exprs: []expr.Any{&expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info}}})
		return rules.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
	holder := w.talk("nsenter", "-t", pid, "-n", "python3", "-c", holdBack)
	holder.await(holder.out, "holding\n")
	conn, err := w.DialFromHost("udp", "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 1000 {
		if _, err := conn.Write(make([]byte, 8000)); err != nil {
			t.Fatal(err)
		}
	}
	started := time.Now()
	if a.stop(); time.Since(started) > failFast {
		t.Errorf("it ended after %v", time.Since(started))
	}
}
