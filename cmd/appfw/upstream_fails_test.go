package main

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Nothing goes direct while the proxy is down, programs fail at once, and all is
// well when it is up again.
func TestUpstreamDown(t *testing.T) {
	both(t, func(w *world) {
		p := w.proxied()
		s := w.session("--upstream", viaSocks, "--allow", "example.com", "--allow", "11.22.0.10", "--", "sh")
		dials := strings.Join(probing("dial", "example.com:80", "11.22.0.10:80"), " ")
		down := func() {
			t.Helper()
			out := s.ok(dials)
			if strings.Count(out, "network is unreachable") != 2 {
				t.Errorf("while it is down: %s", out)
			}
			for _, dial := range []string{"curl -sS http://example.com", "curl -sS http://11.22.0.10", "curl -sS https://example.com"} {
				if out, ok := s.run("timeout 1 " + dial); ok || !strings.Contains(out, "curl: (7)") {
					t.Errorf("%s: %q", dial, out)
				}
			}
			p.indirect()
		}
		down()
		s.says("appfw: denied tcp example.com:80: the upstream failed: socks5h://11.22.0.60:1080: connect: connection refused\n")
		for range 2 {
			proxy := p.start(viaSocks)
			wants(t, s.ok("curl -sS http://example.com"), "hello from example.com")
			wants(t, s.ok("curl -sS http://11.22.0.10"), "hello from 11.22.0.10")
			if err := proxy.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = proxy.Wait()
			down()
		}
	})
}

// An upstream that is not what it should be, or wants another password, is told of.
func TestUpstreamWrong(t *testing.T) {
	w := newWorld(t)
	p := w.proxied(viaDante, viaHTTP, viaSocks)
	for upstream, want := range map[string]string{
		"socks5h://me:falsch@11.22.0.60:1081": "denied tcp example.com:80: the upstream failed: socks5h://11.22.0.60:1081: it does not take the user and password",
		"http://me:falsch@11.22.0.60:8080":    "denied tcp example.com:80: the upstream failed: http://11.22.0.60:8080: it does not take the user and password",
		"http://me:falsch@11.22.0.60:1080":    "the upstream failed: http://11.22.0.60:1080: ",
		"https://me:falsch@11.22.0.60:1080":   "the upstream failed: https://11.22.0.60:1080: ",
		"http://me:falsch@11.22.0.60:9":       "the upstream failed: http://11.22.0.60:9: connect: connection refused",
	} {
		r := w.run("--upstream", upstream, "--allow", "example.com", "--", "curl", "-sS", "http://example.com")
		w.denied(r, want)
		if strings.Contains(r.stderr, "falsch") {
			t.Errorf("the password shows: %s", r.stderr)
		}
	}
	for upstream, want := range map[string]string{
		"me:falsch@h:1":               "appfw: --upstream: it has no scheme",
		"ftp://me:falsch@h:1":         `appfw: --upstream: "ftp" is no scheme`,
		"a=socks5h://me:falsch@h:x":   "appfw: --upstream: the URL cannot be understood",
		"Direct=socks5h://me:fal@h:1": "appfw: --upstream: \"Direct\": the name of an upstream",
	} {
		r := w.run("--upstream", upstream, "--", "true")
		if r.code != exitFailed || !strings.Contains(r.stderr, want) || strings.Contains(r.stderr, "falsch") {
			t.Errorf("%s: code %d: %s", upstream, r.code, r.stderr)
		}
	}
	p.indirect()
}

// A policy that names another upstream cuts what goes by the old one.
func TestUpstreamReload(t *testing.T) {
	asAnother(t, func(w *world, flags []string) {
		p := w.proxied(viaSocks, viaHTTP, viaDante)
		w.example.ServeTCP(7, func(c net.Conn) { _, _ = io.Copy(c, c) })
		policy := w.write("a.policy", "upstream "+viaSocks+"\nallow example.com\n")
		s := w.session(append(append(flags, "--policy", policy, "--"), probing("talk")...)...)
		talk := func(id string) {
			t.Helper()
			if out := s.ask("open " + id + " tcp example.com:7"); out != "open" {
				t.Fatalf("open: %s", out)
			}
			if out := s.ask("say " + id + " hello"); out != "hello" {
				t.Fatalf("say: %s", out)
			}
		}
		at := func(port uint16) int { return w.PacketsTo(p.host.Addr4(), unix.IPPROTO_TCP, port) }
		talk("1")
		// What does not touch the upstream leaves it.
		w.write("a.policy", "upstream "+viaSocks+"\nallow example.com\nallow other.example\n")
		s.reload()
		if out := s.ask("say 1 again"); out != "again" {
			t.Errorf("say: %s", out)
		}
		for i, lines := range []string{"upstream " + viaHTTP + "\nallow example.com\n", "upstream x=" + viaDante + "\nallow example.com via=x\n"} {
			w.write("a.policy", lines)
			s.reload()
			if out := s.ask(fmt.Sprintf("hear %d", i+1)); out != "ECONNRESET" {
				t.Errorf("after %q: %s", lines, out)
			}
			s.says("the policy has changed, and it would go out another way now")
			before := at([]uint16{8080, 1081}[i])
			talk(fmt.Sprint(i + 2))
			if at([]uint16{8080, 1081}[i]) == before {
				t.Errorf("not by the upstream of %q", lines)
			}
		}
		p.indirect()
		// And directly: then it is resolved here.
		w.write("a.policy", "allow example.com\n")
		s.reload()
		if out := s.ask("hear 3"); out != "ECONNRESET" {
			t.Error(out)
		}
		talk("4")
		if !w.Zone().Asked("example.com") {
			t.Error("not resolved here")
		}
	})
}

// A flow that goes out directly to a name that has an upstream at other ports is cut
// when its address is denied, which the program never saw.
func TestUpstreamDirectDenied(t *testing.T) {
	asAnother(t, func(w *world, flags []string) {
		w.proxied(viaSocks)
		w.example.ServeTCP(7, func(c net.Conn) { _, _ = io.Copy(c, c) })
		lines := "upstream x=" + viaSocks + "\nallow example.com:80 via=x\nallow example.com:7\n"
		policy := w.write("a.policy", lines)
		s := w.session(append(append(flags, "--policy", policy, "--"), probing("talk")...)...)
		s.fares("before", s.answer, false, []check{{"open 1 tcp example.com:7", "^open$"}})
		s.steps(unix.SIGHUP, s.answer, []step{
			{"another address denied", "", lines + "deny 11.22.0.99\n", readAnew, []check{{"say 1 hello", "^hello$"}}},
			{"its address denied", "", lines + "deny 11.22.0.10\ndeny 2a0d:aaaa::10\n", readAnew, []check{{"hear 1", "^ECONNRESET$"}}},
		})
	})
}
