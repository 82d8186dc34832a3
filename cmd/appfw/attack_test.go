package main

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
