package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// onHost runs a command of root's on the simulated host.
func (w *world) onHost(args ...string) {
	w.t.Helper()
	c := w.Command(w.t.Context(), w.Root(), args[0], args[1:]...)
	if out, err := c.CombinedOutput(); err != nil {
		w.t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// shout is a Python program that sends a datagram to an address and port, as a broadcast
// if need be, and tells how that went.
const shout = `
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.settimeout(3)
try:
    s.connect((host, port))
    s.send(b"secret")
    print(s.recv(100))
except OSError as e:
    print(type(e).__name__, e.errno)
`

// associated is a Python program that sends a datagram to an address by SOCKS5's UDP
// ASSOCIATE (RFC 1928, 7).
const associated = `
import socket, struct, sys
t = socket.create_connection(("192.0.0.1", 1080), 3)
t.sendall(b"\x05\x01\x00"); assert t.recv(2) == b"\x05\x00"
t.sendall(b"\x05\x03\x00\x01\0\0\0\0\0\0")
answer = t.recv(10)
assert answer[1] == 0, answer
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.settimeout(0.5)
u.sendto(b"\0\0\0\x01" + socket.inet_aton(sys.argv[1]) + struct.pack(">H", 9) + b"secret", (socket.inet_ntoa(answer[4:8]), struct.unpack(">H", answer[8:10])[0]))
try:
    print(u.recv(100))
except OSError as e:
    print(type(e).__name__)
`

// Only what the host's routes call unicast leaves: an address that is allowed may be that
// of all hosts of a network, the denied ones and this host among them.
func TestOnlyUnicastLeaves(t *testing.T) {
	both(t, func(w *world) {
		// A second network of the host's, whose broadcast address no rule looks like.
		w.onHost("ip", "addr", "add", "10.7.0.1/25", "broadcast", "10.7.0.127", "dev", "eth0")
		w.onHost("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1") // for the anycast address of the subnet's routers
		trap, err := w.ListenPacketOnHost("udp", "[::]:9")          // hears IPv4, too
		if err != nil {
			t.Fatal(err)
		}
		defer trap.Close()
		w.Zone().Set("everybody.example 60 IN A 11.1.0.255")
		for _, c := range []struct {
			rules []string
			to    string
		}{
			{[]string{"--allow", "11.1.0.0/24", "--deny", "11.1.0.13"}, "11.1.0.255"},
			{[]string{"--allow", "11.1.0.255"}, "11.1.0.255"}, // it is not one host, whatever rules say
			{[]string{"--allow", "any"}, "11.1.0.255"},
			{[]string{"--default", "allow"}, "11.1.0.255"},
			{[]string{"--allow", "10.7.0.64/26"}, "10.7.0.127"},
			{[]string{"--allow", "10.7.0.0/24"}, "10.7.0.127"},
			{[]string{"--allow", "any"}, "255.255.255.255"},
			{[]string{"--allow", "any"}, "224.0.0.1"},
			{[]string{"--allow", "any"}, "ff0e::1"},
			{[]string{"--allow", "2a0d:1::/64"}, "2a0d:1::"},
			{[]string{"--allow", "everybody.example", "--allow", "11.1.0.0/24"}, "everybody.example"},
		} {
			started := time.Now()
			r := w.run(append(c.rules, "--", "/usr/bin/python3", "-c", shout, c.to, "9")...)
			if said := w.ok(r); said == "" || said[0] == 'b' || time.Since(started) > failFast {
				t.Errorf("%v to %s: %q after %v", c.rules, c.to, said, time.Since(started))
			}
			if !strings.Contains(r.stderr, "appfw: denied ") {
				t.Errorf("%v to %s: %q, and %q", c.rules, c.to, r.stdout, r.stderr)
			}
		}
		// By the explicit proxy, too.
		r := w.run("--allow", "11.1.0.0/24", "--", "/usr/bin/python3", "-c", associated, "11.1.0.255")
		w.ok(r)
		wants(t, r.stderr, "broadcast addresses are not carried")
		for _, a := range []string{"11.1.0.255", "10.7.0.127", "255.255.255.255", "224.0.0.1", "ff0e::1", "2a0d:1::"} {
			if n := w.Packets(netip.MustParseAddr(a)); n != 0 {
				t.Errorf("%d packets arrived at %s", n, a)
			}
		}
		// What arrived before the host's own word would be heard before it.
		me, err := w.DialFromHost("udp", "127.0.0.1:9")
		if err != nil {
			t.Fatal(err)
		}
		defer me.Close()
		if _, err := me.Write([]byte("me")); err != nil {
			t.Fatal(err)
		}
		heard := make([]byte, 100)
		if n, from, err := trap.ReadFrom(heard); err != nil || string(heard[:n]) != "me" {
			t.Errorf("the host heard %q of %v (%v)", heard[:n], from, err)
		}
	})
}
