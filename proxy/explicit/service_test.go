package explicit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"appfw/proxy"
	"appfw/proxy/journal"
)

// Nothing is asked of a resolver that the policy denies for its name or its port.
func TestDeniedNamesAreAskedOfNobody(t *testing.T) {
	noLeak(t)
	x := newTenant(t, "allow a.example:443")
	s := newService(t, x.Proxy, nil)
	for _, request := range []string{socksTo(1, "denied.example", "\x01\xbb"), socksTo(1, "a.example", "\x00\x50"), socksTo(0xf0, "denied.example", "\x00\x00")} {
		talk(t, "SOCKS5", s.dial(t), []turn{{hello5, open5}, {request, refuse5(2)}}, 0)
	}
	talk(t, "SOCKS4a", s.dial(t), []turn{{"\x04\x01\x00\x50\x00\x00\x00\x01\x00a.example\x00", refuse4}}, 0)
	for _, target := range []string{"denied.example:443", "a.example:80"} {
		c := s.dial(t)
		if status, _ := ask1(t, c, "CONNECT "+target+" HTTP/1.1\r\n\r\n"); status != 403 {
			t.Errorf("%s: %d", target, status)
		}
	}
	if x.dns.Asked() != nil {
		t.Errorf("asked for: %q", x.dns.Asked())
	}
}

// A user is let in by his password alone, and has his own policy.
func TestUsers(t *testing.T) {
	noLeak(t)
	one, _ := counter(t, "127.0.0.1:0")
	two, _ := counter(t, "127.0.0.1:0")
	all, a, b := newTenant(t, ""), newTenant(t, "allow "+one), newTenant(t, "allow "+two)
	s := newService(t, all.Proxy, func(user, password string) *proxy.Proxy {
		return map[string]*proxy.Proxy{"a:x": a.Proxy, "b:y": b.Proxy}[user+":"+password]
	})
	_, rawOne := port(t, one)
	_, rawTwo := port(t, two)
	in := func(user, password string) turn {
		return turn{"\x01" + string([]byte{byte(len(user))}) + user + string([]byte{byte(len(password))}) + password, "\x01\x00"}
	}
	const method, yes = "\x05\x02\x00\x02", "\x05\x02"
	for what, turns := range map[string][]turn{
		"the one":        {{method, yes}, in("a", "x"), {socksTo(1, "127.0.0.1", rawOne), granted5}, {"ping", "ping"}},
		"the one's not":  {{method, yes}, in("a", "x"), {socksTo(1, "127.0.0.1", rawTwo), refuse5(2)}},
		"the other":      {{method, yes}, in("b", "y"), {socksTo(1, "127.0.0.1", rawTwo), granted5}, {"ping", "ping"}},
		"wrong password": {{method, yes}, {"\x01\x01a\x01y", "\x01\x01"}},
		"no password":    {{method, yes}, {"\x01\x01a\x00", "\x01\x01"}},
		"nobody":         {{method, yes}, {"\x01\x00\x00", "\x01\x01"}},
		"unknown":        {{method, yes}, {"\x01\x01c\x01x", "\x01\x01"}},
		"no credentials": {{"\x05\x01\x00", "\x05\xff"}},
		"SOCKS4":         {{"\x04\x01" + rawOne + "\x7f\x00\x00\x01a\x00", refuse4}},
	} {
		c := s.dial(t)
		talk(t, what, c, turns, 0)
		c.Close()
	}
	if !all.reported(func(e journal.Event) bool {
		return !e.Verdict.Allowed() && e.User == "c" && strings.HasPrefix(e.Client, "127.0.0.1:")
	}) {
		t.Error("an unknown user is not reported")
	}
}

// Of too many clients that say nothing, the first has to go, and a new one is
// served.
func TestHalfOpen(t *testing.T) {
	noLeak(t)
	at, _ := counter(t, "127.0.0.1:0")
	s := newService(t, newTenant(t, "allow "+at).Proxy, nil)
	first := s.dial(t)
	eventually(t, "the first is there", func() bool { return s.half() == 1 })
	for i := range maxGreeting {
		c := s.dial(t)
		if i%2 == 0 { // some have begun
			_, _ = io.WriteString(c, []string{"\x05", "\x04\x01", "GET "}[i%3])
		}
	}
	receiveEnd(t, first, unix.ECONNRESET)
	_, raw := port(t, at)
	talk(t, "one more", s.dial(t), []turn{{hello5, open5}, {socksTo(1, "127.0.0.1", raw), granted5}, {"ping", "ping"}}, 0)
	if n := s.half(); n > maxGreeting {
		t.Errorf("%d have not said what they want", n)
	}
	s.Finish()
	eventually(t, "they are gone", func() bool { return s.half() == 0 })
}

// A client whose first byte comes as HTTP ends is not waited for.
func TestHTTPEnded(t *testing.T) {
	noLeak(t)
	e := New(Config{Proxy: newTenant(t, "").Proxy})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	within(t, "Run", func() { e.Run(ended) })
	client, server := pair(t)
	send(t, client, "GET ")
	within(t, "the client", func() { e.Serve(t.Context(), server, proxy.Subject{}, listenBeside) })
}

// After another policy, what is denied by it is cut.
func TestRecheck(t *testing.T) {
	noLeak(t)
	at, count := counter(t, "127.0.0.1:0")
	text, raw := port(t, at)
	x := newTenant(t, "allow a.example\nallow 127.0.0.1")
	s := newService(t, x.Proxy, nil)
	tunnels := []net.Conn{}
	for _, turns := range [][]turn{
		{{hello5, open5}, {socksTo(1, "a.example", raw), granted5}, {"ping", "ping"}},
		{{hello5, open5}, {socksTo(1, "127.0.0.1", raw), granted5}, {"ping", "ping"}},
		{{"\x04\x01" + raw + "\x7f\x00\x00\x01\x00", grant4}, {"ping", "ping"}},
		{{"CONNECT a.example:" + text + " HTTP/1.1\r\n\r\n", "HTTP/1.1 200 Connection established\r\n\r\n"}, {"ping", "ping"}},
	} {
		c := s.dial(t)
		talk(t, "before", c, turns, 0)
		tunnels = append(tunnels, c)
	}
	x.Recheck()
	for _, c := range tunnels {
		talk(t, "under the same policy", c, []turn{{"ping", "ping"}}, 0)
	}
	x.become(t, "deny a.example\ndeny 127.0.0.1")
	x.Recheck()
	for _, c := range tunnels {
		receiveEnd(t, c, unix.ECONNRESET)
	}
	before := count.Load()
	talk(t, "after", s.dial(t), []turn{{hello5, open5}, {socksTo(1, "a.example", raw), refuse5(2)}}, 0)
	if count.Load() != before {
		t.Error("a denied destination was reached")
	}
}

// Clients that the policy does not admit are reset, and that is reported.
func TestDeniedClients(t *testing.T) {
	noLeak(t)
	x := newTenant(t, "allow any\ndeny-from 127.0.0.0/8")
	s := newService(t, x.Proxy, nil)
	c, err := net.Dial("tcp", s.addr)
	if err == nil {
		receiveEnd(t, c, unix.ECONNRESET)
		c.Close()
	} else if !errors.Is(err, unix.ECONNRESET) {
		t.Error(err)
	}
	eventually(t, "a report", func() bool {
		return x.reported(func(e journal.Event) bool {
			return !e.Verdict.Allowed() && e.Ingress && strings.HasPrefix(e.Client, "127.0.0.1:") && e.Dst.Addr().String() == "127.0.0.1" && strings.HasSuffix(s.addr, fmt.Sprint(":", e.Dst.Port()))
		})
	})
}

// A user who may not use the proxy any more loses what he has.
func TestUserLeaves(t *testing.T) {
	noLeak(t)
	at, _ := counter(t, "127.0.0.1:0")
	_, raw := port(t, at)
	all, a := newTenant(t, ""), newTenant(t, "allow 127.0.0.1")
	var gone atomic.Bool
	s := newService(t, all.Proxy, func(string, string) *proxy.Proxy {
		if gone.Load() {
			return nil
		}
		return a.Proxy
	})
	c := s.dial(t)
	talk(t, "before", c, []turn{{"\x05\x01\x02", "\x05\x02"}, {"\x01\x01u\x01p", "\x01\x00"}, {socksTo(1, "127.0.0.1", raw), granted5}, {"ping", "ping"}}, 0)
	a.Recheck()
	talk(t, "the same user", c, []turn{{"ping", "ping"}}, 0)
	gone.Store(true)
	a.Recheck()
	receiveEnd(t, c, unix.ECONNRESET)
	if e := a.ended(t, "it"); e.End != journal.Cut || e.User != "u" {
		t.Errorf("%+v", e)
	}
}

// At the end of a service, what is kept for further requests has ended when its client
// has.
func TestServeEndsAll(t *testing.T) {
	noLeak(t)
	at, _ := web1(t)
	x := newTenant(t, "allow 127.0.0.1")
	s := New(Config{Proxy: x.Proxy})
	ctx, cancel := context.WithCancel(t.Context())
	running := make(chan struct{})
	go func() { s.Run(ctx); close(running) }()
	for i := range 50 {
		client, server := pair(t)
		served := make(chan struct{})
		go func() { s.Serve(ctx, server, proxy.Subject{}, listenBeside); close(served) }()
		if status, _ := ask1(t, client, "GET http://"+at+"/ HTTP/1.1\r\nHost: x\r\n\r\n"); status != 200 {
			t.Error(status)
		}
		if len(x.Ends()) != i {
			t.Error("the connection has not been kept")
		}
		client.Close()
		within(t, "the client", func() { <-served })
		if len(x.Ends()) != i+1 {
			t.Error("the connection has not ended with the client")
		}
	}
	cancel()
	within(t, "Run", func() { <-running })
}
