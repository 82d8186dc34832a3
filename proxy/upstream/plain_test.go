package upstream

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/proxy/relay"
)

// webServer is an HTTP proxy that makes no tunnels to a port, keeps what it is sent, and
// answers each request with its own first line.
func webServer(heads chan<- string, tunnels bool) func(net.Conn) {
	return func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			head := ""
			for !strings.HasSuffix(head, "\r\n\r\n") {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				head += line
			}
			heads <- head
			line, _, _ := strings.Cut(head, "\r\n")
			switch {
			case strings.HasPrefix(line, "CONNECT ") && !tunnels:
				_, _ = io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
				return
			case strings.HasPrefix(line, "CONNECT "):
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
				_, _ = io.Copy(c, r)
				return
			case strings.HasPrefix(line, "POST "):
				_, _ = io.CopyN(io.Discard, r, 3)
			}
			_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	}
}

const okay = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// heads are what was heard next.
func heard(t *testing.T, heads <-chan string) string {
	t.Helper()
	select {
	case h := <-heads:
		return h
	case <-time.After(20 * time.Second):
		t.Fatal("the proxy hears nothing")
		return ""
	}
}

func dialed(t *testing.T, url, host string, port uint16, web bool) relay.Stream {
	t.Helper()
	conn, err := chainOf(t, url).Dial(t.Context(), "", host, port, web)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// Requests for http: URLs are asked of a proxy as such, for the host that was decided on
// and no other; all else goes by a tunnel.
func TestPlainRequests(t *testing.T) {
	noLeak(t)
	const authorization = "Proxy-Authorization: Basic bWU6Z2VoZWlt\r\n"
	for _, tt := range []struct {
		about   string
		host    string
		port    uint16
		web     bool // it is told so
		tunnels bool // the proxy makes some
		say     string
		heads   []string
	}{
		{"a request", "a.example", 80, false, false, "GET /a%2Fb|c?d HTTP/1.1\r\nHost: a.example\r\nX-Y:  z\r\n\r\n",
			[]string{"GET http://a.example/a%2Fb|c?d HTTP/1.1\r\nHost: a.example\r\nX-Y:  z\r\n" + authorization + "\r\n"}},
		{"requests that are kept alive", "a.example", 80, false, false, "POST / HTTP/1.1\r\nHost: A.example.\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: a.example:80\r\nConnection: close, X\r\nX: y\r\n\r\n",
			[]string{"POST http://a.example/ HTTP/1.1\r\nHost: A.example.\r\nContent-Length: 3\r\n" + authorization + "\r\n",
				"GET http://a.example/2 HTTP/1.1\r\nHost: a.example:80\r\nConnection: close\r\n" + authorization + "\r\n"}},
		{"HTTP/1.0", "2001:db8::1", 80, false, false, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
			[]string{"GET http://[2001:db8::1]/ HTTP/1.0\r\nConnection: keep-alive\r\n" + authorization + "\r\n"}},
		{"credentials of the app", "a.example", 80, false, false, "GET / HTTP/1.1\r\nProxy-Authorization: Basic eDp5\r\nHost: a.example\r\n\r\n",
			[]string{"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n" + authorization + "\r\n"}},
		{"*", "a.example", 80, false, false, "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
			[]string{"OPTIONS http://a.example HTTP/1.1\r\nHost: a.example\r\n" + authorization + "\r\n"}},
		{"another port, by a client's word", "a.example", 8080, true, false, "GET / HTTP/1.1\r\nHost: a.example:8080\r\n\r\n",
			[]string{"GET http://a.example:8080/ HTTP/1.1\r\nHost: a.example:8080\r\n" + authorization + "\r\n"}},
		{"another port", "a.example", 8080, false, false, "GET / HTTP/1.1\r\nHost: a.example:8080\r\n\r\n",
			[]string{"CONNECT a.example:8080 HTTP/1.1\r\nHost: a.example:8080\r\n" + authorization + "\r\n",
				"GET http://a.example:8080/ HTTP/1.1\r\nHost: a.example:8080\r\n" + authorization + "\r\n"}},
		{"no HTTP", "a.example", 80, false, true, "SSH-2.0-x\r\n", []string{"CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n" + authorization + "\r\n"}},
		{"TLS", "a.example", 80, false, true, "\x16\x03\x01", []string{"CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n" + authorization + "\r\n"}},
		{"another host", "10.0.0.1", 80, false, true, "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", []string{"CONNECT 10.0.0.1:80 HTTP/1.1\r\nHost: 10.0.0.1:80\r\n" + authorization + "\r\n"}},
		{"a URL", "10.0.0.1", 80, false, true, "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", []string{"CONNECT 10.0.0.1:80 HTTP/1.1\r\nHost: 10.0.0.1:80\r\n" + authorization + "\r\n"}},
		{"a WebSocket", "a.example", 80, false, true, "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", []string{"CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n" + authorization + "\r\n"}},
		{"a WebSocket without a tunnel", "a.example", 80, false, false, "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
			[]string{"CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n" + authorization + "\r\n", "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n" + authorization + "\r\n"}},
	} {
		t.Run(tt.about, func(t *testing.T) {
			heads := make(chan string, 10)
			conn := dialed(t, "http://me:geheim@"+server(t, webServer(heads, tt.tunnels)), tt.host, tt.port, tt.web)
			send(t, conn, tt.say)
			for _, want := range tt.heads {
				if got := heard(t, heads); got != want {
					t.Errorf("%q, want %q", got, want)
				}
			}
			if tt.tunnels {
				receive(t, conn, tt.say) // as an echo
				return
			}
			_ = conn.CloseWrite() // the responses come all the same
			want := okay
			if strings.Contains(tt.about, "kept alive") {
				want += okay
			}
			got, err := io.ReadAll(conn)
			if string(got) != want || err != nil {
				t.Errorf("%q, %v", got, err)
			}
			if err := conn.(interface{ Cause() error }).Cause(); err != nil {
				t.Error(err)
			}
		})
	}
}

// What a proxy does instead of answering is said, and is no answer of the destination's.
func TestPlainFails(t *testing.T) {
	noLeak(t)
	const get = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
	for _, tt := range []struct{ about, say, answer, want string }{
		{"a password", get, "HTTP/1.1 407 x\r\nContent-Length: 0\r\n\r\n", "it wants a user and a password, which the URL does not have"},
		{"another scheme", get, "HTTP/1.1 407 x\r\nProxy-Authenticate: Negotiate\r\n\r\n", "it knows users by Negotiate alone"},
		{"another protocol", get, "SSH-2.0-x\r\n", "it is no HTTP proxy"},
		{"nothing", get, "", "it hangs up without an answer"},
		{"a switch", get, "HTTP/1.1 101 x\r\n\r\n", "another protocol that it was not asked for"},
		{"no tunnel", "SSH-2.0-x\r\n", "HTTP/1.1 403 x\r\n\r\n", `it answers "403"`},
		{"no tunnel to another host", "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", "HTTP/1.1 403 x\r\n\r\n", `it answers "403"`},
	} {
		conn := dialed(t, "http://"+server(t, script(tt.answer)), "a.example", 80, false)
		send(t, conn, tt.say)
		if got, err := io.ReadAll(conn); len(got) > 0 || err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s: %q, %v", tt.about, got, err)
		}
		if err := conn.(interface{ Cause() error }).Cause(); err == nil || !strings.Contains(Failure(err), tt.want) {
			t.Errorf("%s: %v, want %q", tt.about, err, tt.want)
		}
	}
	// A request for another host that follows one is sent nowhere.
	heads := make(chan string, 10)
	conn := dialed(t, "http://"+server(t, webServer(heads, false)), "a.example", 80, false)
	send(t, conn, get)
	heard(t, heads)
	receive(t, conn, okay)
	send(t, conn, "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
	if got, _ := io.ReadAll(conn); len(got) > 0 {
		t.Errorf("%q", got)
	}
	if len(heads) > 0 {
		t.Errorf("it was sent: %q", <-heads)
	}
}

// Where one fails, the next stands in, and is asked first from then on; one that
// answers for its destination is not passed over.
func TestFailover(t *testing.T) {
	noLeak(t)
	var asked atomic.Int32
	r := &road{target: server(t, echo)}
	works := server(t, socksServer(r.dial))
	hangsUp := server(t, func(net.Conn) { asked.Add(1) })
	c := chainOf(t, "socks5h://"+hangsUp+" | http://"+closedPort(t)+" | socks5h://"+works)
	for range 3 {
		conn, err := c.Dial(t.Context(), "", "a.example", 443, false)
		if err != nil {
			t.Fatal(err)
		}
		send(t, conn, "hello")
		receive(t, conn, "hello")
		conn.Close()
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the first was asked %d times", n)
	}
	if got := c.String(); !strings.HasSuffix(got, " | socks5h://"+works) || strings.Count(got, " | ") != 2 {
		t.Error(got)
	}
	c = chainOf(t, "http://"+server(t, script("HTTP/1.1 503 x\r\n\r\n"))+" | socks5h://"+works)
	if _, err := c.Dial(t.Context(), "", "a.example", 443, false); !errors.Is(err, unix.EHOSTUNREACH) || Failure(err) != "" {
		t.Errorf("what the destination does: %v", err)
	}
	if err := New().Append(strings.Repeat("tor | ", 64) + "tor"); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Error(err)
	}
}

// SOCKS4 goes by names and IPv4.
func TestSOCKS4(t *testing.T) {
	noLeak(t)
	for _, tt := range []struct {
		url, host, asks, answer string
		errno                   unix.Errno
	}{
		{"", "a.example", "\x04\x01\x01\xbb\x00\x00\x00\x01\x00a.example\x00", "\x00\x5a\x00\x00\x00\x00\x00\x00", 0},
		{"me@", "10.0.0.1", "\x04\x01\x01\xbb\x0a\x00\x00\x01me\x00", "\x00\x5a\x00\x00\x00\x00\x00\x00", 0},
		{"", "10.0.0.1", "\x04\x01\x01\xbb\x0a\x00\x00\x01\x00", "\x00\x5b\x00\x00\x00\x00\x00\x00", unix.ECONNREFUSED},
		{"", "10.0.0.1", "\x04\x01\x01\xbb\x0a\x00\x00\x01\x00", "\x00\x5d\x00\x00\x00\x00\x00\x00", unix.EACCES},
		{"", "10.0.0.1", "\x04\x01\x01\xbb\x0a\x00\x00\x01\x00", "HTTP/1.1 400", unix.ENETUNREACH},
		{"", "2001:db8::1", "", "", unix.ENETUNREACH},
		{"", "0.0.0.5", "", "", unix.ENETUNREACH},
	} {
		got := make(chan string, 1)
		at := server(t, func(c net.Conn) {
			b := make([]byte, 100)
			n, _ := c.Read(b)
			got <- string(b[:n])
			_, _ = io.WriteString(c, tt.answer)
		})
		conn, err := chainOf(t, "socks4a://"+tt.url+at).Dial(t.Context(), "", tt.host, 443, false)
		if err == nil {
			conn.Close()
		}
		if asks := heard(t, got); asks != tt.asks || tt.errno == 0 && err != nil || tt.errno != 0 && !errors.Is(err, tt.errno) {
			t.Errorf("%s: asked %q, %v", tt.host, asks, err)
		}
	}
}
