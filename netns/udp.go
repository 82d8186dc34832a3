package netns

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"appfw/netns/mmsg"
	"appfw/netns/tcp"
)

// DialUDP makes the socket of one UDP flow: it receives what app sends to dst, and
// what it sends comes from dst.
//
// A socket is bound before it can be connected, and meanwhile the kernel would give
// it what anybody sends to dst. So it is marked as ours only when it is connected:
// until then the rules let nothing through for its sake, and each datagram waits at
// the gate, the flow's own and those of others. One that the gate let through for
// another flow's socket, which was closed while it was on its way, meets the filter.
func (g *Gate) DialUDP(app, dst netip.AddrPort) (conn *net.UDPConn, err error) {
	err = g.ns.Do(func() error {
		fd, err := bindFlow(app, dst)
		if err != nil {
			return err
		}
		if err = connectFlow(fd, app); err != nil {
			unix.Close(fd)
			return err
		}
		file := os.NewFile(uintptr(fd), "UDP flow")
		defer file.Close() // FileConn's is another descriptor
		c, err := net.FileConn(file)
		if err == nil {
			conn = c.(*net.UDPConn)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open UDP flow: %w", err)
	}
	return conn, nil
}

// bindFlow makes the socket of a flow from app, bound to dst and not connected yet.
// Package net's would be one for broadcasts, too (SO_BROADCAST of socket(7)).
func bindFlow(app, dst netip.AddrPort) (fd int, err error) {
	domain := unix.AF_INET6
	if dst.Addr().Is4() {
		domain = unix.AF_INET
	}
	fd, err = unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	for _, set := range []func(fd int, v6 bool) error{transparent, reuse, roomy, only(app)} {
		if err = set(fd, domain == unix.AF_INET6); err != nil {
			unix.Close(fd)
			return 0, err
		}
	}
	if err = unix.Bind(fd, tcp.Sockaddr(dst)); err != nil {
		unix.Close(fd)
		return 0, fmt.Errorf("bind: %w", err)
	}
	return fd, nil
}

// connectFlow connects the socket of a flow, and has the rules know it for ours.
func connectFlow(fd int, app netip.AddrPort) error {
	if err := unix.Connect(fd, tcp.Sockaddr(app)); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return own(fd, app.Addr().Is6())
}

// only is an option: the socket receives datagrams from one source alone, whatever
// it is connected to (Documentation/networking/filter.rst).
func only(from netip.AddrPort) func(fd int, v6 bool) error {
	return func(fd int, _ bool) error {
		program := filterSource(from)
		err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
		if err != nil {
			return fmt.Errorf("SO_ATTACH_FILTER: %w", err)
		}
		return nil
	}
}

// networkHeader is where filters find the IP header (SKF_NET_OFF of linux/filter.h,
// which is negative). For a UDP socket, a packet starts with the UDP header.
const networkHeader = 1<<32 - 0x100000

// filterSource is a filter that keeps what comes from one source.
func filterSource(from netip.AddrPort) []unix.SockFilter {
	at := uint32(networkHeader + 8) // the source of IPv6
	if from.Addr().Is4() {
		at = networkHeader + 12
	}
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(from.Port())},
	}
	for address := from.Addr().AsSlice(); len(address) > 0; address, at = address[4:], at+4 {
		program = append(program,
			unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: binary.BigEndian.Uint32(address)})
	}
	program = append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: maxPacket}, // keep as much
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0})         // drop
	for i := 1; i < len(program)-2; i += 2 {
		program[i].Jf = uint8(len(program) - 2 - i) // to the last
	}
	return program
}

// ListenUDP opens a UDP port at an address of the namespace's.
func (g *Gate) ListenUDP(at netip.Addr) (conn *net.UDPConn, err error) {
	err = g.ns.Do(func() error {
		lc := net.ListenConfig{Control: control(own, oneHost)}
		c, err := lc.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(at, 0).String())
		if err == nil {
			conn = c.(*net.UDPConn)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open UDP port: %w", err)
	}
	return conn, nil
}

// oneHost is an option: the socket sends to one host at a time.
func oneHost(fd int, _ bool) error { return mmsg.NoBroadcast(fd) }
