package tcp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

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
