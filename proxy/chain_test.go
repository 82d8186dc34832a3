package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// serve calls handler for each connection to a listener, until the test ends.
func serve(t testing.TB, l net.Listener, handler func(net.Conn)) {
	var all sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			all.Go(func() {
				defer c.Close()
				handler(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
}

// server serves on a port of loopback, and returns its address.
func server(t testing.TB, handler func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, handler)
	return l.Addr().String()
}

// noLeak fails the test if it leaves goroutines behind. Call it first.
func noLeak(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
			if time.Now().After(deadline) {
				b := make([]byte, 1<<20)
				t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, b[:runtime.Stack(b, true)])
			}
		}
	})
}

// chainOf is the chain of the upstreams.
func chainOf(t testing.TB, upstreams ...string) *Chain {
	t.Helper()
	c := NewChain()
	for _, u := range upstreams {
		if err := c.Append(u); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// script is a server that reads, answers the next line, and so on, and closes.
func script(answers ...string) func(net.Conn) {
	return func(c net.Conn) {
		b := make([]byte, 1000)
		for _, a := range answers {
			if _, err := c.Read(b); err != nil {
				return
			}
			_, _ = io.WriteString(c, a)
		}
	}
}

// reply is the answer to a request of SOCKS5, with an IPv4 address.
func reply(code byte) string {
	return "\x05" + string([]byte{code}) + "\x00\x01\x01\x02\x03\x04\x00\x50"
}

func TestChainAnswers(t *testing.T) {
	noLeak(t)
	const none, password, accepted = "\x05\x00", "\x05\x02", "\x01\x00"
	const down = true
	for _, tt := range []struct {
		about, scheme string
		answers       []string
		errno         unix.Errno // 0: it connects
		down          bool       // it is the proxy's own failure
		text          string     // part of what is said
	}{
		{"success", "socks5h", []string{none, reply(0)}, 0, false, ""},
		{"bound to a name", "socks5h", []string{none, "\x05\x00\x00\x03\x03abc\x00\x50"}, 0, false, ""},
		{"bound to IPv6", "socks5h", []string{none, "\x05\x00\x00\x04" + strings.Repeat("\x01", 18)}, 0, false, ""},
		{"with a password", "socks5h", []string{password, accepted, reply(0)}, 0, false, ""},
		{"general failure", "socks5h", []string{none, reply(1)}, unix.EHOSTUNREACH, false, "no route to host"},
		{"not allowed", "socks5h", []string{none, reply(2)}, unix.EACCES, false, "permission denied"},
		{"network unreachable", "socks5h", []string{none, reply(3)}, unix.ENETUNREACH, false, "network is unreachable"},
		{"host unreachable", "socks5h", []string{none, reply(4)}, unix.EHOSTUNREACH, false, ""},
		{"refused", "socks5", []string{none, reply(5)}, unix.ECONNREFUSED, false, "connection refused"},
		{"refused, with a password", "socks5h", []string{password, accepted, reply(5)}, unix.ECONNREFUSED, false, "connection refused"},
		{"TTL expired", "socks5h", []string{none, reply(6)}, unix.EHOSTUNREACH, false, ""},
		{"unknown command", "socks5h", []string{none, reply(7)}, unix.EHOSTUNREACH, false, ""},
		{"unknown address type", "socks5h", []string{none, reply(8)}, unix.EHOSTUNREACH, false, ""},
		{"Tor's onion service not found", "socks5h", []string{none, reply(0xf0)}, unix.EHOSTUNREACH, false, ""},
		{"the code alone", "socks5h", []string{none, "\x05\x05\x00\x01"}, unix.ECONNREFUSED, false, ""},
		{"wrong password", "socks5h", []string{password, "\x01\x01"}, unix.EACCES, down, "does not take the user and password"},
		{"no method", "socks5h", []string{"\x05\xff"}, unix.EACCES, down, "does not take the user and password"},
		{"GSSAPI", "socks5h", []string{"\x05\x01"}, unix.ENETUNREACH, down, "authentication method"},
		{"SOCKS4", "socks5h", []string{"\x04\x5a"}, unix.ENETUNREACH, down, "version"},
		{"SOCKS4 later", "socks5h", []string{none, "\x04\x05\x00\x01\x01\x02\x03\x04\x00\x50"}, unix.ENETUNREACH, down, "version"},
		{"an HTTP server", "socks5h", []string{"HTTP/1.1 400 Bad Request\r\n\r\n"}, unix.ENETUNREACH, down, "version"},
		{"an SSH server", "socks5h", []string{"SSH-2.0-OpenSSH\r\n"}, unix.ENETUNREACH, down, "version"},
		{"an odd address", "socks5h", []string{none, "\x05\x00\x00\x09\x01\x02\x03\x04\x00\x50"}, unix.ENETUNREACH, down, "address type"},
		{"short method", "socks5h", []string{"\x05"}, unix.ENETUNREACH, down, "EOF"},
		{"short answer about the password", "socks5h", []string{password, "\x01"}, unix.ENETUNREACH, down, "EOF"},
		{"short answer", "socks5h", []string{none, "\x05\x00\x00"}, unix.ENETUNREACH, down, "EOF"},
		{"short address", "socks5h", []string{none, "\x05\x00\x00\x01\x01\x02"}, unix.ENETUNREACH, down, "EOF"},
		{"nothing", "socks5h", nil, unix.ENETUNREACH, down, ""},

		{"success", "http", []string{"HTTP/1.1 200 Connection established\r\n\r\n"}, 0, false, ""},
		{"HTTP/1.0", "http", []string{"HTTP/1.0 200\r\nProxy-agent: x\r\n\r\n"}, 0, false, ""},
		{"any 2xx", "http", []string{"HTTP/1.1 204 \r\n\r\n"}, 0, false, ""},
		{"forbidden", "http", []string{"HTTP/1.1 403 Filtered\r\n\r\nno"}, unix.EACCES, false, "403"},
		{"wants a password", "http", []string{"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"}, unix.EACCES, down, "does not take the user and password"},
		{"tinyproxy's", "http", []string{"HTTP/1.1 401 Unauthorized\r\n\r\n"}, unix.EACCES, down, "does not take the user and password"},
		{"bad gateway", "http", []string{"HTTP/1.1 502 Bad Gateway\r\n\r\n"}, unix.EHOSTUNREACH, false, "502"},
		{"timeout", "http", []string{"HTTP/1.1 504 Gateway Timeout\r\n\r\n"}, unix.EHOSTUNREACH, false, "504"},
		{"unable to connect", "http", []string{"HTTP/1.1 500 Unable to connect\r\n\r\n"}, unix.EHOSTUNREACH, false, "500"},
		{"no number", "http", []string{"HTTP/1.1 2xx\r\n\r\n"}, unix.ENETUNREACH, down, "no HTTP proxy"},
		{"a short number", "http", []string{"HTTP/1.1 2\r\n\r\n"}, unix.ENETUNREACH, down, "no HTTP proxy"},
		{"HTTP/2", "http", []string{"HTTP/2 200\r\n\r\n"}, unix.ENETUNREACH, down, "no HTTP proxy"},
		{"an SSH server", "http", []string{"SSH-2.0-OpenSSH 200\r\n\r\n"}, unix.ENETUNREACH, down, "no HTTP proxy"},
		{"no CONNECT", "http", []string{"HTTP/1.1 405 No\r\n\r\n"}, unix.EACCES, false, "405"},
		{"too many requests", "http", []string{"HTTP/1.1 429 Slowly\r\n\r\n"}, unix.EHOSTUNREACH, false, "429"},
		{"a server that hangs up", "http", []string{""}, unix.ENETUNREACH, down, "is it an HTTP proxy?"},
		{"a SOCKS server", "http", []string{"\x05\xff"}, unix.ENETUNREACH, down, "EOF"},
		{"half a head", "http", []string{"HTTP/1.1 200 OK\r\nX: "}, unix.ENETUNREACH, down, "EOF"},
		{"an endless head", "http", []string{"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 5000)}, unix.ENETUNREACH, down, "does not end"},
		{"nothing", "http", nil, unix.ENETUNREACH, down, ""},
		{"no TLS", "https", []string{"HTTP/1.1 400 Bad Request\r\n\r\n"}, unix.ENETUNREACH, down, "tls"},
	} {
		t.Run(tt.scheme+": "+tt.about, func(t *testing.T) {
			c := chainOf(t, tt.scheme+"://user:geheim@"+server(t, script(tt.answers...)))
			conn, err := c.Dial(t.Context(), "", "a.example", 80)
			if err == nil {
				conn.Close()
			}
			if tt.errno == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !errors.Is(err, tt.errno) || strings.HasPrefix(failure(err), "the upstream failed: ") != tt.down || (failure(err) != "") != (tt.down || tt.errno == unix.EACCES) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v (%+v), want %v, %v, %q", err, err, tt.errno, tt.down, tt.text)
			}
			if err != nil && strings.Contains(err.Error(), "geheim") {
				t.Errorf("the password shows: %v", err)
			}
		})
	}
}

// What a proxy has a say in is a line of moderate length.
func TestPlain(t *testing.T) {
	err := fmt.Errorf("certificate is for \x1b[31m%s\n", strings.Repeat("ü.example, ", 1000))
	text := plain(&net.OpError{Op: "read", Err: err})
	if len(text) > maxErrorText+len("…") || strings.ContainsAny(text, "\x1b\n") || !utf8.ValidString(text) || !strings.HasPrefix(text, "certificate is for ?[31mü.example, ü") {
		t.Errorf("%q", text)
	}
}

// A URL without a user does not say that a user is wrong.
func TestChainWantsUser(t *testing.T) {
	for scheme, answer := range map[string]string{"socks5h": "\x05\xff", "http": "HTTP/1.1 407 x\r\n\r\n"} {
		c := chainOf(t, scheme+"://"+server(t, script(answer)))
		if _, err := c.Dial(t.Context(), "", "a.example", 80); err == nil || !strings.Contains(failure(err), "it wants a user and a password, which the URL does not have") {
			t.Errorf("%s: %v", scheme, err)
		}
	}
}

// What comes with the proxy's answer, and right behind, is the destination's, in
// whatever pieces it comes.
func TestChainKeepsWhatFollows(t *testing.T) {
	noLeak(t)
	const follows = "220 the destination speaks first\r\n\r\n"
	for scheme, answers := range map[string][]string{
		"socks5h": {"\x05\x00", reply(0) + follows},
		"http":    {"HTTP/1.1 200 OK\r\nX: y\r\n\r\n" + follows},
	} {
		for _, pieces := range []bool{false, true} {
			addr := server(t, func(c net.Conn) {
				b := make([]byte, 1000)
				for _, a := range answers {
					if _, err := c.Read(b); err != nil {
						return
					}
					for i := range a {
						if !pieces {
							_, _ = io.WriteString(c, a)
							break
						}
						_, _ = c.Write([]byte{a[i]})
					}
				}
				_, _ = io.Copy(io.Discard, c)
			})
			conn, err := chainOf(t, scheme+"://"+addr).Dial(t.Context(), "", "a.example", 25)
			if err != nil {
				t.Fatal(scheme, err)
			}
			receive(t, conn, follows)
			conn.Close()
		}
	}
}

func TestParseUpstream(t *testing.T) {
	for _, tt := range []struct{ in, text, addr, path, user string }{
		{"socks5h://127.0.0.1:9050", "socks5h://127.0.0.1:9050", "127.0.0.1:9050", "", ""},
		{"socks5://proxy.example", "socks5://proxy.example:1080", "proxy.example:1080", "", ""},
		{"http://proxy.example/", "http://proxy.example:8080", "proxy.example:8080", "", ""},
		{"https://proxy.example", "https://proxy.example:443", "proxy.example:443", "", ""},
		{"http://[2001:db8::1]:3128", "http://[2001:db8::1]:3128", "[2001:db8::1]:3128", "", ""},
		{"socks5h://[::1]", "socks5h://[::1]:1080", "[::1]:1080", "", ""},
		{"socks5h://me:geheim@h:1", "socks5h://h:1", "h:1", "", "me:geheim"},
		{"socks5h://me:ge%40%2fheim@h:1", "socks5h://h:1", "h:1", "", "me:ge@/heim"},
		{"socks5h://me:ge@heim@h:1", "socks5h://h:1", "h:1", "", "me:ge@heim"},
		{"http://geheim@h:1", "http://h:1", "h:1", "", "geheim:"},
		{"http://unix:geheim@h:1", "http://h:1", "h:1", "", "unix:geheim"},
		{"http://unix:8080", "http://unix:8080", "unix:8080", "", ""},
		{"socks5h://unix:/run/tor/socks", "socks5h://unix:/run/tor/socks", "", "/run/tor/socks", ""},
		{"http://me:geheim@unix:/run/a@b?c", "http://unix:/run/a@b?c", "", "/run/a@b?c", "me:geheim"},
		{"tor", "tor", "", "", ""},
	} {
		h, err := parseHop(tt.in)
		user := ""
		if h.user != nil {
			password, _ := h.user.Password()
			user = h.user.Username() + ":" + password
		}
		if err != nil || h.text != tt.text || h.addr != tt.addr || h.path != tt.path || user != tt.user {
			t.Errorf("%s: %+v %q, %v", tt.in, h, user, err)
		}
	}
	for in, want := range map[string]string{
		"":                             "no scheme",
		"Tor":                          "no scheme",
		"127.0.0.1:9050":               "no scheme",
		"me:geheim@h:1":                "no scheme",
		"ftp://h:1":                    `"ftp" is no scheme of an upstream`,
		"socks4a://me:geheim@h:1":      `"socks4a" is no scheme of an upstream`,
		"SOCKS5://h:1":                 "no scheme of an upstream",
		"socks5h://":                   "a host and a port",
		"socks5h://:1080":              "a host and a port",
		"socks5h://me:geheim@":         "a host and a port",
		"socks5h://h:0":                `"0" is no port`,
		"socks5h://h:65536":            `"65536" is no port`,
		"socks5h://h:x":                "cannot be understood",
		"socks5h://2001:db8::1:1080":   "in brackets",
		"socks5h://[::1":               "cannot be understood",
		"socks5h://me:gehe/im@h:1":     "cannot be understood",
		"socks5h://me:gehe im@h:1":     "cannot be understood",
		"socks5h://me:geheim%@h:1":     "cannot be understood",
		"http://h:1/path":              "a host and a port",
		"http://h:1?geheim":            "nothing follows",
		"http://h:1#geheim":            "nothing follows",
		"socks5h://unix:run/tor":       "absolute",
		"socks5h://unix:":              "absolute",
		"https://unix:/run/proxy":      "TLS needs the name",
		"https://me:geheim@unix:/run/": "TLS needs the name",
	} {
		if err := NewChain().Append(in); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
	c := chainOf(t, "socks5h://a:geheim@h:1", "http://[::1]:2")
	if err := c.Append("socks5h://unix:/x"); err == nil || !strings.Contains(err.Error(), "first") {
		t.Error(err)
	}
	if got := c.String(); got != "socks5h://h:1 → http://[::1]:2" {
		t.Error(got)
	}
}

// socksServer is a SOCKS5 proxy. dial says where a host and port lead to.
func socksServer(dial func(target string) (net.Conn, error)) func(net.Conn) {
	return func(c net.Conn) {
		b := make([]byte, 600)
		if _, err := io.ReadFull(c, b[:2]); err != nil {
			return
		}
		methods := b[2 : 2+b[1]]
		if _, err := io.ReadFull(c, methods); err != nil {
			return
		}
		_, _ = io.WriteString(c, "\x05\x00")
		if _, err := io.ReadFull(c, b[:5]); err != nil {
			return
		}
		size := map[byte]int{1: 4, 3: 1 + int(b[4]), 4: 16}[b[3]]
		if _, err := io.ReadFull(c, b[5:4+size+2]); err != nil {
			return
		}
		host := ""
		if b[3] == 3 {
			host = string(b[5 : 4+size])
		} else {
			a, _ := netip.AddrFromSlice(b[4 : 4+size])
			host = a.String()
		}
		out, err := dial(net.JoinHostPort(host, fmt.Sprint(binary.BigEndian.Uint16(b[4+size:]))))
		if err != nil {
			_, _ = io.WriteString(c, reply(5))
			return
		}
		_, _ = io.WriteString(c, reply(0))
		tunnel(c, out)
	}
}

// tunnel passes on both ways, ends included.
func tunnel(a, b net.Conn) {
	defer a.Close()
	defer b.Close()
	var both sync.WaitGroup
	for _, x := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			if _, err := io.Copy(x[0], x[1]); err != nil {
				a.Close()
				b.Close()
				return
			}
			_ = x[0].(interface{ CloseWrite() error }).CloseWrite()
		})
	}
	both.Wait()
}

// connectServer is an HTTP proxy of package net/http.
func connectServer(dial func(target string) (net.Conn, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "CONNECT" || r.Host != r.RequestURI {
			http.Error(w, "only CONNECT", http.StatusBadRequest)
			return
		}
		if auth := r.Header.Get("Proxy-Authorization"); auth != "" {
			if plain, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(auth, "Basic ")); string(plain) != "me:geheim" {
				w.WriteHeader(http.StatusProxyAuthRequired)
				return
			}
		}
		out, err := dial(r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			out.Close()
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		if n := rw.Reader.Buffered(); n > 0 {
			_, _ = io.CopyN(out, rw, int64(n))
		}
		tunnel(c, out)
	})
}

// trust has the chain's last proxy, one of TLS, trusted.
func trust(c *Chain, s *httptest.Server) {
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	c.hops[len(c.hops)-1].tls.RootCAs = pool
}

// road records where proxies were asked to go. Names are all of one server.
type road struct {
	mu     sync.Mutex
	asked  []string
	target string
}

func (r *road) dial(target string) (net.Conn, error) {
	r.mu.Lock()
	r.asked = append(r.asked, target)
	r.mu.Unlock()
	if strings.HasPrefix(target, "127.0.0.1:") {
		return net.Dial("tcp", target)
	}
	return net.Dial("tcp", r.target)
}

func echo(c net.Conn) {
	if _, err := io.Copy(c, c); err == nil {
		_ = c.(*net.TCPConn).CloseWrite()
	}
}

// Three kinds in a row, in every order: each is asked for the next one's address,
// and the last for the name.
func TestChainOfThree(t *testing.T) {
	noLeak(t)
	r := &road{target: server(t, echo)}
	plain, secure := httptest.NewServer(connectServer(r.dial)), httptest.NewTLSServer(connectServer(r.dial))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	urls := []string{"socks5h://" + server(t, socksServer(r.dial)), "http://me:geheim@" + plain.Listener.Addr().String(), secure.URL}
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}, {2, 2, 2}} {
		c := NewChain()
		var want []string
		for i, n := range order {
			if err := c.Append(urls[n]); err != nil {
				t.Fatal(err)
			}
			if n == 2 {
				trust(c, secure)
			}
			if i > 0 {
				want = append(want, c.hops[i].addr)
			}
		}
		r.mu.Lock()
		r.asked = nil
		r.mu.Unlock()
		conn, err := c.Dial(t.Context(), "", "name.example", 443)
		if err != nil {
			t.Errorf("%v: %v", c, err)
			continue
		}
		send(t, conn, "hello")
		receive(t, conn, "hello")
		conn.Close()
		r.mu.Lock()
		if got, want := fmt.Sprint(r.asked), fmt.Sprint(append(want, "name.example:443")); got != want {
			t.Errorf("%v: asked for %s, want %s", c, got, want)
		}
		r.mu.Unlock()
	}

	// A certificate that nobody trusts.
	_, err := chainOf(t, secure.URL).Dial(t.Context(), "", "name.example", 443)
	if !errors.Is(err, unix.ENETUNREACH) || failure(err) == "" || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
	// A proxy in the middle that is not there is none of the destination's.
	gone := closedPort(t)
	_, err = chainOf(t, urls[0], "http://"+gone, urls[1]).Dial(t.Context(), "", "name.example", 443)
	if !errors.Is(err, unix.ENETUNREACH) || failure(err) == "" || !strings.Contains(err.Error(), "it cannot reach http://"+gone+": connection refused") {
		t.Error(err)
	}
	_, err = chainOf(t, "http://"+gone).Dial(t.Context(), "", "name.example", 443)
	if !errors.Is(err, unix.ENETUNREACH) || failure(err) == "" || !strings.Contains(err.Error(), "http://"+gone+": connect: connection refused") {
		t.Error(err)
	}
	// A chain of no proxies connects to nothing.
	if _, err = NewChain().Dial(t.Context(), "", "127.0.0.1", 80); !errors.Is(err, unix.ENETUNREACH) {
		t.Error(err)
	}
}

// closedPort is an address that nobody listens on.
func closedPort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return l.Addr().String()
}

func TestChainUnixSocket(t *testing.T) {
	noLeak(t)
	r := &road{target: server(t, echo)}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, socksServer(r.dial))
	c := chainOf(t, "socks5h://unix:"+path)
	conn, err := c.Dial(t.Context(), "", "2001:db8::1", 443)
	if err != nil {
		t.Fatal(err)
	}
	send(t, conn, "hello")
	receive(t, conn, "hello")
	conn.Close()
	if fmt.Sprint(r.asked) != "[[2001:db8::1]:443]" {
		t.Error(r.asked)
	}
	_, err = chainOf(t, "http://unix:"+path+"x").Dial(t.Context(), "", "a.example", 80)
	if !errors.Is(err, unix.ENETUNREACH) || failure(err) == "" {
		t.Error(err)
	}
}

// Credentials are those of the URL, or made up: one pair a run and isolation.
func TestChainCredentials(t *testing.T) {
	c, other := chainOf(t, "tor", "http://h:1", "socks5h://me:geheim@h:2"), chainOf(t, "tor")
	of := func(c *Chain, hop int, isolation string) string {
		return fmt.Sprint(c.credentials(&c.hops[hop], isolation))
	}
	a, b := of(c, 0, "a"), of(c, 0, "b")
	if a != of(c, 0, "a") || a == b || a == of(other, 0, "a") || len(a) < 40 {
		t.Error(a, b, of(other, 0, "a"))
	}
	if got := of(c, 1, "a"); got != of(c, 1, "b") || strings.Contains(got, "appfw") {
		t.Errorf("credentials for an HTTP proxy: %s", got)
	}
	if of(c, 2, "a") != "me:geheim" {
		t.Error(of(c, 2, "a"))
	}
}

// Nothing but the destination is waited for: a proxy that does not greet fails soon.
func TestChainSilent(t *testing.T) {
	noLeak(t)
	for _, scheme := range []string{"socks5h", "https"} {
		t.Run(scheme, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, err := parseHop(scheme + "://h:1")
				if err != nil {
					t.Fatal(err)
				}
				here, there := net.Pipe()
				defer there.Close()
				defer here.Close()
				go func() { _, _ = io.Copy(io.Discard, there) }()
				started := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), chainTime)
				defer cancel()
				_, err = h.connect(ctx, here, "a.example:80", nil)
				if took := time.Since(started); !errors.Is(err, errSilent) && !strings.Contains(fmt.Sprint(err), errSilent.Error()) || took != greetTime {
					t.Errorf("after %v: %v", took, err)
				}
			})
		})
	}
}

// A proxy that says nothing is not waited for when nobody wants the answer.
func TestChainCancelled(t *testing.T) {
	noLeak(t)
	silent := func(heard chan<- struct{}) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1))
			heard <- struct{}{}
			_, _ = io.Copy(io.Discard, c)
		}
	}
	for _, scheme := range []string{"socks5h", "http", "https"} {
		heard := make(chan struct{}, 2)
		c := chainOf(t, scheme+"://"+server(t, silent(heard)))
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-heard
			cancel()
		}()
		if _, err := c.Dial(ctx, "", "a.example", 80); !errors.Is(err, context.Canceled) || failure(err) != "" {
			t.Errorf("%s: %v", scheme, err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := c.Dial(ctx, "", "a.example", 80); !errors.Is(err, unix.ENETUNREACH) || failure(err) == "" {
			t.Errorf("%s: %v", scheme, err)
		}
		cancel()
	}
	heard := make(chan struct{}, 2)
	c := chainOf(t, "socks5h://"+server(t, silent(heard)))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-heard
		cancel()
	}()
	if _, err := c.Associate(ctx, "", "a.example", 53); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	cancel()
}

// secured is a connection through an HTTPS proxy to a server.
func secured(t *testing.T, handler func(net.Conn)) stream {
	t.Helper()
	r := &road{target: server(t, handler)}
	s := httptest.NewTLSServer(connectServer(r.dial))
	t.Cleanup(s.Close)
	c := chainOf(t, s.URL)
	trust(c, s)
	conn, err := c.Dial(t.Context(), "", "a.example", 80)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// All arrives, both ways, and the end after it.
func TestTLSStream(t *testing.T) {
	noLeak(t)
	data := noise(8 << 20)
	conn := secured(t, echo)
	var sending sync.WaitGroup
	sending.Go(func() {
		for rest := data; len(rest) > 0; {
			n := min(len(rest), 1+rand.IntN(100_000))
			if _, err := conn.Write(rest[:n]); err != nil {
				t.Error(err)
				return
			}
			rest = rest[n:]
		}
		if err := conn.CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(data), err)
	}
	sending.Wait()
	conn.Close()
}

// The relay can use it: splice(2) included.
func TestTLSStreamRelayed(t *testing.T) {
	noLeak(t)
	data := noise(8 << 20)
	r := relay{sent: make(chan struct{}), out: secured(t, echo)}
	_ = r.out.SetDeadline(time.Time{})
	var client *net.TCPConn
	client, r.app = pair(t)
	ended := make(chan [2]int64, 1)
	go func() {
		sent, received := r.run(context.Background())
		ended <- [2]int64{sent, received}
	}()
	go func() {
		_, _ = client.Write(data)
		_ = client.CloseWrite()
	}()
	_ = client.SetDeadline(time.Now().Add(20 * time.Second))
	if got, err := io.ReadAll(client); err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(data), err)
	}
	if n := int64(len(data)); <-ended != [2]int64{n, n} {
		t.Error("miscounted")
	}
}

// What was written before Close is sent; after a reset nothing is.
func TestTLSStreamClose(t *testing.T) {
	noLeak(t)
	data := noise(150_000) // what a pair of sockets holds
	closed, got := make(chan struct{}), make(chan []byte, 1)
	conn := secured(t, func(c net.Conn) {
		<-closed
		b, err := io.ReadAll(c)
		if err != nil {
			t.Error(err)
		}
		got <- b
	})
	if _, err := conn.Write(data); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	close(closed)
	if b := <-got; !bytes.Equal(b, data) {
		t.Errorf("%d of %d bytes arrived", len(b), len(data))
	}

	ended := make(chan struct{})
	conn = secured(t, func(c net.Conn) {
		_, _ = io.Copy(io.Discard, c)
		close(ended)
	})
	reset(conn)
	<-ended
	if _, err := conn.Write([]byte("x")); err == nil {
		t.Error("written after a reset")
	}
}

// A proxy that is gone is an error to who writes, and an end to who reads.
func TestTLSStreamProxyGone(t *testing.T) {
	noLeak(t)
	gone := make(chan struct{})
	conn := secured(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1))
		_ = c.(*net.TCPConn).SetLinger(0)
		close(gone)
	})
	defer conn.Close()
	send(t, conn, "x")
	<-gone
	if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	for range 1000 {
		if _, err := conn.Write(make([]byte, 10_000)); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
			return
		}
	}
	t.Error("ten megabytes were sent to nobody")
}
