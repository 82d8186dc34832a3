package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"appfw/netns/mmsg"
	"appfw/netns/tcp"
)

// DialUDP makes the socket of one UDP flow: it receives what app sends to dst, and
// what it sends comes from dst.
//
// A socket is bound before it can be connected, and meanwhile the kernel would give
// it what anybody sends to dst. So it is marked as ours only when it is connected, and
// nothing is under way any more that found it before (see marker): until then the rules
// let nothing through for its sake, and each datagram waits at the gate, the flow's own
// and those of others. One that the gate let through for another flow's socket, which
// was closed while it was on its way, meets the filter.
func (g *Gate) DialUDP(app, dst netip.AddrPort) (*net.UDPConn, error) {
	conn, err := g.openFlow(app, dst, func(int, bool) error { return nil })
	if err == nil {
		sockets.add(conn)
	}
	return conn, err
}

// DialClient makes the socket of a flow to the app, from a client's address: what it sends
// comes from there. The app answers at once, so it is marked as ours when it is connected.
// A datagram of the app's own for that very address, which was looked up before, meets the
// filter and is lost.
func (g *Gate) DialClient(app, client netip.AddrPort) (*net.UDPConn, error) {
	return g.openFlow(app, client, own)
}

// openFlow makes the socket of a flow. mark is done when it is connected.
func (g *Gate) openFlow(app, dst netip.AddrPort, mark func(fd int, v6 bool) error) (conn *net.UDPConn, err error) {
	err = g.ns.Do(func() error {
		fd, err := bindFlow(app, dst)
		if err != nil {
			return err
		}
		if err = errors.Join(connectFlow(fd, app), mark(fd, app.Addr().Is6())); err != nil {
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

// marker marks sockets of flows as ours. The rules look a socket up and then read its
// mark: if it is connected and marked in between, a datagram of another flow is let
// through that was looked up while it was only bound. So there is a grace period of RCU
// (membarrier(2)) between, after which all look-ups have ended that found it so. It
// takes some 10 ms, for all that wait together. A kernel without membarrier(2) gives none.
type marker struct {
	mu      sync.Mutex
	waiting []*net.UDPConn
	runs    bool
}

// sockets is the process's: the grace period is the machine's.
var sockets marker

// add has a socket marked that is connected.
func (m *marker) add(c *net.UDPConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.waiting = append(m.waiting, c); !m.runs {
		m.runs = true
		go m.run()
	}
}

// run marks those that wait, until none does.
func (m *marker) run() {
	for {
		m.mu.Lock()
		batch := m.waiting
		m.waiting = nil
		m.runs = len(batch) > 0
		m.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		const global = 1 // MEMBARRIER_CMD_GLOBAL of linux/membarrier.h
		_, _, _ = unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0)
		for _, c := range batch {
			if raw, err := c.SyscallConn(); err == nil {
				_ = raw.Control(func(fd uintptr) { _ = own(int(fd), false) }) // it is closed by now, perhaps
			}
		}
	}
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

// connectFlow connects the socket of a flow.
func connectFlow(fd int, app netip.AddrPort) error {
	if err := unix.Connect(fd, tcp.Sockaddr(app)); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
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
