package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func init() {
	probes["dial"] = probeDial
	probes["udp"] = probeUDP
}

// probeDial connects to each address and says how that went, and how fast.
func probeDial(args []string) error {
	for _, address := range args {
		c, err := net.DialTimeout("tcp", address, 2*time.Second)
		if err != nil {
			fmt.Println(address, err)
			continue
		}
		fmt.Println(address, "connected")
		c.Close()
	}
	return nil
}

// probeUDP sends "ping" to each address by a connected socket, and prints the
// answer or the error.
func probeUDP(args []string) error {
	for _, address := range args {
		c, err := net.Dial("udp", address)
		if err != nil {
			return err
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		b := make([]byte, 65535)
		n := 0
		if _, err = c.Write([]byte("ping")); err == nil {
			n, err = c.Read(b)
		}
		fmt.Println(address, string(b[:n]), err)
		c.Close()
	}
	return nil
}

// connect(2) tells the app the truth about the destination.
func TestTruth(t *testing.T) {
	both(t, func(w *world) {
		silent := w.Host("11.22.0.30", "2a0d:aaaa::30")
		silent.Blackhole()
		out := w.ok(w.run(append([]string{"--allow", "any:1-60000", "--"}, probing("dial",
			"11.22.0.10:80", "[2a0d:aaaa::10]:80", // open
			"11.22.0.10:81", "[2a0d:aaaa::10]:81", // closed
			"11.22.0.99:80", "[2a0d:aaaa::99]:80", // nobody has it
			"11.22.0.30:80", "[2a0d:aaaa::30]:80", // says nothing
		)...)...))
		wants(t, out,
			"11.22.0.10:80 connected", "[2a0d:aaaa::10]:80 connected",
			"11.22.0.10:81 dial tcp 11.22.0.10:81: connect: connection refused",
			"[2a0d:aaaa::10]:81 dial tcp [2a0d:aaaa::10]:81: connect: connection refused",
			"11.22.0.99:80 dial tcp 11.22.0.99:80: connect: no route to host",
			"[2a0d:aaaa::99]:80 dial tcp [2a0d:aaaa::99]:80: connect: no route to host",
			"11.22.0.30:80 dial tcp 11.22.0.30:80: i/o timeout",
			"[2a0d:aaaa::30]:80 dial tcp [2a0d:aaaa::30]:80: i/o timeout")
	})
}

// Connections that the app has given up hold up no others, though their destinations
// may answer for two minutes yet.
func TestGivenUp(t *testing.T) {
	both(t, func(w *world) {
		w.Host("11.22.0.30").Blackhole()
		out := w.ok(w.run("-q", "--allow", "any:80", "--", "python3", "-c", `
import socket
for _ in range(3000):
    with socket.socket() as s:
        s.setblocking(False)
        s.connect_ex(("11.22.0.30", 80))
socket.create_connection(("11.22.0.10", 80), timeout=90)
print("connected")
`))
		wants(t, out, "connected")
	})
}

// Destinations that do not answer hold up no others, however many wait for them.
func TestStarved(t *testing.T) {
	both(t, func(w *world) {
		w.Host("11.22.0.30").Blackhole()
		out := w.ok(w.run("-q", "--allow", "any:80", "--", "python3", "-c", `
import socket
waiting = []
for _ in range(900):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex(("11.22.0.30", 80))
    waiting.append(s)
for _ in range(50):
    socket.create_connection(("11.22.0.10", 80), timeout=0.9).close()
print("connected")
`))
		wants(t, out, "connected")
	})
}

// Programs that share a namespace do not starve each other: neither by one destination nor
// by many.
func TestStarvedByOthers(t *testing.T) {
	w := newWorld(t)
	for i := range 8 {
		w.Host(fmt.Sprintf("11.22.0.%d", 30+i)).Blackhole()
	}
	name := fmt.Sprintf("appfw-test-%d", os.Getpid())
	s := w.start("netns", name, "--allow", "any:80")
	defer func() {
		s.stop()
		w.ok(w.appfw("netns", "--delete", name))
	}()
	s.await(s.err, "serving the namespace")
	as := func(uid string, script string) []string {
		return []string{"netns", "exec", name, "setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "/usr/bin/python3", "-c", script}
	}
	hostile := w.talk("ip", as("12345", `
import socket, sys
waiting = []
for i in range(900):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex(("11.22.0.%d" % (30 + i % 8), 80))
    waiting.append(s)
print("waiting", flush=True)
sys.stdin.readline()`)...)
	hostile.await(hostile.out, "waiting\n")
	out := w.ok(w.finish(w.Command(t.Context(), w.Root(), "ip", as("23456", `
import socket
for _ in range(50):
    socket.create_connection(("11.22.0.10", 80), timeout=0.9).close()
print("connected")`)...)))
	wants(t, out, "connected")
	hostile.end()
}

func TestUDP(t *testing.T) {
	both(t, func(w *world) {
		echo := func(c net.PacketConn, from net.Addr, b []byte) {
			_, _ = c.WriteTo([]byte("echo "+string(b)), from)
		}
		w.example.ServeUDP(7, echo)
		w.other.ServeUDP(7, echo)
		out := w.ok(w.run(append([]string{"--allow", "11.22.0.10/udp", "--allow", "2a0d:aaaa::10/udp", "--"}, probing("udp",
			"11.22.0.10:7", "[2a0d:aaaa::10]:7", // they answer
			"11.22.0.10:9", "[2a0d:aaaa::10]:9", // closed: the host says so
			"11.22.0.20:7", "[2a0d:aaaa::20]:7", // denied
		)...)...))
		wants(t, out,
			"11.22.0.10:7 echo ping <nil>", "[2a0d:aaaa::10]:7 echo ping <nil>",
			"11.22.0.10:9  read udp", "[2a0d:aaaa::10]:9  read udp", "connection refused",
			"no route to host", "permission denied") // ICMP and ICMPv6: administratively prohibited
		w.untouched(w.other)

		// ncat, by name, with a large datagram.
		large := `head -c 40000 /dev/zero | tr '\0' x | ncat -u --send-only example.com 7 && echo sent`
		wants(t, w.ok(w.run("--allow", "example.com", "--", "sh", "-c", large)), "sent")
	})
}

// Where the host forbids its users echo requests, appfw says so.
func TestPingForbidden(t *testing.T) {
	w := newWorld(t)
	w.ok(w.finish(w.Command(t.Context(), w.Root(), "sh", "-c", "echo 1 0 >/proc/sys/net/ipv4/ping_group_range")))
	w.user = w.Ordinary()
	r := w.run("--allow", "example.com", "--", "ping", "-4", "-c", "2", "-i", "0.2", "-W", "2", "example.com")
	w.denied(r, "appfw: denied icmp example.com: this host does not let its user send echo requests (appfw doctor says how)\n")
	if strings.Count(r.stderr, "appfw:") != 1 {
		t.Errorf("%s", r.stderr)
	}
	w.untouched(w.example)
}

func TestPing(t *testing.T) {
	both(t, func(w *world) {
		wants(t, w.ok(w.run("--allow", "example.com", "--", "ping", "-4", "-c", "3", "-i", "0.2", "-W", "2", "example.com")), "3 received")
		wants(t, w.ok(w.run("--allow", "example.com", "--", "ping", "-6", "-c", "1", "-W", "2", "-s", "3000", "example.com")), "1 received")
		r := w.run("--allow", "example.com", "--", "ping", "-4", "-c", "1", "-W", "2", "11.22.0.20")
		w.denied(r, "denied icmp 11.22.0.20: no rule allows it (to allow: --allow 11.22.0.20/icmp)")
		wants(t, r.stdout, "Packet filtered")
		w.denied(w.run("--allow", "example.com", "--", "ping", "-6", "-c", "1", "-W", "2", "2a0d:aaaa::20"), "denied icmp 2a0d:aaaa::20")
		w.denied(w.run("--allow", "example.com:80", "--", "ping", "-4", "-c", "1", "-W", "2", "example.com"), "denied icmp example.com")
		w.untouched(w.other)
	})
}

// The host's loopback is reached by rules that name it, and by no other way.
func TestHostLoopback(t *testing.T) {
	both(t, func(w *world) {
		for _, address := range []string{"127.0.0.1:5432", "[::1]:5432", "11.1.0.2:5433"} {
			l, err := w.ListenOnHost("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			go answer(l)
		}
		for _, address := range []string{"127.0.0.1:5432", "[::1]:5432"} {
			c, err := w.ListenPacketOnHost("udp", address)
			if err != nil {
				t.Fatal(err)
			}
			go echoPackets(c)
		}
		local := []string{"127.0.0.1:5432", "[::1]:5432"}
		out := w.ok(w.run(append([]string{"--allow", "localhost:5432", "--"}, probing("dial", append(local, "127.0.0.1:5433", "192.0.0.1:5432")...)...)...))
		wants(t, out, "127.0.0.1:5432 connected", "[::1]:5432 connected", "127.0.0.1:5433: connect: connection refused", "192.0.0.1:5432: connect: connection refused")
		out = w.ok(w.run(append([]string{"--allow", "localhost:5432", "--"}, probing("udp", local...)...)...))
		wants(t, out, "127.0.0.1:5432 echo ping", "[::1]:5432 echo ping")

		// Neither a rule for any address nor the default opens it.
		gateway := []string{"192.0.0.1:5432", "192.0.0.1:65533", "[fd61:7070:6677::1]:5432", "[fd61:7070:6677::1]:65533", "192.0.0.2:5432"}
		for _, policy := range [][]string{{"--allow", "any"}, {"--default", "allow"}, {"--allow", "0.0.0.0/0", "--allow", "::/0"}, {"--deny", "any/udp"}} {
			r := w.run(append(append(policy, "--"), probing("dial", append(local, gateway...)...)...)...)
			if strings.Contains(w.ok(r), "connected") {
				t.Errorf("%v: %s", policy, r.stdout)
			}
			wants(t, r.stderr, "denied tcp 127.0.0.1:5432: the host's loopback is reached only if a rule names it (to allow: --allow 127.0.0.1:5432)",
				"denied tcp 192.0.0.1:5432: it is an address of appfw's own")
		}

		// What the app itself listens on is the app's.
		own := `ncat -l 127.0.0.1 5432 --sh-exec 'echo mine' & while ! ncat --recv-only 127.0.0.1 5432; do :; done`
		wants(t, w.ok(w.run("--quiet", "--", "sh", "-c", own)), "mine")
	})
}

func answer(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "host\n")
		c.Close()
	}
}

func echoPackets(c net.PacketConn) {
	b := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		_, _ = c.WriteTo([]byte("echo "+string(b[:n])), from)
	}
}

// Server-first protocols are not held up by the look at the client's name.
func TestServerSpeaksFirst(t *testing.T) {
	both(t, func(w *world) {
		w.example.ServeTCP(25, func(c net.Conn) {
			_, _ = io.WriteString(c, "220 ready\r\n")
			b := make([]byte, 100)
			n, _ := c.Read(b)
			_, _ = c.Write(b[:n])
		})
		out := w.ok(w.run("--allow", "example.com:25", "--", "sh", "-c", `{ read -r line; echo "$line" >&2; } 2>&1 < /dev/null; printf 'EHLO me\r\n' | ncat example.com 25`))
		wants(t, out, "220 ready", "EHLO me")
	})
}
