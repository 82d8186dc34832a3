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

// An idle connection to elsewhere outlives an outage of an hour, and not all time.
func TestOutlivesOutage(t *testing.T) {
	_, to := listen(t, loopback4)
	c, err := DialFar(context.Background(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	seconds := option(t, c, unix.IPPROTO_TCP, unix.TCP_KEEPCNT) * option(t, c, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)
	if seconds <= 3600 || seconds > 3*3600 || option(t, c, unix.SOL_SOCKET, unix.SO_KEEPALIVE) != 1 {
		t.Errorf("it is given up after %d s", seconds)
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
