package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/policy"
)

// pair is the two ends of a connection over loopback.
func pair(t testing.TB) (a, b *net.TCPConn) {
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

// running is a relay that runs between client and server.
type running struct {
	client, server *net.TCPConn
	cancel         func()
	ended          chan [2]int64 // sent, received
	garbled        atomic.Int32
}

// start runs a relay that lets the allowed name pass; "" does not look.
func start(t testing.TB, allowed policy.Name) *running {
	t.Helper()
	x := &running{ended: make(chan [2]int64, 1)}
	r := relay{sent: make(chan struct{})}
	r.sent = make(chan struct{})
	x.client, r.app = pair(t)
	r.out, x.server = pair(t)
	for _, c := range []net.Conn{x.client, x.server} {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // fails rather than hangs
	}
	if allowed != "" {
		r.judge = func(n policy.Name) bool { return n == allowed }
		r.garbled = func(error) { x.garbled.Add(1) }
	}
	ctx, cancel := context.WithCancel(context.Background())
	x.cancel = cancel
	t.Cleanup(cancel)
	go func() {
		sent, received := r.run(ctx)
		x.ended <- [2]int64{sent, received}
	}()
	return x
}

func (x *running) expect(t *testing.T, sent, received int64) {
	t.Helper()
	if got := <-x.ended; got != [2]int64{sent, received} {
		t.Errorf("counted %v, want %d and %d", got, sent, received)
	}
}

func send(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Error(err)
	}
}

// receive reads as many bytes as s has.
func receive(t *testing.T, c net.Conn, s string) {
	t.Helper()
	b := make([]byte, len(s))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != s {
		t.Errorf("received %.80q, %v; want %.80q", b, err, s)
	}
}

// receiveEnd reads the end of data, or the reset if err is one.
func receiveEnd(t *testing.T, c net.Conn, want error) {
	t.Helper()
	n, err := c.Read(make([]byte, 100))
	if n > 0 || !errors.Is(err, want) {
		t.Errorf("received %d bytes, %v; want %v", n, err, want)
	}
}

func TestRelayEnds(t *testing.T) {
	for _, allowed := range []policy.Name{"", "a.example"} {
		for what, f := range map[string]func(*running){
			"client ends first": func(x *running) {
				send(t, x.client, "ping")
				x.client.CloseWrite()
				receive(t, x.server, "ping")
				receiveEnd(t, x.server, io.EOF)
				send(t, x.server, "pong!")
				x.server.Close()
				receive(t, x.client, "pong!")
				receiveEnd(t, x.client, io.EOF)
				x.expect(t, 4, 5)
			},
			"server ends first": func(x *running) {
				send(t, x.server, "pong!")
				x.server.CloseWrite()
				receive(t, x.client, "pong!")
				receiveEnd(t, x.client, io.EOF)
				send(t, x.client, "ping")
				receive(t, x.server, "ping")
				x.client.Close()
				receiveEnd(t, x.server, io.EOF)
				x.expect(t, 4, 5)
			},
			"nothing said": func(x *running) {
				x.client.Close()
				receiveEnd(t, x.server, io.EOF)
				x.server.Close()
				x.expect(t, 0, 0)
			},
			"client resets": func(x *running) {
				send(t, x.client, "ping")
				receive(t, x.server, "ping")
				reset(x.client)
				receiveEnd(t, x.server, unix.ECONNRESET)
				x.expect(t, 4, 0)
			},
			"server resets": func(x *running) {
				send(t, x.server, "pong!")
				receive(t, x.client, "pong!")
				reset(x.server)
				receiveEnd(t, x.client, unix.ECONNRESET)
				x.expect(t, 0, 5)
			},
			"cancelled": func(x *running) {
				x.cancel()
				receiveEnd(t, x.client, unix.ECONNRESET)
				receiveEnd(t, x.server, unix.ECONNRESET)
				x.expect(t, 0, 0)
			},
		} {
			t.Run(what+" "+string(allowed), func(*testing.T) { f(start(t, allowed)) })
		}
	}
}

func TestRelayJudges(t *testing.T) {
	good, evil := string(hello(t, &tls.Config{ServerName: "a.example"})), string(hello(t, &tls.Config{ServerName: "b.example"}))
	get := func(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }
	for in, more := range map[string]string{
		good: "\x14\x03\x03\x00\x01\x01", get("a.example"): "\r\n" + get("a.example"), "EHLO x\r\n": get("b.example"), "\x00\x00\x00\x08": evil, "GE": "and more",
	} {
		x := start(t, "a.example")
		for i := range len(in) { // in as many pieces as the kernel makes of it
			send(t, x.client, in[i:i+1])
		}
		send(t, x.client, more)
		x.client.CloseWrite()
		receive(t, x.server, in+more)
		receiveEnd(t, x.server, io.EOF)
		x.server.Close()
		x.expect(t, int64(len(in)+len(more)), 0)
	}
	for _, c := range []struct {
		in      string
		cut     bool // the end of data follows
		passed  string
		garbled int32
	}{
		{evil, false, "", 0},
		{get("b.example"), false, "", 0},
		{get("b\x00"), false, "", 1},
		{good[:100], true, "", 1},
		{"GET /\n", false, "", 1},
		{"\x16\x03\x01\x00\x00", false, "", 1},
	} {
		x := start(t, "a.example")
		send(t, x.server, "220 me first") // while nothing was said
		receive(t, x.client, "220 me first")
		send(t, x.client, c.in)
		if c.cut {
			x.client.CloseWrite()
		}
		receiveEnd(t, x.client, unix.ECONNRESET)
		receiveEnd(t, x.server, unix.ECONNRESET)
		x.expect(t, 0, 12)
		if got := x.garbled.Load(); got != c.garbled {
			t.Errorf("%.20q: %d times garbled", c.in, got)
		}
	}
	// A line without its end passes, its end does not.
	x := start(t, "a.example")
	send(t, x.client, "GET / HT")
	receive(t, x.server, "GET / HT")
	send(t, x.client, "TP/1.1\r\nHost: b.example\r\n\r\n")
	if rest, err := io.ReadAll(x.server); !errors.Is(err, unix.ECONNRESET) || bytes.ContainsRune(rest, '\n') {
		t.Errorf("%q, %v", rest, err)
	}
	<-x.ended
}

func TestRelayBulk(t *testing.T) {
	before := runtime.NumGoroutine()
	x := start(t, "a.example")
	const size = 8 << 20
	var all sync.WaitGroup
	data := bytes.Repeat([]byte{0, 1, 2, 3, 4, 5, 6}, size/7+1)[:size]
	for _, c := range []*net.TCPConn{x.client, x.server} {
		all.Go(func() {
			if _, err := c.Write(data); err != nil {
				t.Error(err)
			}
			c.CloseWrite()
		})
		all.Go(func() {
			b, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(b, data) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
	all.Wait()
	x.expect(t, size, size)
	x.cancel()
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

// idle is a connection that nothing comes by, and that fails after some tries.
type idle struct {
	fd    uintptr
	tries int
}

func (c idle) SyscallConn() (syscall.RawConn, error) { return c, nil }
func (c idle) Control(func(uintptr)) error           { return nil }
func (c idle) Write(func(uintptr) bool) error        { return nil }
func (c idle) Read(f func(uintptr) bool) error {
	for range c.tries {
		if f(c.fd) {
			return errors.New("not idle")
		}
	}
	return net.ErrClosed
}

func TestIdleHoldsNoBuffer(t *testing.T) {
	var made int
	kept := smallBuffers.New
	defer func() { smallBuffers.New = kept }()
	smallBuffers.New = func() any { made++; return kept() }
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	const tries = 1000
	if b, err := readReady(idle{uintptr(fds[0]), tries}, smallBuffer); err != net.ErrClosed || b.whole != nil {
		t.Error(b, err)
	}
	if made > tries/2 { // the race detector has pools forget one in four
		t.Errorf("%d buffers were made for one idle connection", made)
	}
	// A wait that failed must not have given its buffer back twice: two
	// connections would share it.
	for range 100 {
		_, _ = readReady(idle{uintptr(fds[0]), 1}, smallBuffer)
	}
	seen := map[*[]byte]bool{}
	for range 200 {
		b := smallBuffers.Get().(*[]byte)
		if seen[b] {
			t.Fatal("two connections would share a buffer")
		}
		seen[b] = true
	}
}

func BenchmarkRelay(b *testing.B) {
	for what, size := range map[string]int{"bulk": 1 << 20, "talk": 100} {
		b.Run(what, func(b *testing.B) {
			x := start(b, "")
			_ = x.client.SetDeadline(time.Time{})
			_ = x.server.SetDeadline(time.Time{})
			out, in := make([]byte, size), make([]byte, size)
			got := make(chan error)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				go func() { _, err := io.ReadFull(x.server, in); got <- err }()
				if _, err := x.client.Write(out); err != nil {
					b.Fatal(err)
				}
				if err := <-got; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
