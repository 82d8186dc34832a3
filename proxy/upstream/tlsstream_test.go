package upstream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"appfw/proxy/relay"
)

// secured is a connection through an HTTPS proxy to a server.
func secured(t *testing.T, handler func(net.Conn)) relay.Stream {
	t.Helper()
	r := &road{target: server(t, handler)}
	s := httptest.NewTLSServer(connectServer(r.dial))
	t.Cleanup(s.Close)
	c := chainOf(t, s.URL)
	trust(c, s)
	conn, err := c.Dial(t.Context(), "", "a.example", 443, false)
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
	var sent, received atomic.Int64
	r := relay.Relay{Out: secured(t, echo), Sent: &sent, Received: &received}
	_ = r.Out.SetDeadline(time.Time{})
	var client *net.TCPConn
	client, r.App = pair(t)
	ended := make(chan error, 1)
	go func() { ended <- r.Run(context.Background()) }()
	go func() {
		_, _ = client.Write(data)
		_ = client.CloseWrite()
	}()
	_ = client.SetDeadline(time.Now().Add(20 * time.Second))
	if got, err := io.ReadAll(client); err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(data), err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := int64(len(data)); sent.Load() != n || received.Load() != n {
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
	relay.Reset(conn)
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
