// Package publish is the ports of the host that lead to the app's: how --publish writes
// them, and how they are opened, or taken from the service manager. The process that may
// open them is not the one that serves them, so they go from one to the other as files.
//
//	ports, err := publish.Parse([]string{"8080:80", "0.0.0.0:25:25"})
//	files, err := publish.Open(ports, activation.Files(true), nil)
//	... // in the process that serves them:
//	intakes, err := publish.Intakes(ports, files)
package publish

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"appfw/netns/mmsg"
	"appfw/policy"
	"appfw/proxy"
)

// Port is a port of the host that leads to one of the app's, as --publish says it.
type Port struct {
	Text string         // as it was written
	UDP  bool           // and not TCP
	At   netip.AddrPort // of the host; invalid if it is passed by the service manager
	Name string         // by which that passes it (LISTEN_FDNAMES of sd_listen_fds(3))
	Port uint16         // the app's
}

// publishDefaults are where a port is published if no address is given.
var publishDefaults = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// parse parses [ADDR:]HOSTPORT:PORT[/udp] and fd:NAME:PORT[/udp]. Without an address it
// is a port for each family.
func parse(flag string) ([]Port, error) {
	wrong := func(format string, args ...any) ([]Port, error) {
		return nil, fmt.Errorf("--publish %s: %s; it is [ADDR:]HOSTPORT:PORT[/udp], as 8080:80 or 0.0.0.0:25:25", flag, fmt.Sprintf(format, args...))
	}
	p := Port{Text: flag}
	text, proto, hasProto := strings.Cut(flag, "/")
	switch {
	case hasProto && proto != "tcp" && proto != "udp":
		return wrong("%q is no protocol of ports", proto)
	case proto == "udp":
		p.UDP = true
	}
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return wrong("there are two ports")
	}
	host, port := text[:i], text[i+1:]
	var err error
	if p.Port, err = policy.ParsePort(port); err != nil {
		return wrong("%v", err)
	}
	if name, ok := strings.CutPrefix(host, "fd:"); ok {
		if name == "" {
			return wrong("a socket that is passed has a name (FileDescriptorName= of systemd.socket(5))")
		}
		p.Name = name
		return []Port{p}, nil
	}
	addrs := publishDefaults
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host[:i], "["), "]"))
		if err != nil {
			return wrong("%q is no address", host[:i])
		}
		if addr.Is6() && host[0] != '[' {
			return wrong("an IPv6 address is written in brackets")
		}
		addrs, host = []netip.Addr{addr.Unmap()}, host[i+1:]
	}
	hostPort, err := policy.ParsePort(host)
	if err != nil {
		return wrong("%v", err)
	}
	var all []Port
	for _, a := range addrs {
		p.At = netip.AddrPortFrom(a, hostPort)
		all = append(all, p)
	}
	return all, nil
}

// Parse parses what --publish says: [ADDR:]HOSTPORT:PORT[/udp], of which none without an
// address is the loopback of each family, and fd:NAME:PORT[/udp]. HOSTPORT and PORT may be
// ranges of as many ports (8000-8009:9000-9009), which are led to each other in their order.
func Parse(flags []string) (all []Port, err error) {
	for _, f := range flags {
		each, err := expand(f)
		if err != nil {
			return nil, fmt.Errorf("--publish %s: %w", f, err)
		}
		for _, f := range each {
			p, err := parse(f)
			if err != nil {
				return nil, err
			}
			all = append(all, p...)
		}
	}
	return all, nil
}

// maxRange bounds the ports of a range: each takes sockets of its own.
const maxRange = 256

// expand is what is to be published of ranges, one by one.
func expand(flag string) ([]string, error) {
	rest, proto, _ := strings.Cut(flag, "/")
	if proto != "" {
		proto = "/" + proto
	}
	colon := strings.LastIndexByte(rest, ':')
	if colon < 0 || strings.HasPrefix(rest, "fd:") || !strings.Contains(rest, "-") {
		return []string{flag}, nil
	}
	to := rest[colon+1:]
	addr, from := "", rest[:colon]
	if i := strings.LastIndexByte(from, ':'); i >= 0 {
		addr, from = from[:i+1], from[i+1:]
	}
	first, n, err := portRange(from)
	if err != nil {
		return nil, err
	}
	firstTo, m, err := portRange(to)
	switch {
	case err != nil:
		return nil, err
	case n != m:
		return nil, fmt.Errorf("%s are %d ports, and %s are %d", from, n, to, m)
	case n > maxRange:
		return nil, fmt.Errorf("a range has %d ports at most", maxRange)
	}
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("%s%d:%d%s", addr, first+i, firstTo+i, proto))
	}
	return all, nil
}

// portRange is the first port of FIRST-LAST, or of one alone, and how many there are.
func portRange(s string) (first, n int, err error) {
	from, to, isRange := strings.Cut(s, "-")
	a, err := policy.ParsePort(from)
	if err != nil {
		return 0, 0, err
	}
	b := a
	if isRange {
		if b, err = policy.ParsePort(to); err != nil {
			return 0, 0, err
		}
	}
	if b < a {
		return 0, 0, fmt.Errorf("the range %s ends before it begins", s)
	}
	return int(a), int(b) - int(a) + 1, nil
}

// open opens the port. It is nil if the host has no such address, and none was
// asked for.
func (p *Port) open(passed []*os.File, later func(Port)) (*os.File, error) {
	if p.Name != "" {
		kind := unix.SOCK_STREAM
		if p.UDP {
			kind = unix.SOCK_DGRAM
		}
		var named, fit []*os.File
		for _, f := range passed {
			if f.Name() != p.Name {
				continue
			}
			named = append(named, f)
			if k, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_TYPE); err == nil && k == kind {
				fit = append(fit, f)
			}
		}
		switch {
		case len(named) == 0:
			return nil, fmt.Errorf("--publish %s: the service manager passes no socket of the name %q", p.Text, p.Name)
		case len(fit) == 0:
			return nil, fmt.Errorf("--publish %s: it is a socket of another kind", p.Text)
		case len(fit) > 1: // clients of the others would wait for ever
			return nil, fmt.Errorf("--publish %s: the service manager passes %d sockets of that name; give each its own (FileDescriptorName= of a .socket of its own)", p.Text, len(fit))
		}
		return fit[0], nil
	}
	file, err := p.listen(false)
	if errors.Is(err, unix.EADDRNOTAVAIL) && later != nil && !p.At.Addr().IsLoopback() {
		if file, err = p.listen(true); err == nil {
			later(*p)
		}
	}
	if err != nil {
		if p.At.Addr() == netip.IPv6Loopback() && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) && !strings.Contains(p.Text, "[") {
			return nil, nil
		}
		if errors.Is(err, unix.EACCES) && p.At.Port() < 1024 {
			err = fmt.Errorf("%w (ports below 1024 are root's on most hosts)", err)
		}
		return nil, fmt.Errorf("--publish %s: %w", p.Text, err)
	}
	return file, nil
}

// listen opens the port; with free, also where the host has no such address yet
// (IP_FREEBIND of ip(7)).
func (p *Port) listen(free bool) (*os.File, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	if free {
		lc.Control = func(_, _ string, raw syscall.RawConn) error {
			var err error
			cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) })
			return errors.Join(cerr, err)
		}
	}
	family := "6"
	if p.At.Addr().Is4() {
		family = "4"
	}
	var socket any
	var err error
	if p.UDP {
		socket, err = lc.ListenPacket(context.Background(), "udp"+family, p.At.String())
	} else {
		socket, err = lc.Listen(context.Background(), "tcp"+family, p.At.String())
	}
	if err != nil {
		return nil, err
	}
	s := socket.(interface {
		File() (*os.File, error)
		Close() error
	})
	defer s.Close()
	return s.File()
}

// Open opens the ports, a file for each. passed are the sockets of the service manager.
// later is told of ports at addresses that the host does not have, which work when it
// has; without it they are errors.
func Open(all []Port, passed []*os.File, later func(Port)) (files []*os.File, err error) {
	for i := range all {
		f, err := all[i].open(passed, later)
		if err == nil && f == nil {
			f, err = os.Open(os.DevNull)
		}
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// Intakes are those of the ports that Open opened, whose files it closes. Their Proxy and
// To are to be set.
func Intakes(all []Port, files []*os.File) (ports []*proxy.Published, err error) {
	for i, p := range all {
		port := &proxy.Published{Port: p.Port}
		kind, err := unix.GetsockoptInt(int(files[i].Fd()), unix.SOL_SOCKET, unix.SO_TYPE)
		switch {
		case err == unix.ENOTSOCK:
			files[i].Close()
			continue // the host has no such address
		case err == nil && kind == unix.SOCK_DGRAM:
			var conn net.PacketConn
			if err = mmsg.NoBroadcast(int(files[i].Fd())); err != nil {
				break
			}
			if conn, err = net.FilePacketConn(files[i]); err == nil {
				port.UDP, _ = conn.(*net.UDPConn)
			}
		case err == nil:
			var l net.Listener
			if l, err = net.FileListener(files[i]); err == nil {
				if _, isTCP := l.(*net.TCPListener); isTCP {
					port.TCP = l
				}
			}
		}
		files[i].Close()
		if err == nil && (p.UDP && port.UDP == nil || !p.UDP && port.TCP == nil) {
			err = errors.New("it is a socket of another kind")
		}
		if err != nil {
			return nil, fmt.Errorf("--publish %s: %w", p.Text, err)
		}
		ports = append(ports, port)
	}
	return ports, nil
}
