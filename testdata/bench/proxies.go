package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// protocol is how a client asks a proxy for its destination.
type protocol string

const (
	socks5  protocol = "socks5"
	connect protocol = "connect" // of HTTP
	forward protocol = "forward" // of HTTP: the proxy passes on the request
	keep    protocol = "keep"    // the same, one request after another in the same connection
)

// proxyMeasures are of clients and a server beside the proxy. Without a proxy, they connect themselves.
var proxyMeasures = []measure{
	{"out", loopback, 1, socks5, []figure{{"SOCKS5, bulk out", "Gbit/s"}}},
	{"in", loopback, 1, socks5, []figure{{"SOCKS5, bulk in", "Gbit/s"}}},
	{"crr", loopback, 1, socks5, []figure{{"SOCKS5, connect-request-response", "1/s"}, {"same, p50", "µs"}, {"same, p99", "µs"}}},
	{"out", loopback, 1, connect, []figure{{"CONNECT, bulk out", "Gbit/s"}}},
	{"in", loopback, 1, connect, []figure{{"CONNECT, bulk in", "Gbit/s"}}},
	{"crr", loopback, 1, connect, []figure{{"CONNECT, connect-request-response", "1/s"}, {"same, p50", "µs"}, {"same, p99", "µs"}}},
	{"get", loopback, 1, forward, []figure{{"HTTP requests, each in a new connection", "1/s"}, {"same, p50", "µs"}, {"same, p99", "µs"}}},
	{"get", loopback, 1, keep, []figure{{"HTTP requests in one connection", "1/s"}, {"same, p50", "µs"}, {"same, p99", "µs"}}},
}

// proxies starts explicit proxies on the simulated host, and lists them.
func (b *bench) proxies(t *tb) table {
	list := look([]tool{
		{name: "bare", wrap: bare},
		{name: "appfw", proxy: "127.0.0.1:5401", speaks: []protocol{socks5, connect, forward, keep}, wrap: bare},
		{name: "microsocks", needs: "microsocks", proxy: "127.0.0.1:5402", speaks: []protocol{socks5}, wrap: bare},
		{name: "dante", needs: "danted", proxy: "127.0.0.1:5403", speaks: []protocol{socks5}, wrap: bare},
		{name: "tinyproxy", needs: "tinyproxy", proxy: "127.0.0.1:5404", speaks: []protocol{connect, forward}, wrap: bare},
	})
	danted, tinyproxy := filepath.Join(b.dir, "danted.conf"), filepath.Join(b.dir, "tinyproxy.conf")
	for name, text := range map[string]string{
		danted: `
logoutput: stderr
internal: 127.0.0.1 port = 5403
external: 127.0.0.1
socksmethod: none
clientmethod: none
client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
`,
		tinyproxy: "Listen 127.0.0.1\nPort 5404\nTimeout 60\nLogLevel Critical\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	commands := map[string][]string{
		"appfw":      {filepath.Join(b.dir, "appfw"), "serve", "--quiet", "--listen", list[1].proxy, "--allow", "localhost:" + b.loopbackPort},
		"microsocks": {"microsocks", "-i", "127.0.0.1", "-p", "5402"},
		"dante":      {"danted", "-f", danted, "-p", filepath.Join(b.internet.Ordinary().Home, "danted.pid")},
		"tinyproxy":  {"tinyproxy", "-d", "-c", tinyproxy},
	}
	for _, tool := range list {
		argv := commands[tool.name]
		if tool.missing || argv == nil {
			continue
		}
		c := b.internet.Command(b.ctx, b.internet.Ordinary(), argv[0], argv[1:]...)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := b.output([]string{b.self, clientCommand, "await", tool.proxy, "5s"}); err != nil {
			t.Fatalf("%s does not start: %v", tool.name, err)
		}
	}
	return table{tools: list, measures: proxyMeasures}
}

// await waits until somebody listens.
func await(addr string, span time.Duration) error {
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			return conn.Close()
		}
		if time.Since(began) > span {
			return err
		}
	}
}

// dialer connects to addr, through a proxy if there is one.
type dialer struct {
	addr  string
	proxy string
	via   protocol
}

func (d dialer) dial() (net.Conn, error) {
	if d.proxy == "" {
		return net.Dial("tcp", d.addr)
	}
	conn, err := net.Dial("tcp", d.proxy)
	if err != nil {
		return nil, err
	}
	switch d.via {
	case socks5:
		err = d.socks5(conn)
	case connect:
		err = d.connect(conn)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// socks5 asks for a destination of IPv4, as most clients do (RFC 1928).
func (d dialer) socks5(conn net.Conn) error {
	var b [10]byte
	if _, err := conn.Write([]byte{5, 1, 0}); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, b[:2]); err != nil {
		return err
	}
	if b[1] != 0 {
		return errors.New("the proxy wants a user")
	}
	to, err := netip.ParseAddrPort(d.addr)
	if err != nil {
		return err
	}
	request := append([]byte{5, 1, 0, 1}, to.Addr().AsSlice()...)
	if _, err := conn.Write(append(request, byte(to.Port()>>8), byte(to.Port()))); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return err
	}
	if b[1] != 0 {
		return fmt.Errorf("the proxy says %d", b[1])
	}
	return nil
}

// connect reads no further than the head of the answer: the server says nothing before it is asked.
func (d dialer) connect(conn net.Conn) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", d.addr); err != nil {
		return err
	}
	var head []byte
	for b := make([]byte, 1024); !strings.HasSuffix(string(head), "\r\n\r\n"); {
		n, err := conn.Read(b)
		if err != nil {
			return err
		}
		head = append(head, b[:n]...)
	}
	if status, _, _ := strings.Cut(string(head), "\r\n"); !strings.Contains(status, " 200 ") {
		return fmt.Errorf("the proxy says %q", status)
	}
	return nil
}

// requests asks for a page again and again.
func requests(d dialer, span time.Duration) ([]float64, error) {
	request := fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\n", d.addr)
	if d.proxy != "" {
		request = fmt.Sprintf("GET http://%s/ HTTP/1.1\r\nHost: %[1]s\r\n", d.addr)
	}
	if d.via != keep {
		request += "Connection: close\r\n"
	}
	request += "\r\n"
	var conn net.Conn
	answers := bufio.NewReader(nil)
	return again(span, func() (err error) {
		if conn == nil {
			if conn, err = d.dial(); err != nil {
				return err
			}
			answers.Reset(conn)
		}
		if _, err = io.WriteString(conn, request); err != nil {
			return err
		}
		answer, err := http.ReadResponse(answers, nil)
		if err != nil {
			return err
		}
		if body, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != http.StatusOK || string(body) != page {
			return fmt.Errorf("the answer is %s, %q, %w", answer.Status, body, err)
		}
		if d.via == keep {
			return nil
		}
		_, err = drain(conn) // the end
		_ = conn.Close()
		conn = nil
		return err
	})
}

const page = "hello"

// servePages answers requests. first was read already.
func servePages(conn net.Conn, first byte) {
	asked := bufio.NewReader(io.MultiReader(strings.NewReader(string(first)), conn))
	for {
		r, err := http.ReadRequest(asked)
		if err != nil {
			return
		}
		answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(page), page)
		if r.Close {
			answer = strings.Replace(answer, "\r\n", "\r\nConnection: close\r\n", 1)
		}
		if _, err := io.WriteString(conn, answer); err != nil || r.Close {
			return
		}
	}
}
