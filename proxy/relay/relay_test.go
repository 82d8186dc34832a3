package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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
	"appfw/proxy/conntest"
)

// What the tests are about, in a word.
var (
	pair       = conntest.Pair
	send       = conntest.Send
	receive    = conntest.Receive
	receiveEnd = conntest.ReceiveEnd
)

// errDenied is what judges say.
var errDenied = errors.New("denied")

// running is a relay that runs between client and server.
type running struct {
	*Relay
	client, server *net.TCPConn
	cancel         context.CancelCauseFunc
	ended          chan error
}

// start runs a relay that lets the allowed name pass; "" does not look.
func start(t testing.TB, allowed policy.Name) *running {
	t.Helper()
	x := &running{Relay: &Relay{Sent: new(atomic.Int64), Received: new(atomic.Int64)}, ended: make(chan error, 1)}
	x.client, x.App = pair(t)
	x.Out, x.server = pair(t)
	for _, c := range []net.Conn{x.client, x.server} {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // fails rather than hangs
	}
	if allowed != "" {
		x.Judge = func(n policy.Name) error {
			if n != allowed {
				return errDenied
			}
			return nil
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	x.cancel = cancel
	t.Cleanup(func() { cancel(nil) })
	go func() { x.ended <- x.Run(ctx) }()
	return x
}

// expect waits for the end of the relay.
func (x *running) expect(t *testing.T, sent, received int64, want error) {
	t.Helper()
	if err := <-x.ended; !errors.Is(err, want) {
		t.Errorf("ended by %v, want %v", err, want)
	}
	if got := [2]int64{x.Sent.Load(), x.Received.Load()}; got != [2]int64{sent, received} {
		t.Errorf("counted %v, want %d and %d", got, sent, received)
	}
	select {
	case <-x.AllSent():
	default:
		t.Error("it ended, and more is to be sent")
	}
}

// unreadable tells whether an error says that what a connection starts with cannot
// be understood.
func unreadable(err error) bool {
	_, is := errors.AsType[*Unreadable](err)
	return is
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
				x.expect(t, 4, 5, nil)
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
				x.expect(t, 4, 5, nil)
			},
			"nothing said": func(x *running) {
				x.client.Close()
				receiveEnd(t, x.server, io.EOF)
				x.server.Close()
				x.expect(t, 0, 0, nil)
			},
			"client resets": func(x *running) {
				send(t, x.client, "ping")
				receive(t, x.server, "ping")
				Reset(x.client)
				receiveEnd(t, x.server, unix.ECONNRESET)
				x.expect(t, 4, 0, unix.ECONNRESET)
			},
			"server resets": func(x *running) {
				send(t, x.server, "pong!")
				receive(t, x.client, "pong!")
				Reset(x.server)
				receiveEnd(t, x.client, unix.ECONNRESET)
				x.expect(t, 0, 5, unix.ECONNRESET)
			},
			"cancelled": func(x *running) {
				x.cancel(nil)
				receiveEnd(t, x.client, unix.ECONNRESET)
				receiveEnd(t, x.server, unix.ECONNRESET)
				x.expect(t, 0, 0, net.ErrClosed)
			},
			"cut when all was sent": func(x *running) {
				send(t, x.client, "ping")
				x.client.CloseWrite()
				<-x.AllSent()
				x.cancel(nil)
				receiveEnd(t, x.client, unix.ECONNRESET)
				receive(t, x.server, "ping")
				receiveEnd(t, x.server, io.EOF)
				x.expect(t, 4, 0, net.ErrClosed)
			},
			"aborted when all was sent": func(x *running) {
				send(t, x.client, "ping")
				x.client.CloseWrite()
				<-x.AllSent()
				receive(t, x.server, "ping")
				x.cancel(fmt.Errorf("%w: denied by now", ErrAbort))
				receiveEnd(t, x.client, unix.ECONNRESET)
				receiveEnd(t, x.server, io.EOF) // it came before
				x.expect(t, 4, 0, net.ErrClosed)
				var err error
				for deadline := time.Now().Add(5 * time.Second); err == nil && time.Now().Before(deadline); {
					_, err = x.server.Write([]byte("x"))
				}
				if !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("written after a reset: %v", err)
				}
			},
		} {
			t.Run(what+" "+string(allowed), func(*testing.T) { f(start(t, allowed)) })
		}
	}
}

func TestRelayJudges(t *testing.T) {
	good, evil := string(conntest.ClientHello(t, &tls.Config{ServerName: "a.example"})), string(conntest.ClientHello(t, &tls.Config{ServerName: "b.example"}))
	get := func(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }
	for in, more := range map[string]string{
		good: "\x14\x03\x03\x00\x01\x01", get("a.example"): "\r\n" + get("a.example"), "EHLO x\r\n": "MAIL x\r\n", "\x00\x00\x00\x08": evil, "GE": "and more",
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
		x.expect(t, int64(len(in)+len(more)), 0, nil)
	}
	for _, c := range []struct {
		in     string
		cut    bool // the end of data follows
		passed string
		want   error // nil: it is unreadable
	}{
		{evil, false, "", errDenied},
		{get("b.example"), false, "", errDenied},
		{get("b\x00"), false, "", nil},
		{good[:100], true, "", nil},
		{"\" / HTTP/1.1\r\n", false, "", nil},
		{"EHLO x\r\n" + get("b.example"), false, "", nil},
		{"\x16\x03\x01\x00\x00" + good, false, "", nil},
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
		err := <-x.ended
		if c.want != nil && err != c.want || c.want == nil && !unreadable(err) {
			t.Errorf("%.20q: %v", c.in, err)
		}
		x.ended <- err
		x.expect(t, 0, 12, err)
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
	x.expect(t, size, size, nil)
	x.cancel(nil)
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
	if b, err := ReadReady(idle{uintptr(fds[0]), tries}, SmallBuffer); err != net.ErrClosed || b.whole != nil {
		t.Error(b, err)
	}
	if made > tries/2 { // the race detector has pools forget one in four
		t.Errorf("%d buffers were made for one idle connection", made)
	}
	// A wait that failed must not have given its buffer back twice: two
	// connections would share it.
	for range 100 {
		_, _ = ReadReady(idle{uintptr(fds[0]), 1}, SmallBuffer)
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
