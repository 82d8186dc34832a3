package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// chainOf is the chain of the upstreams.
func chainOf(t testing.TB, upstreams ...string) *Chain {
	t.Helper()
	c := New()
	for _, u := range upstreams {
		if err := c.Append(u); err != nil {
			t.Fatal(err)
		}
	}
	return c
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
		{"too many requests", "http", []string{"HTTP/1.1 429 Slowly\r\n\r\n"}, unix.EHOSTUNREACH, down, `"429": it has been asked too often`},
		{"a redirection", "http", []string{"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\n\r\n"}, unix.EACCES, down, "to http://login.example/; it may want a login there"},
		{"NTLM and Negotiate", "http", []string{"HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Negotiate\r\n\r\n"}, unix.EACCES, down, "it knows users by NTLM or Negotiate alone, and not by Basic"},
		{"NTLM and Basic", "http", []string{"HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n"}, unix.EACCES, down, "does not take the user and password"},
		{"Digest and Bearer in a line", "http", []string{"HTTP/1.1 407 x\r\nProxy-Authenticate: Digest realm=\"x\", nonce=\"y\", Bearer\r\n\r\n"}, unix.EACCES, down, "by Digest or Bearer alone"},
		{"what is only informational", "http", []string{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"}, 0, false, ""},
		{"nothing but what is informational", "http", []string{strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100)}, unix.EHOSTUNREACH, false, "100"},
		{"not implemented", "http", []string{"HTTP/1.1 501 No\r\n\r\n"}, unix.EACCES, false, "501"},
		{"a server that hangs up", "http", []string{""}, unix.ENETUNREACH, down, "is it an HTTP proxy?"},
		{"a SOCKS server", "http", []string{"\x05\xff"}, unix.ENETUNREACH, down, "no HTTP proxy"},
		{"half a head", "http", []string{"HTTP/1.1 200 OK\r\nX: "}, unix.ENETUNREACH, down, "EOF"},
		{"an endless head", "http", []string{"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 5000)}, unix.ENETUNREACH, down, "does not end"},
		{"nothing", "http", nil, unix.ENETUNREACH, down, ""},
		{"no TLS", "https", []string{"HTTP/1.1 400 Bad Request\r\n\r\n"}, unix.ENETUNREACH, down, "tls"},
	} {
		t.Run(tt.scheme+": "+tt.about, func(t *testing.T) {
			c := chainOf(t, tt.scheme+"://user:geheim@"+server(t, script(tt.answers...)))
			conn, err := c.Dial(t.Context(), "", "a.example", 443, false)
			if err == nil {
				conn.Close()
			}
			if tt.errno == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !errors.Is(err, tt.errno) || strings.HasPrefix(Failure(err), "the upstream failed: ") != tt.down || (Failure(err) != "") != (tt.down || tt.errno == unix.EACCES) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v (%+v), want %v, %v, %q", err, err, tt.errno, tt.down, tt.text)
			}
			if err != nil && strings.Contains(err.Error(), "geheim") {
				t.Errorf("the password shows: %v", err)
			}
		})
	}
}

// A URL without a user does not say that a user is wrong.
func TestChainWantsUser(t *testing.T) {
	for scheme, answer := range map[string]string{"socks5h": "\x05\xff", "http": "HTTP/1.1 407 x\r\n\r\n"} {
		c := chainOf(t, scheme+"://"+server(t, script(answer)))
		if _, err := c.Dial(t.Context(), "", "a.example", 443, false); err == nil || !strings.Contains(Failure(err), "it wants a user and a password, which the URL does not have") {
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
			conn, err := chainOf(t, scheme+"://"+addr).Dial(t.Context(), "", "a.example", 25, false)
			if err != nil {
				t.Fatal(scheme, err)
			}
			receive(t, conn, follows)
			conn.Close()
		}
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
		c := New()
		var want []string
		for i, n := range order {
			if err := c.Append(urls[n]); err != nil {
				t.Fatal(err)
			}
			if n == 2 {
				trust(c, secure)
			}
			if i > 0 {
				want = append(want, c.ways[0][i].addr)
			}
		}
		r.mu.Lock()
		r.asked = nil
		r.mu.Unlock()
		conn, err := c.Dial(t.Context(), "", "name.example", 443, false)
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
	_, err := chainOf(t, secure.URL).Dial(t.Context(), "", "name.example", 443, false)
	if !errors.Is(err, unix.ENETUNREACH) || Failure(err) == "" || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
	// A proxy in the middle that is not there is none of the destination's.
	gone := closedPort(t)
	_, err = chainOf(t, urls[0], "http://"+gone, urls[1]).Dial(t.Context(), "", "name.example", 443, false)
	if !errors.Is(err, unix.ENETUNREACH) || Failure(err) == "" || !strings.Contains(err.Error(), "it cannot reach http://"+gone+": connection refused") {
		t.Error(err)
	}
	_, err = chainOf(t, "http://"+gone).Dial(t.Context(), "", "name.example", 443, false)
	if !errors.Is(err, unix.ENETUNREACH) || Failure(err) == "" || !strings.Contains(err.Error(), "http://"+gone+": connect: connection refused") {
		t.Error(err)
	}
	// A chain of no proxies connects to nothing.
	if _, err = New().Dial(t.Context(), "", "127.0.0.1", 80, false); !errors.Is(err, unix.ENETUNREACH) {
		t.Error(err)
	}
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
	conn, err := c.Dial(t.Context(), "", "2001:db8::1", 443, false)
	if err != nil {
		t.Fatal(err)
	}
	send(t, conn, "hello")
	receive(t, conn, "hello")
	conn.Close()
	if fmt.Sprint(r.asked) != "[[2001:db8::1]:443]" {
		t.Error(r.asked)
	}
	_, err = chainOf(t, "http://unix:"+path+"x").Dial(t.Context(), "", "a.example", 443, false)
	if !errors.Is(err, unix.ENETUNREACH) || Failure(err) == "" {
		t.Error(err)
	}
}

// Credentials are those of the URL, or made up: one pair a run and isolation.
func TestChainCredentials(t *testing.T) {
	c, other := chainOf(t, "tor", "http://h:1", "socks5h://me:geheim@h:2"), chainOf(t, "tor")
	of := func(c *Chain, hop int, isolation string) string {
		return fmt.Sprint(c.credentials(&c.ways[0][hop], isolation))
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

// Nothing but the destination is waited for: a proxy that does not answer fails soon.
func TestChainSilent(t *testing.T) {
	noLeak(t)
	for scheme, want := range map[string]error{"socks5h": errSilentSOCKS, "https": errSilent, "http": errSilentHTTP} {
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
				if _, err = h.secured(ctx, here); err == nil {
					err = h.ask(ctx, here, "a.example", 443, nil, func(context.Context) error {
						time.Sleep(silence) // of synctest: as long as it takes that nobody answers
						return errSilent
					})
				}
				if took := time.Since(started); err != want || took != greetTime {
					t.Errorf("after %v: %v", took, err)
				}
			})
		})
	}
}

// An HTTP proxy that answers others is waited for: it is its destination that is slow.
func TestChainSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer there.Close()
		defer here.Close()
		go func() {
			_, _ = there.Read(make([]byte, 1000))
			time.Sleep(time.Minute) // of synctest
			_, _ = io.WriteString(there, "HTTP/1.1 200 OK\r\n\r\n")
		}()
		var asked atomic.Int32
		err := connectHTTP(t.Context(), here, "a.example:443", nil, func(context.Context) error { asked.Add(1); return nil })
		if n := asked.Load(); err != nil || n != 1 {
			t.Errorf("%v, asked %d times", err, n)
		}
	})
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
		if _, err := c.Dial(ctx, "", "a.example", 443, false); !errors.Is(err, context.Canceled) || Failure(err) != "" {
			t.Errorf("%s: %v", scheme, err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := c.Dial(ctx, "", "a.example", 443, false); !errors.Is(err, unix.ENETUNREACH) || Failure(err) == "" {
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
	if _, err := c.Associate(ctx, "", "a.example", 53, nobody); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	cancel()
}
