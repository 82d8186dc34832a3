package tcp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A refusal is known without waiting, and leaves nothing; so does whatever else fails.
func TestDialFails(t *testing.T) {
	noLeak(t)
	taken4, taken6 := bound(t, loopback4), bound(t, loopback6)
	for to, want := range map[netip.AddrPort]error{
		netip.AddrPortFrom(loopback4, taken4):           unix.ECONNREFUSED,
		netip.AddrPortFrom(loopback6, taken6):           unix.ECONNREFUSED,
		netip.MustParseAddrPort("255.255.255.255:9"):    unix.ENETUNREACH,
		netip.MustParseAddrPort("[fe80::1]:9"):          unix.EINVAL, // of which device?
		netip.MustParseAddrPort("[::ffff:127.0.0.1]:0"): unix.ECONNREFUSED,
	} {
		fd, err := Socket(to.Addr())
		if err != nil {
			t.Fatal(err)
		}
		if c, done, err := Begin(fd, to); c != nil || done || !errors.Is(err, want) {
			t.Errorf("Begin to %v: %v, %t, %v", to, c, done, err)
		}
		if c, err := Dial(context.Background(), to); c != nil || !errors.Is(err, want) {
			t.Errorf("Dial to %v: %v, %v", to, c, err)
		}
	}
	for at, want := range map[netip.AddrPort]error{
		netip.AddrPortFrom(loopback4, taken4):          unix.EADDRINUSE,
		netip.AddrPortFrom(loopback6, taken6):          unix.EADDRINUSE,
		netip.MustParseAddrPort("192.0.2.1:0"):         unix.EADDRNOTAVAIL,
		netip.MustParseAddrPort("[ff02::1:2:3:4%1]:0"): unix.EINVAL, // of which device?
	} {
		fd, err := Socket(at.Addr())
		if err != nil {
			t.Fatal(err)
		}
		if l, err := Listen(fd, at); l != nil || !errors.Is(err, want) {
			t.Errorf("Listen at %v: %v, %v", at, l, err)
		}
	}
}

// A listener on this host has answered when Begin returns, before it accepts.
func TestBegin(t *testing.T) {
	for _, at := range loopbacks {
		_, to := listen(t, at)
		fd, err := Socket(at)
		if err != nil {
			t.Fatal(err)
		}
		c, done, err := Begin(fd, to)
		if err != nil || !done {
			t.Fatal(done, err)
		}
		defer c.Close()
		if c.Remote != to {
			t.Errorf("connected to %v", c.Remote)
		}
	}
}

// A connection to itself is none.
func TestSelfConnect(t *testing.T) {
	noLeak(t)
	for _, c := range []struct{ at, to string }{
		{"127.0.0.1", "127.0.0.1"},
		{"::1", "::1"},
		{"0.0.0.0", "127.7.7.7"},
		{"127.0.0.2", "127.0.0.2"},
		{"::ffff:127.0.0.1", "::ffff:127.0.0.1"},
		// These stand for this host.
		{"0.0.0.0", "0.0.0.0"},
		{"::", "::"},
	} {
		fd, err := Socket(netip.MustParseAddr(c.at))
		if err != nil {
			t.Fatal(err)
		}
		if err = unix.Bind(fd, Sockaddr(netip.AddrPortFrom(netip.MustParseAddr(c.at), 0))); err != nil {
			t.Fatal(err)
		}
		local, err := localAddr(fd)
		if err != nil {
			t.Fatal(err)
		}
		got, done, err := Begin(fd, netip.AddrPortFrom(netip.MustParseAddr(c.to), local.Port()))
		if !errors.Is(err, unix.ECONNREFUSED) || got != nil || done {
			t.Errorf("from %s to %s: %v, %t, %v", c.at, c.to, got, done, err)
		}
	}
}

// But one with its own port at another address is.
func TestSamePort(t *testing.T) {
	l, to := listen(t, loopback4)
	fd, err := Socket(loopback4)
	if err != nil {
		t.Fatal(err)
	}
	if err = unix.Bind(fd, Sockaddr(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), to.Port()))); err != nil {
		t.Fatal(err)
	}
	c, done, err := Begin(fd, to)
	if err != nil || !done {
		t.Fatal(done, err)
	}
	defer c.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if want := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), to.Port()); accepted.Remote != want {
		t.Errorf("from %v, not %v", accepted.Remote, want)
	}
}

// crowded is a listener that answers no SYN: its backlog is full.
func crowded(t *testing.T, at netip.Addr) (l *Listener, to netip.AddrPort) {
	t.Helper()
	l, to = listen(t, at)
	var failed error
	err := l.raw.Control(func(fd uintptr) { failed = unix.Listen(int(fd), 0) })
	if err = errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		fd, err := Socket(at)
		if err != nil {
			t.Fatal(err)
		}
		c, done, err := Begin(fd, to)
		if err != nil {
			t.Fatal(err)
		}
		if !done {
			c.Close()
			return l, to
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the backlog has room for all")
	panic("unreachable")
}

// Whoever waits for an answer waits no longer than ctx, and leaves nothing.
func TestDialEnded(t *testing.T) {
	for _, at := range loopbacks {
		_, to := crowded(t, at)
		t.Run(at.String(), func(t *testing.T) {
			noLeak(t)
			for range 20 {
				ctx, cancel := context.WithCancel(context.Background())
				ended := waiting(t, func() error { _, err := Dial(ctx, to); return err })
				cancel()
				if err := result(t, ended); err != context.Canceled {
					t.Errorf("cancelled: %v", err)
				}
				if _, err := Dial(ctx, to); err != context.Canceled {
					t.Errorf("cancelled before: %v", err)
				}
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			if _, err := Dial(ctx, to); err != context.DeadlineExceeded {
				t.Errorf("timed out: %v", err)
			}
		})
	}
}

// An answer that comes late, to the second SYN, is one.
func TestAwait(t *testing.T) {
	l, accepting := crowded(t, loopback4)
	left, refusing := crowded(t, loopback6)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conns := make(chan *Conn, 1)
	accepted := waiting(t, func() error {
		c, err := Dial(ctx, accepting)
		conns <- c
		return err
	})
	fd, err := Socket(loopback6)
	if err != nil {
		t.Fatal(err)
	}
	refused, done, err := Begin(fd, refusing)
	if err != nil || done {
		t.Fatal(done, err)
	}
	left.Close()
	first, err := l.Accept() // makes room
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if err := result(t, accepted); err != nil {
		t.Fatal(err)
	}
	c := <-conns
	defer c.Close()
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if peer.Remote != c.LocalAddr().(*net.TCPAddr).AddrPort() {
		t.Errorf("accepted %v, not %v", peer.Remote, c.LocalAddr())
	}
	if _, err := peer.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 2)); n != 1 || err != nil { // no deadline is left
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if err := refused.Await(ctx); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("Await after the listener has gone: %v", err)
	}
	if err := read(conn(refused)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Await has failed: %v", err)
	}
}
