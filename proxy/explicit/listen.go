package explicit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"appfw/proxy/relay"
)

// ErrBeyond says that others than this host's could use a proxy that needs no user.
var ErrBeyond = errors.New("others than this host could use it")

// Listeners are those of one proxy.
type Listeners []net.Listener

// Close closes all of them.
func (ls Listeners) Close() {
	for _, l := range ls {
		l.Close()
	}
}

// Addrs are the addresses of those of TCP.
func (ls Listeners) Addrs() (addrs []netip.AddrPort) {
	for _, l := range ls {
		if at := relay.AddrPort(l.Addr()); at.IsValid() {
			addrs = append(addrs, at)
		}
	}
	return addrs
}

// ListenerName is a listener's address as Listen takes it.
func ListenerName(l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return "unix:" + l.Addr().String()
	}
	return l.Addr().String()
}

// ListenAll listens at all addresses, as Listen takes them, and takes those that the
// service manager passed; all or none. option is by which the addresses were given, for
// errors.
func ListenAll(option string, addrs []string, passed []net.Listener, beyond bool) (ls Listeners, err error) {
	defer func() {
		if err != nil {
			ls.Close()
			ls = nil
		}
	}()
	for _, l := range passed {
		if l == nil {
			return ls, errors.New("a socket that was passed is not one that listens for connections (ListenStream=)")
		}
		ls = append(ls, l)
		if tcp, ok := l.Addr().(*net.TCPAddr); ok && !beyond && !tcp.IP.IsLoopback() {
			return ls, fmt.Errorf("the socket %s was passed: %w", l.Addr(), ErrBeyond)
		}
	}
	for _, s := range addrs {
		l, err := Listen(s, beyond)
		if err != nil {
			return ls, fmt.Errorf("%s %s: %w", option, s, err)
		}
		ls = append(ls, l)
	}
	return ls, nil
}

// Listen listens at ADDR:PORT or unix:PATH. Without beyond, ADDR is of the loopback.
func Listen(s string, beyond bool) (net.Listener, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		return listenUnix(path)
	}
	return listenTCP(s, beyond)
}

// listenTCP listens at ADDR:PORT, which is of the loopback if not all may come.
func listenTCP(s string, beyond bool) (net.Listener, error) {
	at, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, errors.New("it is neither ADDR:PORT, as 127.0.0.1:1080 or [::1]:1080, nor unix:PATH")
	}
	if !beyond && !at.Addr().Unmap().IsLoopback() {
		return nil, ErrBeyond
	}
	lc := net.ListenConfig{KeepAlive: time.Minute}
	lc.SetMultipathTCP(false)
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	network := "tcp6" // and not IPv4 besides, as of package net's "tcp" with either 0.0.0.0 or ::
	if at.Addr().Is4() {
		network = "tcp4"
	}
	return lc.Listen(context.Background(), network, at.String())
}

// listenUnix listens at a socket that only this user may connect to. One that
// was left there by a process that has ended is replaced.
func listenUnix(path string) (net.Listener, error) {
	if path == "" || strings.HasPrefix(path, "@") {
		return nil, errors.New("a socket needs a path, which says who may connect")
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
			return nil, errors.New("another process listens there")
		}
		if errors.Is(err, unix.ECONNREFUSED) {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		}
	}
	before := unix.Umask(0o177)
	defer unix.Umask(before)
	return net.Listen("unix", path)
}
