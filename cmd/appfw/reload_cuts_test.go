package main

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/testdata/internet"
)

// talkFlow is a flow of an app that talks, before and after a reload.
type talkFlow struct {
	id, open, say, said string
	cut                 string // what is heard of it; "" if it goes on
}

// talkFlows are of all kinds that there are.
var talkFlows = []talkFlow{
	{"tcp", "tcp 11.22.0.20:7", "say tcp word", "word", "ECONNRESET"},
	{"tcp6", "tcp [2a0d:aaaa::20]:7", "say tcp6 word", "word", "ECONNRESET"},
	{"idle", "tcp other.example:7", "", "", "ECONNRESET"}, // it never said anything
	{"bulk", "tcp 11.22.0.20:9", "", "", "ECONNRESET"},
	{"loopback", "tcp 127.0.0.1:5432", "say loopback word", "word", "ECONNRESET"},
	{"udp", "udp 11.22.0.20:7", "say udp word", "word", "EHOSTUNREACH"},
	{"udp6", "udp [2a0d:aaaa::20]:7", "say udp6 word", "word", "EACCES"},
	{"tls", "tls example.com:8443 example.com", "say tls word", "word", "ECONNRESET"},
	{"http", "tcp example.com:80", "get http example.com", "hello from example.com", "ECONNRESET"},

	{"tls-on", "tls shared.example:8443 shared.example", "say tls-on word", "word", ""},
	{"http-on", "tcp example.com:80", "get http-on shared.example", "hello from shared.example", ""},
	{"silent-on", "tls example.com:8443 shared.example", "", "", ""},
	{"tcp-on", "tcp 11.22.0.30:7", "say tcp-on word", "word", ""},
	{"udp-on", "udp 11.22.0.30:7", "say udp-on word", "word", ""},
}

// talkers are what talkFlows lead to. How the connections to port 7 of other.example
// ended is sent to cut.
func (w *world) talkers() (cut <-chan error) {
	w.t.Helper()
	ends := make(chan error, 10)
	byAddress := w.Host("11.22.0.30")
	_, _, cert := w.Certificate("example.com", "shared.example")
	w.example.ServeTCP(8443, func(c net.Conn) {
		echo(tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}}))
	})
	w.other.ServeTCP(7, func(c net.Conn) {
		_, err := io.Copy(c, c)
		ends <- err
	})
	w.other.ServeTCP(9, func(c net.Conn) {
		for _, err := c.Write(make([]byte, 1<<20)); err == nil; {
			_, err = c.Write(make([]byte, 1<<20))
		}
	})
	loopback, err := w.ListenOnHost("tcp", "127.0.0.1:5432")
	if err != nil {
		w.t.Fatal(err)
	}
	go func() {
		if c, err := loopback.Accept(); err == nil {
			echo(c)
		}
	}()
	byAddress.ServeTCP(7, echo)
	for _, h := range []*internet.Host{w.other, byAddress} {
		h.ServeUDP(7, func(c net.PacketConn, from net.Addr, b []byte) { _, _ = c.WriteTo(b, from) })
	}
	return ends
}

// What the new policy denies is cut, at once and on both sides; what it allows
// goes on.
func TestReloadCuts(t *testing.T) {
	asAnother(t, func(w *world, flags []string) {
		cut := w.talkers()
		log := filepath.Join(w.user.Home, "log.json")
		policy := w.write("a.policy", "allow example.com\nallow shared.example\nallow other.example\nallow 11.22.0.30\nallow localhost:5432\n")
		s := w.session(append(append(flags, "--policy", policy, "--log", log, "--"), probing("talk")...)...)
		wants(t, s.ask("open nobody tls shared.example:8443 shared.example"), "open") // so that example.com is not the only name there
		s.ask("open first tcp other.example:7")                                       // looks it up
		wants(t, s.ask("open nobody tcp example.com:443"), "open")                    // likewise
		for _, f := range talkFlows {
			if got := s.ask("open " + f.id + " " + f.open); got != "open" {
				t.Fatalf("open %s: %s", f.id, got)
			}
			if f.say != "" {
				if got := s.ask(f.say); got != f.said {
					t.Fatalf("%s: %q", f.say, got)
				}
			}
		}

		w.write("a.policy", "allow shared.example\nallow 11.22.0.30\n")
		s.reload()
		for _, f := range talkFlows {
			switch {
			case f.cut != "":
				if got := s.ask("hear " + f.id); got != f.cut {
					t.Errorf("%s: %q, not %s", f.id, got, f.cut)
				}
			case f.say != "":
				if got := s.ask(f.say); got != f.said {
					t.Errorf("%s after: %q", f.say, got)
				}
			}
		}
		for range 4 { // and the first one
			select {
			case err := <-cut:
				if !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("the destination saw %v, not a reset", err)
				}
			case <-time.After(patience):
				t.Fatal("a connection was not cut at the destination")
			}
		}
		s.fares("what was looked up before", s.answer, false, []check{
			{"open again tcp 11.22.0.20:7", "^ECONNREFUSED$"},
			{"open again tcp [2a0d:aaaa::20]:7", "^ECONNREFUSED$"},
			{"open again tcp 11.22.0.10:80", "^open$"},
			{"open again tcp 11.22.0.30:7", "^open$"},
		})
		s.steps(unix.SIGHUP, s.answer, []step{{"allowed again", "", "allow other.example\n", readAnew, []check{
			{"hear tls-on", "^ECONNRESET$"},
			{"open again tcp 11.22.0.20:7", "^open$"}, // it was given out for that name
		}}})
		s.end()
		s.loggedCuts(log)
		s.says("appfw: denied tcp other.example:7: no rule allows it (to allow: allow other.example:7 in ",
			"appfw: denied udp other.example:7: no rule allows it", "appfw: denied tcp example.com:8443: no rule allows it", "appfw: denied tcp example.com:80: no rule allows it")
	})
}

// loggedCuts fails the test unless the log has each cut, and an end of whatever was
// allowed.
func (s *session) loggedCuts(log string) {
	s.t.Helper()
	records, _ := s.log(log)
	count := func(event, verdict, proto, name, addr string, port uint16) (n int) {
		for _, r := range records {
			if r.Event == event && r.Verdict == verdict && r.Proto == proto && r.Name == name && r.Addr == addr && r.Port == port {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		proto, name, addr string
		port              uint16
		cut, refused      int
	}{
		{"udp", "other.example", "11.22.0.20", 7, 1, 0},
		{"udp", "other.example", "2a0d:aaaa::20", 7, 1, 0},
		{"tcp", "other.example", "2a0d:aaaa::20", 7, 1, 1},
	} {
		if n := count("decision", "deny", c.proto, c.name, c.addr, c.port); n < c.cut+c.refused || c.proto == "udp" && n != c.cut {
			s.t.Errorf("%+v: %d denials", c, n)
		}
		if n, allowed := count("close", "allow", c.proto, c.name, c.addr, c.port), count("decision", "allow", c.proto, c.name, c.addr, c.port); n == 0 || n != allowed {
			s.t.Errorf("%+v: %d ends of %d", c, n, allowed)
		}
	}
}

// A connection that is still being made is denied as one that is open is: no
// more goes to its destination.
func TestReloadCutsConnecting(t *testing.T) {
	w := newWorld(t)
	w.user = w.Ordinary()
	h := w.Host("11.22.0.30").Name("dark.example")
	h.Blackhole()
	policy := w.write("a.policy", "allow dark.example\n")
	s := w.session(append([]string{"--policy", policy, "--"}, probing("talk")...)...)
	s.tell("open c tcp dark.example:80")
	for started := time.Now(); w.PacketsTo(h.Addr4(), unix.IPPROTO_TCP, 80) == 0; {
		if time.Since(started) > patience {
			t.Fatal("it does not connect")
		}
	}
	w.write("a.policy", "allow example.com\n")
	s.reload()
	if got := s.await(s.out, `^(.*)\n`)[1]; got != "ECONNREFUSED" {
		t.Errorf("%s", got)
	}
}
