package explicit

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"appfw/policy"
	"appfw/proxy"
	"appfw/proxy/journal"
	"appfw/proxy/sniff"
)

// ask1 makes a request, and returns the status and the body of its response.
func ask1(t testing.TB, c net.Conn, request string) (status int, body string) {
	t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	return hear1(t, bufio.NewReader(c))
}

func hear1(t testing.TB, r *bufio.Reader) (status int, body string) {
	t.Helper()
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(b)
}

// web1 is a server that says what it was asked for, and counts its connections.
func web1(t testing.TB) (at string, conns *atomic.Int32) {
	t.Helper()
	conns = new(atomic.Int32)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		for name := range r.Header {
			if strings.HasPrefix(name, "Proxy-") {
				t.Errorf("it was sent on: %s", name)
			}
		}
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.Host, r.RequestURI, body)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			conns.Add(1)
		case http.StateClosed:
			conns.Add(-1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), conns
}

func TestHTTP(t *testing.T) {
	noLeak(t)
	at, _ := web1(t)
	text, _ := port(t, at)
	shut := closedPort(t)
	s := newService(t, newTenant(t, "allow 127.0.0.1\nallow a.example\nallow broken.example\ndeny 127.0.0.1:1").Proxy, nil)
	get := func(url, fields string) string { return "GET " + url + " HTTP/1.1\r\n" + fields + "\r\n" }
	for _, tt := range []struct {
		about, request string
		status         int
		body           string // part of it
	}{
		{"a name", get("http://a.example:"+text+"/x?y=%zz;1", "Host: a.example\r\n"), 200, "GET a.example:" + text + " /x?y=%zz;1"},
		{"an address", get("http://"+at+"/", "Host: x\r\n"), 200, "GET " + at + " /"},
		{"another host in Host", get("http://a.example:"+text+"/", "Host: denied.example\r\n"), 200, "GET a.example:" + text + " /"},
		{"no Host", "GET http://a.example:" + text + "/ HTTP/1.0\r\n\r\n", 200, "GET a.example:" + text + " /"},
		{"userinfo", get("http://denied.example:80@a.example:"+text+"/", "Host: x\r\n"), 200, "GET a.example:" + text + " /"},
		{"a name as userinfo", get("http://a.example:"+text+"@denied.example/", "Host: x\r\n"), 403, "denied tcp denied.example:80"},
		{"capitals", get("HTTP://A.EXAMPLE.:"+text+"/", "Host: x\r\n"), 200, "GET A.EXAMPLE.:" + text + " /"},
		{"a mapped address", get("http://[::ffff:127.0.0.1]:"+text+"/", "Host: x\r\n"), 200, "/"},
		{"a zone", get("http://[fe80::1%25lo]:"+text+"/", "Host: x\r\n"), 403, "zone"},
		{"another method", "BREW http://a.example:" + text + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 200, "BREW a.example:" + text + " / abc"},
		{"chunks", "POST http://a.example:" + text + "/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, "/ abc"},
		{"chunks and a length", "POST http://a.example:" + text + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, "/ abc"},
		{"two lengths", "POST http://a.example:" + text + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400, ""},
		{"another coding", "POST http://a.example:" + text + "/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, ""},
		{"two hosts", get("http://a.example:"+text+"/", "Host: x\r\nHost: y\r\n"), 400, ""},
		{"what asks for a switch to HTTP/2", get("http://a.example:"+text+"/", "Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n"), 200, "GET"},
		{"denied", get("http://denied.example/", "Host: x\r\n"), 403, "appfw: denied tcp denied.example:80: no rule allows it (to allow: --allow denied.example:80)\n"},
		{"denied address", get("http://127.0.0.2/", "Host: x\r\n"), 403, "denied tcp 127.0.0.2:80"},
		{"denied port", get("http://127.0.0.1:1/", "Host: x\r\n"), 403, "the rule deny 127.0.0.1:1 (p:4) denies it"},
		{"no such port", get("http://a.example:65536/", "Host: x\r\n"), 502, "is no port"},
		{"port 0", get("http://a.example:0/", "Host: x\r\n"), 403, "there is no port 0"},
		{"nobody there", get("http://"+shut+"/", "Host: x\r\n"), 502, "connection refused"},
		{"no resolver", get("http://broken.example/", "Host: x\r\n"), 502, "broken.example"},
		{"https:", get("https://a.example/", "Host: x\r\n"), 501, "there is CONNECT"},
		{"ftp:", get("ftp://a.example/", "Host: x\r\n"), 501, "there is CONNECT"},
		{"no host", get("/", "Host: a.example\r\n"), 400, "this is a proxy"},
		{"an empty host", get("http:///", "Host: a.example\r\n"), 400, "this is a proxy"},
		{"*", "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "this is a proxy"},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "this is a proxy"},
		{"no HTTP", "EHLO x\r\n\r\n", 400, ""},
		{"TLS", "\x16\x03\x01\x00\x05hello\r\n\r\n", 400, ""},
		{"a long head", get("http://a.example/", "X: "+strings.Repeat("x", sniff.MaxHead+8<<10)+"\r\n"), 431, ""},
		{"a long method", strings.Repeat("X", sniff.MaxHead+8<<10) + " / HTTP/1.1\r\n\r\n", 431, ""},
		{"CONNECT, denied", "CONNECT denied.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", 403, "denied tcp denied.example:443: no rule allows it (to allow: --allow denied.example:443)"},
		{"CONNECT to a path", "CONNECT /a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", 403, "not the name of a host"},
		{"CONNECT without a port", "CONNECT a.example HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, ""},
		{"CONNECT with userinfo", "CONNECT a.example@denied.example:443 HTTP/1.1\r\n\r\n", 403, "not the name of a host"},
		{"CONNECT to port 0", "CONNECT a.example:0 HTTP/1.1\r\n\r\n", 403, "there is no port 0"},
		{"CONNECT to a signed port", "CONNECT a.example:+80 HTTP/1.1\r\n\r\n", 400, ""},
		{"CONNECT to a zone", "CONNECT [fe80::1%lo]:80 HTTP/1.1\r\n\r\n", 400, ""},
		{"CONNECT, nobody there", "CONNECT " + shut + " HTTP/1.1\r\n\r\n", 502, "connection refused"},
	} {
		c := s.dial(t)
		go func() { _, _ = io.WriteString(c, tt.request) }() // some is too much to be read
		if status, body := hear1(t, bufio.NewReader(c)); status != tt.status || !strings.Contains(body, tt.body) {
			t.Errorf("%s: %d %q; want %d %q", tt.about, status, body, tt.status, tt.body)
		}
		c.Close()
	}
}

// A request that breaks off anywhere ends, and one that comes byte by byte is like
// another.
func TestHTTPInPieces(t *testing.T) {
	noLeak(t)
	at, _ := web1(t)
	s := newService(t, newTenant(t, "allow 127.0.0.1").Proxy, nil)
	for _, request := range []string{
		"POST http://" + at + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
		"CONNECT " + at + " HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\n\r\n",
	} {
		for n := range len(request) {
			c := s.dial(t)
			send(t, c, request[:n])
			_ = c.CloseWrite()
			within(t, "a request that breaks off", func() { _, _ = io.Copy(io.Discard, c) })
			c.Close()
		}
		c := s.dial(t)
		for i := range len(request) {
			send(t, c, request[i:i+1])
		}
		if status, _ := hear1(t, bufio.NewReader(c)); status != 200 {
			t.Error(status)
		}
	}
}

// On one connection, each request is its user's, whoever made the last.
func TestHTTPUsers(t *testing.T) {
	noLeak(t)
	one, _ := web1(t)
	two, _ := web1(t)
	a, b := newTenant(t, "allow "+one), newTenant(t, "allow "+two)
	s := newService(t, newTenant(t, "").Proxy, func(user, password string) *proxy.Proxy {
		return map[string]*proxy.Proxy{"a:x": a.Proxy, "b:y:z": b.Proxy}[user+":"+password]
	})
	c := s.dial(t)
	r := bufio.NewReader(c)
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for i, tt := range []struct {
		credentials, to string
		status          int
	}{
		{"", one, 407}, {basic("a:x"), one, 200}, {basic("b:y:z"), one, 403}, {basic("b:y:z"), two, 200}, {basic("a:x"), two, 403},
		{"", two, 407}, {basic("a:y"), one, 407}, {basic("a"), one, 407}, {basic(""), one, 407}, {"Basic =", one, 407}, {"Bearer x", one, 407},
		{"bAsIc " + basic("a:x")[6:], one, 200}, {basic("a:x"), one, 200}, {basic("c:x"), one, 407},
	} {
		request := "GET http://" + tt.to + "/ HTTP/1.1\r\nHost: x\r\n"
		if tt.credentials != "" {
			request += "Proxy-Authorization: " + tt.credentials + "\r\n"
		}
		send(t, c, request+"\r\n")
		if status, _ := hear1(t, r); status != tt.status {
			t.Errorf("request %d: %d, want %d", i, status, tt.status)
		}
	}
	send(t, c, "CONNECT "+one+" HTTP/1.1\r\n\r\n")
	if status, _ := hear1(t, r); status != 407 {
		t.Errorf("CONNECT without credentials: %d", status)
	}
}

// Whoever is not let in stays among those of whom there may be so many, also if he
// announces a body.
func TestHTTPNobodyGreets(t *testing.T) {
	noLeak(t)
	s := newService(t, newTenant(t, "").Proxy, func(string, string) *proxy.Proxy { return nil })
	c := s.dial(t)
	if status, _ := ask1(t, c, "GET http://a.example/ HTTP/1.1\r\nHost: x\r\n\r\n"); status != 407 {
		t.Error(status)
	}
	if n := s.half(); n != 1 {
		t.Errorf("%d are greeting", n)
	}
	send(t, c, "POST http://a.example/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
	if n := s.half(); n != 1 {
		t.Errorf("%d are greeting", n)
	}
	s.Finish()
	within(t, "the client", func() { _, _ = io.Copy(io.Discard, c) })
}

// Requests on one connection go to several servers, in their order; a connection
// to each is kept, until the client leaves or it is denied.
func TestHTTPKeepAlive(t *testing.T) {
	noLeak(t)
	one, oneConns := web1(t)
	two, twoConns := web1(t)
	x := newTenant(t, "allow 127.0.0.1")
	s := newService(t, x.Proxy, nil)
	c := s.dial(t)
	r := bufio.NewReader(c)
	for range 3 { // pipelined
		send(t, c, "GET http://"+one+"/1 HTTP/1.1\r\nHost: x\r\n\r\nGET http://"+two+"/2 HTTP/1.1\r\nHost: x\r\n\r\n")
		for _, want := range []string{"GET " + one + " /1 ", "GET " + two + " /2 "} {
			if status, body := hear1(t, r); status != 200 || body != want {
				t.Errorf("%d %q, want %q", status, body, want)
			}
		}
	}
	if a, b := oneConns.Load(), twoConns.Load(); a != 1 || b != 1 {
		t.Errorf("%d and %d connections", a, b)
	}
	x.become(t, "allow "+two)
	x.Recheck()
	eventually(t, "the pooled connection is cut", func() bool { return oneConns.Load() == 0 })
	send(t, c, "GET http://"+one+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
	if status, _ := hear1(t, r); status != 403 {
		t.Errorf("after it was denied: %d", status)
	}
	send(t, c, "GET http://"+two+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
	if status, _ := hear1(t, r); status != 200 {
		t.Errorf("of what is still allowed: %d", status)
	}
	c.Close()
	eventually(t, "the others end with the client", func() bool { return twoConns.Load() == 0 })
	eventually(t, "their ends are reported", func() bool {
		return x.Count(func(e journal.Event) bool { return e.Closed && e.Sent > 0 && e.Received > 0 }) == 2
	})
	for _, e := range x.Ends() {
		if want := map[string]journal.End{one: journal.Cut, two: journal.Done}[e.Dst.String()]; e.End != want {
			t.Errorf("%v: %v, want %v", e.Dst, e.End, want)
		}
	}
}

// Bodies are passed on as they come, both ways, and the server is asked before the
// client sends one that waits for that.
func TestHTTPStreams(t *testing.T) {
	noLeak(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	turns := make(chan string)
	serve(t, l, func(c net.Conn) {
		r := bufio.NewReader(c)
		request, err := http.ReadRequest(r)
		if err != nil {
			t.Error(err)
			return
		}
		b := make([]byte, 1)
		for head := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"; ; head = "" {
			if _, err := io.ReadFull(request.Body, b); err != nil {
				break
			}
			turns <- string(b)
			fmt.Fprintf(c, "%s1\r\n%s\r\n", head, b)
		}
		_, _ = io.WriteString(c, "0\r\n\r\n")
	})
	s := newService(t, newTenant(t, "allow 127.0.0.1").Proxy, nil)
	c := s.dial(t)
	r := bufio.NewReader(c)
	send(t, c, "POST http://"+l.Addr().String()+"/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
	line, err := r.ReadString('\n')
	if err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	send(t, c, "a")
	within(t, "the first byte", func() {
		if got := <-turns; got != "a" {
			t.Errorf("%q", got)
		}
	})
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := io.ReadFull(response.Body, b); err != nil || b[0] != 'a' {
		t.Fatalf("%q, %v", b, err)
	}
	send(t, c, "b")
	within(t, "the second byte", func() { <-turns })
	if rest, err := io.ReadAll(response.Body); err != nil || string(rest) != "b" {
		t.Errorf("%q, %v", rest, err)
	}
}

// A connection becomes a WebSocket if the server agrees, and nothing else; and it
// is cut like any other.
func TestHTTPUpgrade(t *testing.T) {
	noLeak(t)
	for _, tt := range []struct {
		asks, agrees string
		status       int
	}{
		{"websocket", "websocket", 101},
		{"WebSocket", "websocket", 101},
		{"h2c", "h2c", 502},
		{"TLS/1.2", "TLS/1.2", 502},
		{"websocket, h2c", "h2c", 502},
		{"h2c\r\nUpgrade: websocket", "h2c", 502},
		{"websocket", "h2c", 502},
		{"", "", 502},
		{"x", "", 502},
	} {
		at := server(t, func(c net.Conn) {
			r := bufio.NewReader(c)
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			fields := ""
			if tt.agrees != "" {
				fields = "Connection: Upgrade\r\nUpgrade: " + tt.agrees + "\r\n"
			}
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n"+fields+"\r\n")
			_, _ = io.Copy(c, r)
		})
		x := newTenant(t, "allow 127.0.0.1")
		s := newService(t, x.Proxy, nil)
		c := s.dial(t)
		r := bufio.NewReader(c)
		send(t, c, "GET http://"+at+"/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: "+tt.asks+"\r\n\r\n")
		response, err := http.ReadResponse(r, nil)
		if err != nil || response.StatusCode != tt.status {
			t.Errorf("%q, then %q: %v, %v", tt.asks, tt.agrees, response, err)
			continue
		}
		if tt.status != 101 {
			x.ended(t, "the connection that is not to be another protocol's")
			continue
		}
		send(t, c, "ping")
		b := make([]byte, 4)
		if _, err := io.ReadFull(r, b); err != nil || string(b) != "ping" {
			t.Errorf("%q, %v", b, err)
		}
		x.become(t, "deny 127.0.0.1")
		x.Recheck()
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("after it was denied: %v", err)
		}
	}
}

// What a client says with its CONNECT goes to the destination, and the names that
// it shows are judged.
func TestCONNECT(t *testing.T) {
	noLeak(t)
	at, _ := counter(t, "127.0.0.1:0")
	text, _ := port(t, at)
	s := newService(t, newTenant(t, "allow 127.0.0.1\nallow a.example\ndeny b.example").Proxy, nil)
	const yes = "HTTP/1.1 200 Connection established\r\n\r\n"
	c := s.dial(t)
	talk(t, "early data", c, []turn{{"CONNECT a.example:" + text + " HTTP/1.1\r\nHost: denied.example\r\n\r\nearly", yes + "early"}, {"ping", "ping"}}, 0)
	_ = c.CloseWrite()
	receiveEnd(t, c, io.EOF)
	for _, early := range []bool{false, true} {
		c := s.dial(t)
		connect, request := "CONNECT a.example:"+text+" HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: b.example\r\n\r\n"
		if early {
			talk(t, "a denied name at once", c, []turn{{connect + request, yes}}, 0)
		} else {
			talk(t, "a denied name", c, []turn{{connect, yes}, {request, ""}}, 0)
		}
		receiveEnd(t, c, unix.ECONNRESET)
	}
}

// Clients of one service do not wait for each other.
func TestHTTPMany(t *testing.T) {
	noLeak(t)
	at, conns := web1(t)
	x := newTenant(t, "allow 127.0.0.1")
	s := newService(t, x.Proxy, nil)
	var clients sync.WaitGroup
	for range 50 {
		clients.Go(func() {
			c, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			r := bufio.NewReader(c)
			for i := range 10 {
				fmt.Fprintf(c, "GET http://%s/%d HTTP/1.1\r\nHost: x\r\n\r\n", at, i)
				response, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, response.Body)
			}
		})
		clients.Go(x.Recheck)
	}
	within(t, "the clients", clients.Wait)
	eventually(t, "their servers are left", func() bool { return conns.Load() == 0 })
}

// What an error is to a client of HTTP.
func TestHTTPRefusal(t *testing.T) {
	s := New(Config{Proxy: newTenant(t, "").Proxy})
	denied := &proxy.Denied{Verdict: policy.Denial("so it is"), What: "tcp a.example:80"}
	for _, tt := range []struct {
		err    error
		status int
		body   string
	}{
		{denied, 403, "appfw: denied tcp a.example:80: so it is\n"},
		{fmt.Errorf("x: %w", denied), 403, "appfw: denied tcp a.example:80: so it is\n"},
		{unix.ECONNREFUSED, 502, "appfw: connecting to a:80 failed: connection refused\n"},
		{&net.OpError{Op: "dial", Err: unix.EHOSTUNREACH}, 502, "appfw: connecting to a:80 failed: no route to host\n"},
		{unix.EACCES, 403, "appfw: connecting to a:80 failed: permission denied\n"},
		{unix.EPERM, 403, "appfw: connecting to a:80 failed: operation not permitted\n"},
		{unix.EMFILE, 503, "appfw: connecting to a:80 failed: too many open files\n"},
		{unix.ETIMEDOUT, 504, "appfw: connecting to a:80 failed: connection timed out\n"},
		{context.DeadlineExceeded, 504, "appfw: connecting to a:80 failed: context deadline exceeded\n"},
	} {
		w := httptest.NewRecorder()
		s.refuseHTTP(w, "a:80", tt.err)
		if w.Code != tt.status || w.Body.String() != tt.body {
			t.Errorf("%v: %d %q", tt.err, w.Code, w.Body)
		}
	}
}
