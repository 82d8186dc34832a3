package tcp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"
)

// conn is what this package's connections have, and package net's.
type conn interface {
	net.Conn
	CloseWrite() error
	SetLinger(seconds int) error
	SyscallConn() (syscall.RawConn, error)
}

var (
	loopback4 = netip.MustParseAddr("127.0.0.1")
	loopback6 = netip.MustParseAddr("::1")
	loopbacks = []netip.Addr{loopback4, loopback6}
)

// listen listens at an address and a free port.
func listen(t testing.TB, at netip.Addr) (*Listener, netip.AddrPort) {
	t.Helper()
	fd, err := Socket(at)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(fd, netip.AddrPortFrom(at, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	local, err := localAddr(fd)
	if err != nil {
		t.Fatal(err)
	}
	return l, local
}

// end makes one end of a connection: the dialled or the accepted one.
type end struct {
	name   string
	dial   func(to netip.AddrPort) (conn, error)
	listen func(at netip.Addr) (accept func() (conn, error), to netip.AddrPort, stop func())
}

var own = end{
	"tcp",
	func(to netip.AddrPort) (conn, error) { return some(Dial(context.Background(), to)) },
	func(at netip.Addr) (func() (conn, error), netip.AddrPort, func()) {
		fd, _ := Socket(at)
		l, err := Listen(fd, netip.AddrPortFrom(at, 0))
		if err != nil {
			return func() (conn, error) { return nil, err }, netip.AddrPort{}, func() {}
		}
		local, _ := localAddr(fd)
		return func() (conn, error) { return some(l.Accept()) }, local, func() { l.Close() }
	},
}

var nets = end{
	"net",
	func(to netip.AddrPort) (conn, error) {
		return some(net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to)))
	},
	func(at netip.Addr) (func() (conn, error), netip.AddrPort, func()) {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
		if err != nil {
			return func() (conn, error) { return nil, err }, netip.AddrPort{}, func() {}
		}
		return func() (conn, error) { return some(l.AcceptTCP()) }, l.Addr().(*net.TCPAddr).AddrPort(), func() { l.Close() }
	},
}

// some is a connection, or nil if there is none.
func some[C conn](c C, err error) (conn, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

// pair connects two ends.
func pair(dialling, accepting end, at netip.Addr) (dialled, accepted conn, err error) {
	accept, to, stop := accepting.listen(at)
	defer stop()
	if dialled, err = dialling.dial(to); err != nil {
		return nil, nil, err
	}
	if accepted, err = accept(); err != nil {
		dialled.Close()
		return nil, nil, err
	}
	return dialled, accepted, nil
}

// each runs a test with every kind of connection: a is what is tested, b its peer.
// Those of package net show that the test asks for what that does.
func each(t *testing.T, test func(t *testing.T, a, b conn)) {
	for _, at := range loopbacks {
		for _, dialling := range []end{own, nets} {
			for _, accepting := range []end{own, nets} {
				for _, which := range []string{"dialled", "accepted"} {
					t.Run(fmt.Sprintf("%v,%s-%s,%s", at, dialling.name, accepting.name, which), func(t *testing.T) {
						a, b, err := pair(dialling, accepting, at)
						if err != nil {
							t.Fatal(err)
						}
						defer a.Close()
						defer b.Close()
						late := time.Now().Add(20 * time.Second) // so that no failure is a hang
						_, _ = a.SetDeadline(late), b.SetDeadline(late)
						if which == "accepted" {
							a, b = b, a
						}
						test(t, a, b)
					})
				}
			}
		}
	}
}

// waiting calls f in a goroutine, and returns when that waits for the network.
func waiting(t *testing.T, f func() error) <-chan error {
	t.Helper()
	ended := make(chan error, 1)
	go waiter(f, ended)
	stacks := make([]byte, 1<<20)
	for late := time.Now().Add(20 * time.Second); ; runtime.Gosched() {
		for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			header, calls, _ := strings.Cut(stack, "\n")
			if strings.Contains(header, "[IO wait") && strings.Contains(calls, "tcp.waiter(") {
				return ended
			}
		}
		if len(ended) > 0 {
			t.Fatalf("it did not wait: %v", <-ended)
		}
		if time.Now().After(late) {
			t.Fatal("it does not wait")
		}
	}
}

// waiter is what waiting looks for.
//
//go:noinline
func waiter(f func() error, ended chan<- error) { ended <- f() }

// result is that of a call which was waited for.
func result(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
		panic("unreachable")
	}
}

// descriptors are how many the process has.
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// noLeak fails the test if it ends with more descriptors or goroutines than now.
func noLeak(t *testing.T) {
	t.Helper()
	warm, err := Dial(context.Background(), netip.AddrPortFrom(loopback4, bound(t, loopback4))) // the poller has descriptors, too
	if err == nil {
		warm.Close()
		t.Fatal("somebody listens")
	}
	fds, goroutines := descriptors(t), runtime.NumGoroutine()
	t.Cleanup(func() {
		if n := descriptors(t); n > fds {
			t.Errorf("%d descriptors, before %d", n, fds)
		}
		for late := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > goroutines; runtime.Gosched() {
			if time.Now().After(late) {
				t.Errorf("%d goroutines, before %d", runtime.NumGoroutine(), goroutines)
				return
			}
		}
	})
}

// bound is a port at which nobody listens, and nobody else will: it is taken.
func bound(t *testing.T, at netip.Addr) (port uint16) {
	t.Helper()
	fd, err := Socket(at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, Sockaddr(netip.AddrPortFrom(at, 0))); err != nil {
		t.Fatal(err)
	}
	local, err := localAddr(fd)
	if err != nil {
		t.Fatal(err)
	}
	return local.Port()
}

// The connections are as those of package net, as its own test of them sees it.
func TestConn(t *testing.T) {
	for _, at := range loopbacks {
		t.Run(at.String(), func(t *testing.T) {
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				a, b, err := pair(own, own, at)
				if err != nil {
					return nil, nil, nil, err
				}
				return a, b, func() { a.Close(); b.Close() }, nil
			})
		})
	}
}

// writeAll writes until that fails.
func writeAll(c conn) error {
	data := make([]byte, 1<<20)
	for {
		if _, err := c.Write(data); err != nil {
			return err
		}
	}
}

func read(c conn) error {
	n, err := c.Read(make([]byte, 10))
	if n != 0 {
		return fmt.Errorf("%d bytes, %w", n, err)
	}
	return err
}

func resetBy(b conn) { _ = errors.Join(b.SetLinger(0), b.Close()) }

// Whatever ends a call, its error is the one that package net has.
func TestErrors(t *testing.T) {
	past := time.Unix(1, 0)
	soon := func() time.Time { return time.Now().Add(time.Millisecond) }
	for _, c := range []struct {
		name string
		do   func(t *testing.T, a, b conn) error
		want []error // one of them
	}{
		{"Read at the end", func(t *testing.T, a, b conn) error { b.Close(); return read(a) }, []error{io.EOF}},
		{"Read at the end again", func(t *testing.T, a, b conn) error {
			b.Close()
			if err := read(a); err != io.EOF {
				return err
			}
			return read(a)
		}, []error{io.EOF}},
		{"Read of nothing", func(t *testing.T, a, b conn) error { _, err := a.Read(nil); return err }, []error{nil}},
		{"Write of nothing", func(t *testing.T, a, b conn) error { _, err := a.Write(nil); return err }, []error{nil}},
		{"Read after a reset", func(t *testing.T, a, b conn) error { resetBy(b); return read(a) }, []error{unix.ECONNRESET}},
		{"Read while a reset comes", func(t *testing.T, a, b conn) error {
			ended := waiting(t, func() error { return read(a) })
			resetBy(b)
			return result(t, ended)
		}, []error{unix.ECONNRESET}},
		{"Write after a reset", func(t *testing.T, a, b conn) error { resetBy(b); return writeAll(a) }, []error{unix.ECONNRESET, unix.EPIPE}},
		{"Write while a reset comes", func(t *testing.T, a, b conn) error {
			ended := waiting(t, func() error { return writeAll(a) })
			resetBy(b)
			return result(t, ended)
		}, []error{unix.ECONNRESET, unix.EPIPE}},
		{"Write after a reset was read", func(t *testing.T, a, b conn) error { resetBy(b); _ = read(a); return writeAll(a) }, []error{unix.EPIPE}},
		{"Write after CloseWrite", func(t *testing.T, a, b conn) error {
			if err := a.CloseWrite(); err != nil {
				return err
			}
			return writeAll(a)
		}, []error{unix.EPIPE}},
		{"CloseWrite after a reset", func(t *testing.T, a, b conn) error { resetBy(b); _ = read(a); return a.CloseWrite() }, []error{unix.ENOTCONN}},
		{"Read with a past deadline", func(t *testing.T, a, b conn) error { return errors.Join(a.SetReadDeadline(past), read(a)) }, []error{os.ErrDeadlineExceeded}},
		{"Read until a deadline", func(t *testing.T, a, b conn) error { return errors.Join(a.SetDeadline(soon()), read(a)) }, []error{os.ErrDeadlineExceeded}},
		{"Read while a deadline is set", func(t *testing.T, a, b conn) error {
			ended := waiting(t, func() error { return read(a) })
			return errors.Join(a.SetReadDeadline(past), result(t, ended))
		}, []error{os.ErrDeadlineExceeded}},
		{"Write with a past deadline", func(t *testing.T, a, b conn) error { return errors.Join(a.SetWriteDeadline(past), writeAll(a)) }, []error{os.ErrDeadlineExceeded}},
		{"Write until a deadline", func(t *testing.T, a, b conn) error { return errors.Join(a.SetDeadline(soon()), writeAll(a)) }, []error{os.ErrDeadlineExceeded}},
		{"Write while a deadline is set", func(t *testing.T, a, b conn) error {
			ended := waiting(t, func() error { return writeAll(a) })
			return errors.Join(a.SetWriteDeadline(past), result(t, ended))
		}, []error{os.ErrDeadlineExceeded}},
		{"Read while it is closed", func(t *testing.T, a, b conn) error {
			ended := waiting(t, func() error { return read(a) })
			return errors.Join(a.Close(), result(t, ended))
		}, []error{net.ErrClosed}},
		{"Write while it is closed", func(t *testing.T, a, b conn) error {
			ended := waiting(t, func() error { return writeAll(a) })
			return errors.Join(a.Close(), result(t, ended))
		}, []error{net.ErrClosed}},
		{"Read after Close", func(t *testing.T, a, b conn) error { a.Close(); return read(a) }, []error{net.ErrClosed}},
		{"Write after Close", func(t *testing.T, a, b conn) error { a.Close(); return writeAll(a) }, []error{net.ErrClosed}},
		{"CloseWrite after Close", func(t *testing.T, a, b conn) error { a.Close(); return a.CloseWrite() }, []error{net.ErrClosed}},
		{"SetLinger after Close", func(t *testing.T, a, b conn) error { a.Close(); return a.SetLinger(0) }, []error{net.ErrClosed}},
		{"SetDeadline after Close", func(t *testing.T, a, b conn) error { a.Close(); return a.SetDeadline(past) }, []error{net.ErrClosed}},
		{"SetReadDeadline after Close", func(t *testing.T, a, b conn) error { a.Close(); return a.SetReadDeadline(past) }, []error{net.ErrClosed}},
		{"SetWriteDeadline after Close", func(t *testing.T, a, b conn) error { a.Close(); return a.SetWriteDeadline(past) }, []error{net.ErrClosed}},
		{"Close after Close", func(t *testing.T, a, b conn) error { a.Close(); return a.Close() }, []error{net.ErrClosed}},
	} {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(t *testing.T, a, b conn) {
				err := c.do(t, a, b)
				for _, want := range c.want {
					if !errors.Is(err, want) {
						continue
					}
					var timeout net.Error
					switch want {
					case io.EOF:
						if err != want { // nobody asks errors.Is for it
							t.Errorf("%#v is not io.EOF itself", err)
						}
					case os.ErrDeadlineExceeded:
						if !errors.As(err, &timeout) || !timeout.Timeout() {
							t.Errorf("%#v is no timeout", err)
						}
					}
					return
				}
				t.Errorf("%v, not %v", err, c.want)
			})
		})
	}
}

// The end of one direction leaves the other.
func TestCloseWrite(t *testing.T) {
	each(t, func(t *testing.T, a, b conn) {
		if _, err := a.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if all, err := io.ReadAll(b); string(all) != "question" || err != nil {
			t.Errorf("%q, %v", all, err)
		}
		if _, err := b.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		b.Close()
		if all, err := io.ReadAll(a); string(all) != "answer" || err != nil {
			t.Errorf("%q, %v", all, err)
		}
	})
}

// One Write of more than the kernel has room for arrives whole, however it is read.
func TestLargeWrite(t *testing.T) {
	data := make([]byte, 16<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data) // never fails
	each(t, func(t *testing.T, a, b conn) {
		var sent int
		ended := waiting(t, func() (err error) {
			defer a.Close()
			sent, err = a.Write(data)
			return err
		})
		rest, buffer := data, make([]byte, 1<<16)
		for size := 1; ; size = size*7%len(buffer) + 1 {
			n, err := b.Read(buffer[:size])
			if n > len(rest) || !bytes.Equal(buffer[:n], rest[:min(n, len(rest))]) {
				t.Fatalf("other data after %d bytes", len(data)-len(rest))
			}
			if rest = rest[n:]; err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if err := result(t, ended); err != nil || sent != len(data) || len(rest) > 0 {
			t.Errorf("sent %d bytes, %d of them are missing: %v", sent, len(rest), err)
		}
	})
}

// What was written of a Write that ends too early is counted.
func TestPartOfWrite(t *testing.T) {
	each(t, func(t *testing.T, a, b conn) {
		var sent int
		ended := waiting(t, func() (err error) {
			sent, err = a.Write(make([]byte, 64<<20))
			return err
		})
		_ = a.SetWriteDeadline(time.Unix(1, 0))
		if err := result(t, ended); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		a.Close()
		if n, err := io.Copy(io.Discard, b); err != nil || int(n) != sent || n == 0 {
			t.Errorf("%d bytes came of %d: %v", n, sent, err)
		}
	})
}

// Both ends know where they are, and send at once.
func TestAddresses(t *testing.T) {
	for _, at := range loopbacks {
		accept, to, stop := own.listen(at)
		defer stop()
		a, err := own.dial(to)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		b, err := accept()
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		for name, c := range map[string]struct {
			got  net.Addr
			want netip.AddrPort
		}{
			"dialled, remote":  {a.RemoteAddr(), to},
			"accepted, local":  {b.LocalAddr(), to},
			"accepted, remote": {b.RemoteAddr(), a.LocalAddr().(*net.TCPAddr).AddrPort()},
		} {
			if got, ok := c.got.(*net.TCPAddr); !ok || got.AddrPort() != c.want || got.Network() != "tcp" {
				t.Errorf("%s: %#v, not %v", name, c.got, c.want)
			}
		}
		if local := a.LocalAddr().(*net.TCPAddr).AddrPort(); local.Addr() != at || local.Port() == 0 || local == to {
			t.Errorf("the dialled one is at %v", local)
		}
		if c := b.(*Conn); c.Local != to || c.Remote != a.LocalAddr().(*net.TCPAddr).AddrPort() {
			t.Errorf("taken in at %v from %v", c.Local, c.Remote)
		}
	}
}

// option reads an option of a connection's.
func option(t *testing.T, c conn, level, name int) (value int) {
	t.Helper()
	raw, err := c.SyscallConn()
	var failed error
	if err == nil {
		err = raw.Control(func(fd uintptr) { value, failed = unix.GetsockoptInt(int(fd), level, name) })
	}
	if err = errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	return value
}

// Nothing waits for more to send (Nagle's algorithm), and no child inherits anything.
func TestOptions(t *testing.T) {
	each(t, func(t *testing.T, a, b conn) {
		if option(t, a, unix.IPPROTO_TCP, unix.TCP_NODELAY) == 0 {
			t.Error("TCP_NODELAY is off")
		}
		raw, _ := a.SyscallConn()
		_ = raw.Control(func(fd uintptr) {
			if flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("no FD_CLOEXEC: %x, %v", flags, err)
			}
			if flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
				t.Errorf("no O_NONBLOCK: %x, %v", flags, err)
			}
		})
		c, ok := a.(*Conn)
		if !ok {
			return
		}
		c.KeepAlive(70*time.Second, 3)
		for name, o := range map[string][3]int{
			"SO_KEEPALIVE":  {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			"TCP_KEEPIDLE":  {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 70},
			"TCP_KEEPINTVL": {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 70},
			"TCP_KEEPCNT":   {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
		} {
			if got := option(t, c, o[0], o[1]); got != o[2] {
				t.Errorf("%s is %d", name, got)
			}
		}
	})
}

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
	for at, to := range map[string]string{
		"127.0.0.1":        "127.0.0.1",
		"::1":              "::1",
		"0.0.0.0":          "127.7.7.7",
		"127.0.0.2":        "127.0.0.2",
		"::ffff:127.0.0.1": "::ffff:127.0.0.1",
	} {
		fd, err := Socket(netip.MustParseAddr(at))
		if err != nil {
			t.Fatal(err)
		}
		if err = unix.Bind(fd, Sockaddr(netip.AddrPortFrom(netip.MustParseAddr(at), 0))); err != nil {
			t.Fatal(err)
		}
		local, err := localAddr(fd)
		if err != nil {
			t.Fatal(err)
		}
		c, done, err := Begin(fd, netip.AddrPortFrom(netip.MustParseAddr(to), local.Port()))
		if !errors.Is(err, unix.ECONNREFUSED) || c != nil || done {
			t.Errorf("from %s to %s: %v, %t, %v", at, to, c, done, err)
		}
	}
	// 0.0.0.0 and :: stand for this host.
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		fd, err := Socket(any)
		if err != nil {
			t.Fatal(err)
		}
		if err = unix.Bind(fd, Sockaddr(netip.AddrPortFrom(any, 0))); err != nil {
			t.Fatal(err)
		}
		local, err := localAddr(fd)
		if err != nil {
			t.Fatal(err)
		}
		if c, done, err := Begin(fd, local); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%v: %v, %t, %v", local, c, done, err)
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

// Without descriptors, both sides fail, and go on when there are some.
func TestNoDescriptors(t *testing.T) {
	l, to := listen(t, loopback4)
	waits, err := Dial(context.Background(), to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { waits.Close() })
	noLeak(t)
	next, err := unix.Dup(0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(next)
	var limit, none unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none = limit
	none.Cur = uint64(next)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	_, dialErr := Dial(context.Background(), to)
	_, acceptErr := l.Accept()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if dialErr != unix.EMFILE || acceptErr != unix.EMFILE {
		t.Errorf("Dial: %v, Accept: %v", dialErr, acceptErr)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if c.Remote != waits.LocalAddr().(*net.TCPAddr).AddrPort() {
		t.Errorf("accepted %v, not who waits", c.Remote)
	}
	c.Close()
}

// A listener at every address says at which a connection came, and has those of its
// own family alone.
func TestListenAnywhere(t *testing.T) {
	for any, to := range map[netip.Addr]string{netip.IPv4Unspecified(): "127.7.7.7", netip.IPv6Unspecified(): "::1"} {
		l, at := listen(t, any)
		want := netip.AddrPortFrom(netip.MustParseAddr(to), at.Port())
		c, err := Dial(context.Background(), want)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
		if accepted.Local != want || accepted.Remote != c.LocalAddr().(*net.TCPAddr).AddrPort() {
			t.Errorf("at %v from %v, not at %v from %v", accepted.Local, accepted.Remote, want, c.LocalAddr())
		}
		var only int
		if any.Is6() {
			_ = l.raw.Control(func(fd uintptr) { only, err = unix.GetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_V6ONLY) })
			if only != 1 || err != nil {
				t.Errorf("IPV6_V6ONLY is %d, %v", only, err)
			}
		}
	}
}

// Accept ends with the listener, whether it waits or comes later.
func TestListenerClose(t *testing.T) {
	noLeak(t)
	l, to := listen(t, loopback4)
	ended := waiting(t, func() error { _, err := l.Accept(); return err })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := result(t, ended); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept that waited: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	if err := l.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Close after Close: %v", err)
	}
	if _, err := Dial(context.Background(), to); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("Dial after Close: %v", err)
	}
}

// Who has left before being accepted does not end what accepts the others.
func TestResetBeforeAccept(t *testing.T) {
	for _, at := range loopbacks {
		l, to := listen(t, at)
		for range 3 {
			c, err := Dial(context.Background(), to)
			if err != nil {
				t.Fatal(err)
			}
			resetBy(c)
		}
		stays, err := Dial(context.Background(), to)
		if err != nil {
			t.Fatal(err)
		}
		defer stays.Close()
		for {
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if c.Local != to || c.Remote.Addr() != at {
				t.Errorf("taken in at %v from %v", c.Local, c.Remote)
			}
			if c.Remote == stays.LocalAddr().(*net.TCPAddr).AddrPort() {
				break
			}
			if err := read(c); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("Read of one that was reset: %v", err)
			}
		}
	}
}

// BenchmarkConnect is of both ends, and of closing them.
func BenchmarkConnect(b *testing.B) {
	at := netip.AddrPortFrom(loopback4, 0)
	b.Run("tcp", func(b *testing.B) {
		l, to := listen(b, at.Addr())
		b.ReportAllocs()
		for b.Loop() {
			c, err := Dial(b.Context(), to)
			if err != nil {
				b.Fatal(err)
			}
			accepted, err := l.Accept()
			if err != nil {
				b.Fatal(err)
			}
			resetBy(c) // leaves no TIME_WAIT
			accepted.Close()
		}
	})
	b.Run("net", func(b *testing.B) {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		l, err := lc.Listen(b.Context(), "tcp", at.String())
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		to := l.Addr().String()
		var d net.Dialer
		b.ReportAllocs()
		for b.Loop() {
			c, err := d.DialContext(b.Context(), "tcp", to)
			if err != nil {
				b.Fatal(err)
			}
			accepted, err := l.Accept()
			if err != nil {
				b.Fatal(err)
			}
			resetBy(c.(conn))
			accepted.Close()
		}
	})
}
