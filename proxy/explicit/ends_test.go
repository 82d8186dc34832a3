package explicit

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/proxy/conntest"
	"appfw/proxy/journal"
	"appfw/proxy/relay"
)

// tunnels are the kinds of requests that become a connection like any other, and what
// is heard when they have.
var tunnels = map[string]string{
	"SOCKS5": open5 + granted5, "SOCKS4": grant4, "CONNECT": "HTTP/1.1 200 Connection established\r\n\r\n",
}

// Of the addresses of a name, the one that answers is connected to, and said to have
// been.
func TestRace(t *testing.T) {
	noLeak(t)
	at, _ := web1(t)
	listens := netip.MustParseAddrPort(at)
	conntest.Silent(t, "127.0.0.3", listens.Port())
	for _, tt := range []struct{ first, about string }{
		{"127.0.0.3", "does not answer"},
		{"127.0.0.4", "refuses"},
		{"127.255.255.255", "cannot be reached"},
	} {
		for what, request := range requests("many.example", listens.Port()) {
			x := newTenant(t, "allow many.example\nallow 127.0.0.0/8")
			x.dns.Set("many.example.", tt.first+" 127.0.0.1")
			s := newService(t, x.Proxy, nil)
			c := s.dial(t)
			send(t, c, request)
			if granted, ok := tunnels[what]; ok {
				talk(t, what, c, []turn{{"", granted}}, 0)
				send(t, c, requests("many.example", listens.Port())["GET"])
			}
			r := bufio.NewReader(c)
			if status, body := hear1(t, r); status != 200 || !strings.HasPrefix(body, "GET many.example:") {
				t.Errorf("%s, the first %s: %d %q", what, tt.about, status, body)
			}
			c.Close()
			e := x.ended(t, what)
			if e.Dst != listens || e.Name != "many.example" || e.Proto != "tcp" || e.End != journal.Done || e.Failed != "" || e.Sent == 0 || e.Received == 0 {
				t.Errorf("%s, the first %s: %+v", what, tt.about, e)
			}
			begun := x.All()[len(x.All())-2]
			if begun.Dst.Addr().String() != tt.first || begun.Flow != e.Flow {
				t.Errorf("%s, the first %s: it began as %+v", what, tt.about, begun)
			}
		}
	}
}

// What is denied is said once, to the client and in the record, and is no flow that
// ends.
func TestDenied(t *testing.T) {
	noLeak(t)
	for _, tt := range []struct{ host, what, why string }{
		{"denied.example", "tcp denied.example:80", "no rule allows it (to allow: --allow denied.example:80)"},
		{"a.example", "tcp a.example:80", "the rule deny 127.0.0.1:80 (p:3) denies it (to allow: --allow )"},
		{"127.0.0.1", "tcp 127.0.0.1:80", "the rule deny 127.0.0.1:80 (p:3) denies it (to allow: --allow )"},
	} {
		for what, request := range requests(tt.host, 80) {
			x := newTenant(t, "allow a.example\nallow 127.0.0.1\ndeny 127.0.0.1:80")
			s := newService(t, x.Proxy, nil)
			c := s.dial(t)
			send(t, c, request)
			heard, err := io.ReadAll(io.LimitReader(c, int64(len(open5+refuse5(2)))))
			if err != nil {
				t.Fatal(err)
			}
			switch what {
			case "SOCKS5":
				if string(heard) != open5+refuse5(2) {
					t.Errorf("%s: %q", what, heard)
				}
			case "SOCKS4":
				if string(heard) != refuse4 {
					t.Errorf("%s: %q", what, heard)
				}
			default:
				status, body := hear1(t, bufio.NewReader(io.MultiReader(strings.NewReader(string(heard)), c)))
				if want := "appfw: denied " + tt.what + ": " + tt.why + "\n"; status != 403 || body != want {
					t.Errorf("%s: %d %q, want %q", what, status, body, want)
				}
			}
			c.Close()
			s.stop()
			flows := x.All()
			if flows[0].Proto == "dns" {
				flows = flows[2:] // A and AAAA
			}
			if len(flows) != 1 {
				t.Fatalf("%s: %+v", what, flows)
			}
			if e := flows[0]; e.Flow == 0 || e.Closed || e.Allowed || e.Verdict.Allowed() || e.What() != tt.what || !strings.HasPrefix(tt.why, e.Verdict.Reason()+" (") || e.Client != c.LocalAddr().String() {
				t.Errorf("%s: %+v", what, e)
			}
		}
	}
}

// How flows end that were allowed. Each does once: newTenant looks at that.
func TestEnds(t *testing.T) {
	noLeak(t)
	// A server of HTTP that resets a connection that asks for that.
	web := server(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			request, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if strings.HasSuffix(request.RequestURI, "/reset") {
				relay.Reset(c)
				return
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	listens := netip.MustParseAddrPort(web)
	get := func(path string) string {
		return "GET http://" + web + path + " HTTP/1.1\r\nHost: " + web + "\r\n\r\n"
	}
	for _, tt := range []struct {
		about        string
		then         func(x *tenant, s *service, c *net.TCPConn)
		want, wantBy journal.End // of tunnels, and of forwarded requests
	}{
		{"the client closes", func(_ *tenant, _ *service, c *net.TCPConn) { c.Close() }, journal.Done, journal.Done},
		{"the client resets", func(_ *tenant, _ *service, c *net.TCPConn) { relay.Reset(c) }, journal.Broken, journal.Done},
		{"the server resets", func(_ *tenant, _ *service, c *net.TCPConn) { send(t, c, get("/reset")) }, journal.Broken, journal.Done},
		{"the policy denies it", func(x *tenant, _ *service, _ *net.TCPConn) { x.become(t, "deny 127.0.0.1"); x.Recheck() }, journal.Cut, journal.Cut},
		{"the service ends", func(_ *tenant, s *service, _ *net.TCPConn) { s.stop() }, journal.Stopped, journal.Stopped},
	} {
		for what, request := range requests("127.0.0.1", listens.Port()) {
			x := newTenant(t, "allow 127.0.0.1\ndeny b.example")
			s := newService(t, x.Proxy, nil)
			c := s.dial(t)
			r := bufio.NewReader(c)
			want := tt.wantBy
			send(t, c, request)
			if granted, ok := tunnels[what]; ok {
				want = tt.want
				b := make([]byte, len(granted))
				if _, err := io.ReadFull(r, b); err != nil || string(b) != granted {
					t.Fatalf("%s: %q, %v", what, b, err)
				}
				send(t, c, get("/"))
			}
			if status, _ := hear1(t, r); status != 200 {
				t.Fatalf("%s: %d", what, status)
			}
			if ends := x.Ends(); len(ends) > 0 {
				t.Errorf("%s has ended: %+v", what, ends)
			}
			tt.then(x, s, c)
			if e := x.ended(t, what); e.End != want || e.Failed != "" || e.Sent == 0 || e.Received == 0 {
				t.Errorf("%s, %s: %v %+v", tt.about, what, e.End, e)
			}
		}
	}
}

// A destination that refuses, and a name that is shown and denied.
func TestEndsBefore(t *testing.T) {
	noLeak(t)
	shut := netip.MustParseAddrPort(closedPort(t))
	for what, request := range requests("127.0.0.1", shut.Port()) {
		x := newTenant(t, "allow 127.0.0.1")
		s := newService(t, x.Proxy, nil)
		send(t, s.dial(t), request)
		if e := x.ended(t, what); e.End != journal.Failed || e.Failed != "connection refused" || e.Dst != shut {
			t.Errorf("%s: %+v", what, e)
		}
	}
	at, _ := counter(t, "127.0.0.1:0")
	listens := netip.MustParseAddrPort(at)
	for what, granted := range tunnels {
		x := newTenant(t, "allow 127.0.0.1\ndeny b.example")
		s := newService(t, x.Proxy, nil)
		c := s.dial(t)
		talk(t, what, c, []turn{{requests("127.0.0.1", listens.Port())[what], granted}}, 0)
		send(t, c, "GET / HTTP/1.1\r\nHost: b.example\r\n\r\n")
		receiveEnd(t, c, unix.ECONNRESET)
		if e := x.ended(t, what); e.End != journal.Cut || e.Sent > 0 {
			t.Errorf("%s: %+v", what, e)
		}
		if n := x.Denials(); n != 1 {
			t.Errorf("%s: %d denials", what, n)
		}
	}
}

// A policy that denies a flow while its destination is dialled ends that, and the
// client is told what is denied, and why.
func TestDeniedWhileDialled(t *testing.T) {
	noLeak(t)
	silent := conntest.Silent(t, "127.0.0.3", 0)
	for what, request := range requests("127.0.0.3", silent.Port()) {
		x := newTenant(t, "allow 127.0.0.3")
		s := newService(t, x.Proxy, nil)
		c := s.dial(t)
		send(t, c, request)
		eventually(t, "it is dialled", func() bool { return len(x.All()) == 1 })
		x.become(t, "deny 127.0.0.3")
		x.Recheck()
		switch what {
		case "SOCKS5":
			talk(t, what, c, []turn{{"", open5 + refuse5(2)}}, 0)
		case "SOCKS4":
			talk(t, what, c, []turn{{"", refuse4}}, 0)
		default:
			want := fmt.Sprintf("appfw: denied tcp %v: the rule deny 127.0.0.3 (p:1) denies it (to allow: --allow )\n", silent)
			if status, body := hear1(t, bufio.NewReader(c)); status != 403 || body != want {
				t.Errorf("%s: %d %q", what, status, body)
			}
		}
		if e := x.ended(t, what); e.End != journal.Cut {
			t.Errorf("%s: %+v", what, e)
		}
	}
}

// Where appfw itself has no descriptor left, the client hears of that, and not of a
// denial; and it is told the truth when there is one again.
func TestShortage(t *testing.T) {
	noLeak(t)
	at, _ := counter(t, "127.0.0.1:0")
	to := udpSocket(t, "127.0.0.1")
	_, raw := port(t, at)
	x := newTenant(t, "allow 127.0.0.1")
	s := newService(t, x.Proxy, nil)
	five, connect, get := s.dial(t), s.dial(t), s.dial(t)
	_, datagrams := s.associate(t, socksTo(3, "0.0.0.0", "\x00\x00"))
	client := udpSocket(t, "127.0.0.1")
	talk(t, "greeting", five, []turn{{hello5, open5}}, 0)
	send(t, connect, "CONNECT "+at+" HT")
	send(t, get, "GET http://"+at+"/ HT")
	eventually(t, "all have begun", func() bool { return s.half() == 3 })

	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	talk(t, "SOCKS5", five, []turn{{socksTo(1, "127.0.0.1", raw), refuse5(1)}}, 0)
	send(t, connect, "TP/1.1\r\n\r\n")
	send(t, get, "TP/1.1\r\nHost: x\r\n\r\n")
	for _, c := range []net.Conn{connect, get} {
		want := "appfw: connecting to " + at + " failed: "
		if status, body := hear1(t, bufio.NewReader(c)); status != 503 || !strings.HasPrefix(body, want) || !strings.Contains(body, "too many open files") {
			t.Errorf("%d %q", status, body)
		}
	}
	h := header(t, "127.0.0.1", to.LocalAddr())
	sendTo(t, client, datagrams, h+"lost")
	eventually(t, "all fail", func() bool { return len(x.Ends()) == 4 })
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	for _, e := range x.Ends() {
		if e.End != journal.Failed {
			t.Errorf("%+v", e)
		}
	}
	eventually(t, "a datagram passes", func() bool {
		sendTo(t, client, datagrams, h+"a")
		_ = to.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		n, err := to.Read(make([]byte, 9))
		return n == 1 && err == nil
	})
	talk(t, "after it", s.dial(t), []turn{{hello5, open5}, {socksTo(1, "127.0.0.1", raw), granted5}, {"ping", "ping"}}, 0)
}
