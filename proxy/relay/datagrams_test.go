package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/netns/mmsg"
	"appfw/policy"
	"appfw/proxy/conntest"
	"appfw/proxy/sniff"
)

// deaf is an app's side that records what it is told.
type deaf struct {
	mu     sync.Mutex
	told   []netns.Unreachable
	got    [][]byte
	closed int
	opened chan *Datagrams
}

func (a *deaf) Deliver(datagrams [][]byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range datagrams {
		a.got = append(a.got, bytes.Clone(d))
	}
	return 0, nil
}

func (a *deaf) Unreachable(why netns.Unreachable) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.told = append(a.told, why)
}

func (a *deaf) Open(d *Datagrams) {
	if a.opened != nil {
		a.opened <- d
	}
}

func (a *deaf) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed++
	return nil
}

// quicHello is a client's datagrams with a ClientHello for a name, in several.
func quicHello(t *testing.T, name string) [][]byte {
	t.Helper()
	var read sniff.QUIC
	datagrams := conntest.QUICHello(t, &tls.Config{ServerName: name, NextProtos: []string{strings.Repeat("p", 200), strings.Repeat("q", 200)}},
		func(b []byte) (bool, error) {
			_, more, err := read.Read(b)
			return more, err
		})
	if len(datagrams) < 2 {
		t.Fatal("the ClientHello is in one datagram")
	}
	return datagrams
}

func listenUDP(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func dialUDP(t *testing.T, to *net.UDPConn) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp4", nil, to.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// udpPair is a socket that is connected to a peer.
func udpPair(t *testing.T) (conn, peer *net.UDPConn) {
	t.Helper()
	peer = listenUDP(t)
	return dialUDP(t, peer), peer
}

// datagramsTo makes Datagrams, with counters and a clock if c has none.
func datagramsTo(t *testing.T, c Config) *Datagrams {
	t.Helper()
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Sent == nil {
		c.Sent = new(atomic.Int64)
	}
	if c.Received == nil {
		c.Received = new(atomic.Int64)
	}
	d, err := NewDatagrams(c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// within fails the test if f takes long.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal(what + " takes long")
	}
}

// denial is an error as a judge's is.
type denial string

func (d denial) Error() string        { return "denied: " + string(d) }
func (d denial) Reason() string       { return string(d) }
func (d denial) Is(target error) bool { return target == ErrAbort }

func onlyA(shown policy.Name) error {
	if shown != "a.example" {
		return denial("it is " + string(shown))
	}
	return nil
}

// Of datagrams that are received at once, those before the one that is denied are
// sent, with what waited for them, and none after it; and those alone are counted. The
// app is told once, and in QUIC's own way before.
func TestDeniedAmongMany(t *testing.T) {
	datagrams := slices.Concat([][]byte{[]byte("before")}, quicHello(t, "a.example"), [][]byte{{}, make([]byte, 65507)})
	passed := len(datagrams)
	datagrams = slices.Concat(datagrams, quicHello(t, "b.example"), [][]byte{[]byte("after")})

	from, to := listenUDP(t), listenUDP(t)
	app, sent := new(deaf), new(atomic.Int64)
	d := datagramsTo(t, Config{In: app, Out: dialUDP(t, to), Judge: onlyA, Sent: sent})
	sender := dialUDP(t, from)
	want := 0
	for i, data := range datagrams {
		if _, err := sender.Write(data); err != nil {
			t.Fatal(err)
		}
		if i < passed {
			want += len(data)
		}
	}
	in, err := mmsg.NewInbox(from, mmsg.AnySize, mmsg.Gather)
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the denial", func() { d.Upward(in) })
	if sent.Load() != int64(want) || !slices.Equal(app.told, []netns.Unreachable{netns.Prohibited}) || len(app.got) != 1 || app.closed != 1 {
		t.Errorf("sent %d bytes of %d, told %v and %d datagrams, closed %d times", sent.Load(), want, app.told, len(app.got), app.closed)
	}
	if err := d.Run(t.Context()); err != denial("it is b.example") {
		t.Error(err)
	}
	if _, err := dialUDP(t, to).Write([]byte("end")); err != nil {
		t.Fatal(err)
	}
	_ = to.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 1<<16)
	for i, data := range append(datagrams[:passed:passed], []byte("end")) {
		if n, err := to.Read(b); err != nil || !bytes.Equal(b[:n], data) {
			t.Fatalf("the %d. of %d is another: %d bytes, %v", i, passed, n, err)
		}
	}
}

// A ClientHello that does not end ends the flow, and the app is told once.
func TestLongHello(t *testing.T) {
	first := quicHello(t, "a.example")[0]
	app := new(deaf)
	out, _ := udpPair(t)
	d := datagramsTo(t, Config{In: app, Out: out, Judge: onlyA})
	var err error
	for i := 0; err == nil && i <= maxWaiting; i++ {
		err = d.Add(first)
	}
	if u, ok := errors.AsType[*Unreadable](err); !ok || u.Err != errLongHello {
		t.Error(err)
	}
	if !slices.Equal(app.told, []netns.Unreachable{netns.Prohibited}) || app.closed != 1 {
		t.Errorf("told %v, closed %d times", app.told, app.closed)
	}
}

// An answer that comes while the app's side is waited for makes the flow last longer.
func TestAnsweredFlowLasts(t *testing.T) {
	conn, peer := udpPair(t)
	in, err := mmsg.NewInbox(conn, mmsg.AnySize, mmsg.Gather)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	received := new(atomic.Int64)
	out, _ := udpPair(t)
	d := datagramsTo(t, Config{In: new(deaf), Out: out, Received: received, Now: func() time.Time {
		if asked.Add(1) == 2 { // after NewDatagrams: the wait has ended
			received.Store(1)
			_, _ = peer.WriteTo([]byte("more"), conn.LocalAddr())
		}
		return time.Now()
	}})
	d.used.Store(time.Now().Add(-shortIdle).UnixNano())
	if err := d.receive(in); errors.Is(err, ErrIdle) {
		t.Error("it ended as if there had been no answer")
	} else if err != nil {
		t.Error(err)
	}
	if asked.Load() < 3 {
		t.Error("the wait did not end")
	}
	in.Release()
}

// delivered is an app that says where its datagrams were.
type delivered struct {
	deaf
	where chan weak.Pointer[byte]
}

func (d *delivered) Deliver(datagrams [][]byte) (bytes int, err error) {
	d.where <- weak.Make(&datagrams[0][0])
	return len(datagrams[0]), nil
}

// A flow that waits for more holds no room for datagrams.
func TestIdleFlowHoldsNothing(t *testing.T) {
	conn, peer := udpPair(t)
	app := &delivered{where: make(chan weak.Pointer[byte])}
	d := datagramsTo(t, Config{In: app, Out: conn})
	ended := make(chan error)
	go func() { ended <- d.Run(t.Context()) }()
	if _, err := peer.WriteTo([]byte("hello"), conn.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	room := <-app.where
	for deadline := time.Now().Add(5 * time.Second); room.Value() != nil; runtime.GC() { // the pool forgets it, too
		if time.Now().After(deadline) {
			t.Error("it holds what was delivered")
			break
		}
	}
	conn.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// unwrapping is a proxy's way that takes a header off, or nothing of what has none.
type unwrapping struct{ closed atomic.Int32 }

func (u *unwrapping) Receive(datagram []byte) ([]byte, bool) {
	return bytes.CutPrefix(datagram, []byte("header "))
}
func (u *unwrapping) Close() { u.closed.Add(1) }

// What goes by an upstream has its header ahead, both ways.
func TestDatagramsOfAnAssociation(t *testing.T) {
	conn, peer := udpPair(t)
	app, by := &deaf{opened: make(chan *Datagrams, 1)}, new(unwrapping)
	sent := new(atomic.Int64)
	d := datagramsTo(t, Config{In: app, Out: conn, By: by, Header: []byte("header "), Sent: sent})
	if err := d.Add([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	_ = peer.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 100)
	if n, err := peer.Read(b); err != nil || string(b[:n]) != "header ping" {
		t.Errorf("received %q, %v", b[:n], err)
	}
	if sent.Load() != 4 {
		t.Errorf("sent %d bytes", sent.Load())
	}
	for _, data := range []string{"other pong", "header pong"} {
		if _, err := peer.WriteTo([]byte(data), conn.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error)
	go func() { ended <- d.Run(ctx) }()
	if <-app.opened != d || d.In() != Sink(app) {
		t.Error("it is opened for another flow")
	}
	for len(func() [][]byte { app.mu.Lock(); defer app.mu.Unlock(); return app.got }()) == 0 {
		runtime.Gosched()
	}
	cause := errors.New("the cause")
	cancel(cause)
	if err := <-ended; err != cause {
		t.Errorf("it ended of %v", err)
	}
	if len(app.got) != 1 || string(app.got[0]) != "pong" || by.closed.Load() != 1 || app.closed != 1 || len(app.told) > 0 {
		t.Errorf("got %q, closed %d and %d times, told %v", app.got, by.closed.Load(), app.closed, app.told)
	}
}

// How a flow ends, and what its app is told.
func TestDatagramsEnd(t *testing.T) {
	t.Run("denied", func(t *testing.T) {
		out, _ := udpPair(t)
		app := new(deaf)
		d := datagramsTo(t, Config{In: app, Out: out})
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(denial("by now"))
		within(t, "the end", func() {
			if err := d.Run(ctx); err != denial("by now") {
				t.Error(err)
			}
		})
		if !slices.Equal(app.told, []netns.Unreachable{netns.Prohibited}) || app.closed != 1 {
			t.Errorf("told %v, closed %d times", app.told, app.closed)
		}
	})
	t.Run("idle", func(t *testing.T) {
		out, _ := udpPair(t)
		app := new(deaf)
		d := datagramsTo(t, Config{In: app, Out: out})
		d.used.Store(time.Now().Add(-shortIdle).UnixNano())
		within(t, "the end", func() {
			if err := d.Run(t.Context()); err != ErrIdle {
				t.Error(err)
			}
		})
		if len(app.told) > 0 || app.closed != 1 || d.Used() > time.Now().Add(-shortIdle).UnixNano() {
			t.Errorf("told %v, closed %d times", app.told, app.closed)
		}
	})
	t.Run("refused", func(t *testing.T) {
		out, peer := udpPair(t)
		peer.Close()
		app := new(deaf)
		d := datagramsTo(t, Config{In: app, Out: out})
		if err := errors.Join(d.Add([]byte("ping")), d.Flush()); err != nil {
			t.Fatal(err)
		}
		within(t, "the end", func() {
			if err := d.Run(t.Context()); !errors.Is(err, unix.ECONNREFUSED) {
				t.Error(err)
			}
		})
		if !slices.Equal(app.told, []netns.Unreachable{netns.NoPort}) || app.closed != 1 {
			t.Errorf("told %v, closed %d times", app.told, app.closed)
		}
	})
	t.Run("without sockets", func(t *testing.T) {
		app := new(deaf)
		out, _ := udpPair(t)
		out.Close()
		d, err := NewDatagrams(Config{In: app, Out: out, Now: time.Now, Sent: new(atomic.Int64), Received: new(atomic.Int64)})
		if err == nil { // it is seen at the first use
			err = d.Run(t.Context())
		}
		if !errors.Is(err, net.ErrClosed) && err == nil || app.closed != 1 {
			t.Errorf("%v, closed %d times", err, app.closed)
		}
	})
}

// Of datagrams that are delivered one by one, what does not fit is lost, and another
// error ends it.
func TestEachWrite(t *testing.T) {
	broken := errors.New("broken")
	errs := []error{nil, unix.EMSGSIZE, nil, unix.ENOBUFS, broken, nil}
	var wrote []string
	n, err := EachWrite([][]byte{[]byte("a"), []byte("b"), []byte("cc"), []byte("d"), []byte("e"), []byte("f")}, func(b []byte) error {
		err := errs[len(wrote)]
		wrote = append(wrote, string(b))
		return err
	})
	if n != 3 || err != broken || strings.Join(wrote, "") != "abccde" {
		t.Errorf("%d bytes of %q, %v", n, wrote, err)
	}
}
