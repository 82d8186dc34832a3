package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"appfw/proxy"
)

// publication is a port of the host that leads to one of the app's, as --publish
// says it.
type publication struct {
	flag string
	udp  bool
	at   netip.AddrPort // of the host; invalid if it is passed by the service manager
	name string         // by which that passes it (LISTEN_FDNAMES of sd_listen_fds(3))
	port uint16         // the app's
}

// publishDefaults are where a port is published if no address is given.
var publishDefaults = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// parsePublish parses [ADDR:]HOSTPORT:PORT[/udp] and fd:NAME:PORT[/udp].
func parsePublish(flag string) ([]publication, error) {
	wrong := func(format string, args ...any) ([]publication, error) {
		return nil, fmt.Errorf("--publish %s: %s; it is [ADDR:]HOSTPORT:PORT[/udp], as 8080:80 or 0.0.0.0:25:25", flag, fmt.Sprintf(format, args...))
	}
	p := publication{flag: flag}
	text, proto, hasProto := strings.Cut(flag, "/")
	switch {
	case hasProto && proto != "tcp" && proto != "udp":
		return wrong("%q is no protocol of ports", proto)
	case proto == "udp":
		p.udp = true
	}
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return wrong("there are two ports")
	}
	host, port := text[:i], text[i+1:]
	var err error
	if p.port, err = publishedPort(port); err != nil {
		return wrong("%v", err)
	}
	if name, ok := strings.CutPrefix(host, "fd:"); ok {
		if name == "" {
			return wrong("a socket that is passed has a name (FileDescriptorName= of systemd.socket(5))")
		}
		p.name = name
		return []publication{p}, nil
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
		addrs, host = []netip.Addr{addr}, host[i+1:]
	}
	hostPort, err := publishedPort(host)
	if err != nil {
		return wrong("%v", err)
	}
	var all []publication
	for _, a := range addrs {
		p.at = netip.AddrPortFrom(a, hostPort)
		all = append(all, p)
	}
	return all, nil
}

func publishedPort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no port", s)
	}
	return uint16(n), nil
}

// parsePublishes parses all of them.
func parsePublishes(flags []string) (all []publication, err error) {
	for _, f := range flags {
		p, err := parsePublish(f)
		if err != nil {
			return nil, err
		}
		all = append(all, p...)
	}
	return all, nil
}

// open opens the port. It is nil if the host has no such address, and none was
// asked for.
func (p *publication) open(passed []*os.File) (*os.File, error) {
	if p.name != "" {
		kind := unix.SOCK_STREAM
		if p.udp {
			kind = unix.SOCK_DGRAM
		}
		var named, fit []*os.File
		for _, f := range passed {
			if f.Name() != p.name {
				continue
			}
			named = append(named, f)
			if k, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_TYPE); err == nil && k == kind {
				fit = append(fit, f)
			}
		}
		switch {
		case len(named) == 0:
			return nil, fmt.Errorf("--publish %s: the service manager passes no socket of the name %q", p.flag, p.name)
		case len(fit) == 0:
			return nil, fmt.Errorf("--publish %s: it is a socket of another kind", p.flag)
		case len(fit) > 1: // clients of the others would wait for ever
			return nil, fmt.Errorf("--publish %s: the service manager passes %d sockets of that name; give each its own (FileDescriptorName= of a .socket of its own)", p.flag, len(fit))
		}
		return fit[0], nil
	}
	var socket interface{ File() (*os.File, error) }
	family := "6"
	if p.at.Addr().Is4() {
		family = "4"
	}
	var err error
	if p.udp {
		socket, err = net.ListenUDP("udp"+family, net.UDPAddrFromAddrPort(p.at))
	} else {
		socket, err = net.ListenTCP("tcp"+family, net.TCPAddrFromAddrPort(p.at))
	}
	if err != nil {
		if p.at.Addr() == netip.IPv6Loopback() && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) && !strings.Contains(p.flag, "[") {
			return nil, nil
		}
		if errors.Is(err, unix.EACCES) && p.at.Port() < 1024 {
			err = fmt.Errorf("%w (ports below 1024 are root's on most hosts)", err)
		}
		return nil, fmt.Errorf("--publish %s: %w", p.flag, err)
	}
	return socket.File()
}

// openPorts opens what is published, for the gateway to inherit: a file for each.
func openPorts(all []publication, passed []*os.File) (files []*os.File, err error) {
	for i := range all {
		f, err := all[i].open(passed)
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

// asPorts are the ports that openPorts opened, whose files it closes.
func asPorts(all []publication, files []*os.File) (ports []proxy.Published, err error) {
	for i, p := range all {
		port := proxy.Published{Port: p.port}
		kind, err := unix.GetsockoptInt(int(files[i].Fd()), unix.SOL_SOCKET, unix.SO_TYPE)
		switch {
		case err == unix.ENOTSOCK:
			files[i].Close()
			continue // the host has no such address
		case err == nil && kind == unix.SOCK_DGRAM:
			var conn net.PacketConn
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
		if err == nil && (p.udp && port.UDP == nil || !p.udp && port.TCP == nil) {
			err = errors.New("it is a socket of another kind")
		}
		if err != nil {
			return nil, fmt.Errorf("--publish %s: %w", p.flag, err)
		}
		ports = append(ports, port)
	}
	return ports, nil
}
