// Package conntest has what tests of connections share: the two ends of one, what
// is sent and to be received, servers, a resolver, the host's routes, ClientHellos,
// what is said of flows, and a look for goroutines that are left behind. It is for
// tests alone.
//
//	client, server := conntest.Pair(t)
//	conntest.Send(t, client, "ping")
//	conntest.Receive(t, server, "ping")
//	client.CloseWrite()
//	conntest.ReceiveEnd(t, server, io.EOF)
package conntest

import (
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
)

// Pair is the two ends of a TCP connection over loopback.
func Pair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

// Send sends s.
func Send(t testing.TB, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Error(err)
	}
}

// Receive reads as many bytes as s has, which are to be those.
func Receive(t testing.TB, c net.Conn, s string) {
	t.Helper()
	b := make([]byte, len(s))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != s {
		t.Errorf("received %.80q, %v; want %.80q", b, err, s)
	}
}

// ReceiveEnd reads the end of data, or the reset if want is one.
func ReceiveEnd(t testing.TB, c net.Conn, want error) {
	t.Helper()
	n, err := c.Read(make([]byte, 100))
	if n > 0 || !errors.Is(err, want) {
		t.Errorf("received %d bytes, %v; want %v", n, err, want)
	}
}

// Serve calls handler for each connection to a listener, until the test ends.
func Serve(t testing.TB, l net.Listener, handler func(net.Conn)) {
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

// Server serves on a port of loopback, and returns its address.
func Server(t testing.TB, handler func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	Serve(t, l, handler)
	return l.Addr().String()
}

// Echo sends back what it receives, and its end.
func Echo(c net.Conn) {
	if _, err := io.Copy(c, c); err == nil {
		_ = c.(*net.TCPConn).CloseWrite()
	}
}

// ClosedPort is an address that nobody listens on.
func ClosedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return l.Addr().String()
}

// NoLeak fails the test if it leaves goroutines behind. Call it first.
func NoLeak(t testing.TB) {
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
