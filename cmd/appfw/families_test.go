package main

import (
	"strings"
	"testing"
)

// Programs that try the first address alone reach what they reach without appfw, also
// where the host has one family.
func TestOneFamily(t *testing.T) {
	const first = `
import socket, sys
for a in socket.getaddrinfo("example.com", 80, type=socket.SOCK_STREAM)[:1]:
    s = socket.socket(a[0])
    s.connect(a[4])
    print("connected to", a[4][0])
`
	for family, want := range map[string]string{"-4": "2a0d:aaaa::10", "-6": "11.22.0.10"} {
		w := newWorld(t)
		// A route that leads nowhere is no way either.
		w.ok(w.finish(w.Command(t.Context(), w.Root(), "sh", "-ec", `ip "$1" route del default; ip "$1" route add unreachable default`, "sh", family)))
		w.SetFile("/etc/resolv.conf", "nameserver "+w.Resolver4().String()+"\nnameserver "+w.Resolver6().String()+"\n")
		for range 2 {
			if out := w.asBare([]string{"--allow", "example.com"}, "python3", "-c", first); out != "connected to "+want+"\n" {
				t.Errorf("without ip %s: %s", family, out)
			}
			w.user = w.Ordinary()
		}
	}
}

// A server of the program's that listens at one address is not told as a port of the
// host's.
func TestOwnServerElsewhere(t *testing.T) {
	both(t, func(w *world) {
		const try = `
import socket
with socket.create_server(("127.0.0.1", 8000)):
    for port in 8000, 8001:
        try: socket.create_connection(("::1", port))
        except OSError as e: print(port, e.strerror)
    print(socket.create_connection(("127.0.0.1", 8000)).getpeername())
`
		r := w.run("--allow", "example.com", "--", "python3", "-c", try)
		wants(t, w.ok(r), "8000 Connection refused", "8001 Connection refused", "('127.0.0.1', 8000)")
		wants(t, r.stderr, "denied tcp [::1]:8001: the host's loopback is reached only if a rule names it (to allow: --allow [::1]:8001)")
		if !strings.Contains(r.stderr, "the program itself listens at that port at another address only\n") || strings.Contains(r.stderr, "--allow [::1]:8000") {
			t.Error(r.stderr)
		}
	})
}
