package sniff

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"appfw/policy"
)

// judged asserts what relays rest on: a verdict stays what it is whatever
// follows, and no byte that a server would act on is let go before. It returns
// the verdict on b as a whole.
func judged(t *testing.T, b []byte) (policy.Name, State, error) {
	t.Helper()
	released := 0
	var o Opening
	for i := range len(b) + 1 {
		name, state, err := o.Identify(b[:i], false)
		if n, s, e := Identify(b[:i], false); n != name || s != state || (e == nil) != (err == nil) {
			t.Fatalf("%q, %v, %v at once; %q, %v, %v bit by bit", n, s, e, name, state, err)
		}
		if state == NeedMore && err == nil {
			if name != "" {
				t.Fatalf("%q while more is needed", name)
			}
			if o.Pass() < released {
				t.Fatalf("%d bytes may pass of %d, and %d did before", o.Pass(), i, released)
			}
			released = o.Pass()
			continue
		}
		if (name != "") != (state == Named && err == nil) {
			t.Fatalf("%q, %v, %v", name, state, err)
		}
		for j := i + 1; j <= len(b); j += 1 + (j-i)/4 {
			if n, s, e := Identify(b[:j], false); n != name || s != state || (e == nil) != (err == nil) {
				t.Fatalf("%q, %v, %v after %d bytes; %q, %v, %v after %d", name, state, err, i, n, s, e, j)
			}
		}
		break
	}
	// Only then may the rest of the message have gone with it.
	if free := b[:released]; len(free) > 0 {
		served, err := http.ReadRequest(bufio.NewReader(io.MultiReader(bytes.NewReader(free), strings.NewReader("\r\n\r\n"))))
		if err == nil && served.Host != "" {
			t.Fatalf("let go before the verdict: %q", free)
		}
	}
	name, state, err := Identify(b, false)
	if _, s, e := Identify(b, true); s == NeedMore && e == nil && len(b) > 0 {
		t.Fatal("more is needed after the end")
	}
	return name, state, err
}

// FuzzIdentifyHTTP: no request that net/http understands passes for another
// host's or for none.
func FuzzIdentifyHTTP(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a.example:80\r\nX: y\r\n\r\n", "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"CONNECT a.example:443 HTTP/1.1\r\nHost: [::1]:5\r\n\r\n", "\r\nGET / HTTP/1.0\n\n", "EHLO x\r\n", "GET\t/ HTTP/1.1\r\nhOST:b\r\n\r\n", "PRI * HTTP/2.0\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		name, state, err := judged(t, b)
		if err != nil {
			return
		}
		served, bad := http.ReadRequest(bufio.NewReader(bytes.NewReader(bytes.TrimLeft(b, "\r\n"))))
		if bad != nil {
			return
		}
		if state == NeedMore {
			t.Fatalf("net/http has enough of %q", b)
		}
		want, _, bad := HostName(served.Host)
		if state == Watched {
			if _, name, _, err = new(Lines).Read(b, false); err != nil {
				return
			}
		}
		if bad == nil && want != name {
			t.Fatalf("%q is for %q to net/http, for %q here", b, want, name)
		}
	})
}

// oneWay is a connection that brings bytes and takes any.
type oneWay struct {
	net.Conn
	io.Reader
}

func (c oneWay) Read(b []byte) (int, error)  { return c.Reader.Read(b) }
func (c oneWay) Write(b []byte) (int, error) { return len(b), nil }
func (c oneWay) Close() error                { return nil }

// FuzzIdentifyTLS: no ClientHello that crypto/tls understands passes for
// another name's or for none.
func FuzzIdentifyTLS(f *testing.F) {
	m := handshake(extension{0x0a0a, ""}, sni("a.example"), extension{43, "\x02\x03\x04"})
	f.Add(records(m, 1<<14))
	f.Add(records(m, 30))
	f.Add(append([]byte{21, 3, 1, 0, 2, 1, 90}, records(m, 1<<14)...))
	f.Add(records(handshake(sni("a.example"), sni("b.example")), 1<<14))
	f.Add(hello(f, &tls.Config{ServerName: "a.example", CurvePreferences: []tls.CurveID{tls.X25519}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		name, state, err := judged(t, b)
		if err != nil {
			return
		}
		served := false
		var shown string
		_ = tls.Server(oneWay{Reader: bytes.NewReader(b)}, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			served, shown = true, h.ServerName
			return nil, errors.New("enough")
		}}).Handshake()
		if !served {
			return
		}
		want, _ := policy.ParseName(shown)
		if state == NeedMore || want != name || shown != "" && want == "" {
			t.Fatalf("%x is for %q to crypto/tls, for %q here (%v)", b, shown, name, state)
		}
	})
}
