package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// ListenDNS opens TCP and UDP port 53 of every address in the gateway: what the
// app sends to port 53 of any address comes there, and the local address of a
// connection or datagram says which it was.
func ListenDNS(ns *Namespace, ipv6 bool) (tcp []net.Listener, udp []*net.UDPConn, err error) {
	err = ns.Do(func() error {
		lc := net.ListenConfig{Control: control(transparent, own, oneHost)}
		lc.SetMultipathTCP(false)
		roomy := net.ListenConfig{Control: control(transparent, own, roomy)} // for many questions at once
		networks := []string{"4"}
		if ipv6 {
			networks = append(networks, "6")
		}
		for _, n := range networks {
			l, err := lc.Listen(context.Background(), "tcp"+n, ":53")
			if err != nil {
				return err
			}
			tcp = append(tcp, l)
			pc, err := roomy.ListenPacket(context.Background(), "udp"+n, ":53")
			if err != nil {
				return err
			}
			udp = append(udp, pc.(*net.UDPConn))
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("open port 53: %w", err)
	}
	return tcp, udp, nil
}

// control makes a hook for net.Dialer and net.ListenConfig out of options.
func control(options ...func(fd int, v6 bool) error) func(network, address string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			for _, set := range options {
				if failed = set(int(fd), network[len(network)-1] == '6'); failed != nil {
					return
				}
			}
		})
		if err != nil {
			return err
		}
		return failed
	}
}

// transparent lets a socket have addresses that are not the namespace's
// (IP_TRANSPARENT of ip(7), IPV6_TRANSPARENT).
func transparent(fd int, v6 bool) error {
	level, option := unix.SOL_IP, unix.IP_TRANSPARENT
	if v6 {
		level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		return fmt.Errorf("IP_TRANSPARENT: %w", err)
	}
	return nil
}

// own marks a socket, and so what it sends, as ours (SO_MARK of socket(7)).
func own(fd int, _ bool) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, markOwn); err != nil {
		return fmt.Errorf("SO_MARK: %w", err)
	}
	return nil
}

// reno is the plainest congestion control, and always there. Between the app and
// the gateway nothing is ever congested; what paces itself (bbr) is only slower.
func reno(fd int, _ bool) error {
	return unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno")
}

// reuse lets the sockets of several flows have the same destination.
func reuse(fd int, _ bool) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
}

// udpRoom is how many bytes of datagrams may wait in a flow's socket: what comes
// within a few milliseconds, in which others may have the processor.
const udpRoom = 1 << 20

// roomy has room for datagrams. Without root, there is as much as the system's
// limit allows (net.core.rmem_max).
func roomy(fd int, _ bool) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, udpRoom) != nil {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, udpRoom)
	}
	return nil
}

// NamedZone is a link-local address by the name of its device, and not by the number.
func NamedZone(a netip.AddrPort) netip.AddrPort {
	index, err := strconv.Atoi(a.Addr().Zone())
	if err != nil {
		return a
	}
	device, err := net.InterfaceByIndex(index)
	if err != nil {
		return a
	}
	return netip.AddrPortFrom(a.Addr().WithZone(device.Name), a.Port())
}
