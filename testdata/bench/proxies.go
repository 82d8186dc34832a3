package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
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
	{"idle", idleConnections, socks5, []figure{{"SOCKS5, memory for each of 2,000 idle connections", "KiB", false}}},
	{"out", 1, socks5, []figure{{"SOCKS5, out", "Gbit/s", true}}},
	{"in", 1, socks5, []figure{{"SOCKS5, in", "Gbit/s", false}}},
	{"crr", 1, socks5, rates("SOCKS5, connect, request, response", true)},
	{"idle", idleConnections, connect, []figure{{"CONNECT, memory for each of 2,000 idle connections", "KiB", false}}},
	{"out", 1, connect, []figure{{"CONNECT, out", "Gbit/s", true}}},
	{"in", 1, connect, []figure{{"CONNECT, in", "Gbit/s", false}}},
	{"crr", 1, connect, rates("CONNECT, connect, request, response", true)},
	{"get", 1, forward, rates("HTTP requests, each in a new connection", false)},
	{"get", 1, keep, rates("HTTP requests in one connection", true)},
}

// proxies lists explicit proxies, which are started on the simulated host anew in each round.
func (b *bench) proxies(t *tb) table {
	danted, tinyproxy := filepath.Join(b.dir, "danted.conf"), filepath.Join(b.dir, "tinyproxy.conf")
	list := look([]tool{
		{name: "bare", loopback: local, inKernel: true, wrap: bare},
		{name: "appfw", loopback: local, proxy: "127.0.0.1:5401", speaks: []protocol{socks5, connect, forward, keep}, wrap: bare,
			serve: []string{filepath.Join(b.dir, "appfw"), "serve", "--quiet", "--listen", "127.0.0.1:5401", "--allow", "localhost:" + b.loopbackPort}},
		{name: "microsocks", needs: "microsocks", loopback: local, proxy: "127.0.0.1:5402", speaks: []protocol{socks5}, wrap: bare,
			serve: []string{"microsocks", "-i", "127.0.0.1", "-p", "5402"}},
		{name: "dante", needs: "danted", loopback: local, proxy: "127.0.0.1:5403", speaks: []protocol{socks5}, wrap: bare,
			serve: []string{"danted", "-f", danted, "-p", filepath.Join(b.internet.Ordinary().Home, "danted.pid")}},
		{name: "tinyproxy", needs: "tinyproxy", loopback: local, proxy: "127.0.0.1:5404", speaks: []protocol{connect, forward}, wrap: bare,
			serve: []string{"tinyproxy", "-d", "-c", tinyproxy}},
	})
	err := writeFiles(b.dir, map[string]string{
		"danted.conf": `
logoutput: stderr
internal: 127.0.0.1 port = 5403
external: 127.0.0.1
socksmethod: none
clientmethod: none
client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
`,
		"tinyproxy.conf": "Listen 127.0.0.1\nPort 5404\nTimeout 60\nMaxClients 4000\nLogLevel Critical\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	return table{title: "Explicit proxies, from and to the loopback", place: loopback, tools: list, measures: proxyMeasures, start: func() (serving, error) {
		var started serving
		for _, tool := range list {
			if tool.missing != "" || tool.serve == nil {
				continue
			}
			c := b.internet.Command(b.ctx, b.internet.Ordinary(), tool.serve[0], tool.serve[1:]...)
			if err := c.Start(); err != nil {
				return started, err
			}
			started = append(started, c)
			if err := b.await(tool.proxy); err != nil {
				return started, fmt.Errorf("%s does not start: %w", tool.name, err)
			}
		}
		return started, nil
	}}
}

// await waits until somebody on the simulated host listens.
func (b *bench) await(addr string) error {
	deadline := time.After(patience)
	for retry := time.NewTicker(5 * time.Millisecond); ; {
		conn, err := b.internet.DialFromHost("tcp", addr)
		if err == nil {
			retry.Stop()
			return conn.Close()
		}
		select {
		case <-retry.C: // the kernel tells nobody about new listeners
		case <-deadline:
			return err
		}
	}
}

// dial connects to the server, through the proxy if there is one.
func (j job) dial() (net.Conn, error) {
	if j.Proxy == "" {
		return net.Dial("tcp", j.Addr)
	}
	conn, err := net.Dial("tcp", j.Proxy)
	if err != nil {
		return nil, err
	}
	switch j.Via {
	case socks5:
		err = j.socks5(conn)
	case connect:
		err = j.connect(conn)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// socks5 asks for a destination of IPv4, as most clients do (RFC 1928).
func (j job) socks5(conn net.Conn) error {
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
	to, err := netip.ParseAddrPort(j.Addr)
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
func (j job) connect(conn net.Conn) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", j.Addr); err != nil {
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
func (j job) requests() ([]float64, error) {
	request := fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\n", j.Addr)
	if j.Proxy != "" {
		request = fmt.Sprintf("GET http://%s/ HTTP/1.1\r\nHost: %[1]s\r\n", j.Addr)
	}
	if j.Via != keep {
		request += "Connection: close\r\n"
	}
	request += "\r\n"
	var conn net.Conn
	answers := bufio.NewReader(nil)
	return again(j.Span, func() (err error) {
		if conn == nil {
			if conn, err = j.dial(); err != nil {
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
		if j.Via == keep {
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
