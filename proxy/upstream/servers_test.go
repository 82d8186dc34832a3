package upstream

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"

	"appfw/proxy/conntest"
)

// What tests of connections share.
var (
	pair       = conntest.Pair
	send       = conntest.Send
	receive    = conntest.Receive
	serve      = conntest.Serve
	server     = conntest.Server
	echo       = conntest.Echo
	closedPort = conntest.ClosedPort
	noLeak     = conntest.NoLeak
)

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

// reply is the answer to a request of SOCKS5, with an address of the loopback.
func reply(code byte) string {
	return "\x05" + string([]byte{code}) + "\x00\x01\x7f\x00\x00\x01\x00\x50"
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
	c.ways[0][len(c.ways[0])-1].tls.RootCAs = pool
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
