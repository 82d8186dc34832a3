package netns

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"appfw/netns/tcp"
)

// intakePort is where accepted TCP connections are taken in. In the gateway it
// is out of the app's reach; in the app's namespace it is the one port that the
// app cannot bind. It is above every usual range of ephemeral ports.
const intakePort = 65533

// maxQueued is how many packets may wait for a verdict. More are dropped by
// the kernel, and TCP sends its SYN again.
const maxQueued = 4096

// Gate is where every first packet waits for a verdict, and what accepted
// flows are taken in by. All methods may be called from any goroutine.
type Gate struct {
	// Listeners receive the TCP connections whose SYN was accepted, one a
	// family. The local address of a connection is the app's destination.
	Listeners []*tcp.Listener

	ns    *Namespace
	queue *queue
	raw   map[bool]*os.File // by IPv4 or not: sockets that send whole packets

	closing sync.Once

	drain  netip.Addr // where Drain sends to
	mu     sync.Mutex
	drains map[string]chan struct{} // by payload: closed when Run meets it
}

// OpenGateway opens the gate at the gateway's end of the veth.
func OpenGateway(ns *Namespace, ipv6 bool) (*Gate, error) {
	return open(ns, ipv6, ruleset.gateway, Gateway4)
}

// OpenLoopback opens the gate within the app's namespace, on its loopback.
// Only packets that no socket of the app's receives come to it.
func OpenLoopback(ns *Namespace, ipv6 bool) (*Gate, error) {
	return open(ns, ipv6, ruleset.loopback, netip.AddrFrom4([4]byte{127, 0, 0, 1}))
}

func open(ns *Namespace, ipv6 bool, rules func(ruleset, family), drain netip.Addr) (*Gate, error) {
	g := &Gate{ns: ns, drain: drain, raw: make(map[bool]*os.File), drains: make(map[string]chan struct{})}
	if err := ns.Do(func() error { return g.openSockets(ipv6) }); err != nil {
		g.Close()
		return nil, err
	}
	if err := ns.install(ipv6, rules); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// openSockets runs in the namespace.
func (g *Gate) openSockets(ipv6 bool) (err error) {
	if g.queue, err = openQueue(queueNumber, maxQueued); err != nil {
		return err
	}
	for _, v4 := range []bool{true, false} {
		if !v4 && !ipv6 {
			continue
		}
		domain := unix.AF_INET
		if !v4 {
			domain = unix.AF_INET6
		}
		// IPPROTO_RAW: the packet comes with its own IP header (raw(7)).
		fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return fmt.Errorf("open raw socket: %w", err)
		}
		g.raw[v4] = os.NewFile(uintptr(fd), "raw socket")
		if err := own(fd, !v4); err != nil {
			return fmt.Errorf("mark raw socket: %w", err)
		}
		l, err := listen(v4)
		if err != nil {
			return fmt.Errorf("open intake: %w", err)
		}
		g.Listeners = append(g.Listeners, l)
	}
	return nil
}

// listen opens the intake of a family, in the calling thread's namespace.
func listen(v4 bool) (*tcp.Listener, error) {
	any := netip.IPv6Unspecified()
	if v4 {
		any = netip.IPv4Unspecified()
	}
	fd, err := tcpSocket(any, transparent, own, reuse, reno)
	if err != nil {
		return nil, err
	}
	return tcp.Listen(fd, netip.AddrPortFrom(any, intakePort))
}

// tcpSocket makes a TCP socket with options.
func tcpSocket(to netip.Addr, options ...func(fd int, v6 bool) error) (fd int, err error) {
	if fd, err = tcp.Socket(to); err != nil {
		return 0, err
	}
	for _, set := range options {
		if err = set(fd, to.Is6()); err != nil {
			unix.Close(fd)
			return 0, err
		}
	}
	return fd, nil
}

// Run calls handle for every packet that waits, one after another, until ctx
// ends; handle must not block. It is called once. Each packet needs one call of
// Accept or Drop, now or later; a reply goes by Send. err tells packets that
// [ParsePacket] could not make sense of.
func (g *Gate) Run(ctx context.Context, handle func(p Packet, err error)) (err error) {
	defer context.AfterFunc(ctx, func() { _ = g.queue.file.SetReadDeadline(time.Unix(1, 0)) })()
	for err == nil {
		err = g.queue.receive(func(id uint32, packet []byte, alone bool) {
			p, err := ParsePacket(packet)
			p.id, p.Alone = id, alone
			switch {
			case packet == nil || err == nil && g.drained(p):
				_ = g.Drop(p)
			case err == nil && p.late():
				_ = g.queue.accept(p.id, 0)
			default:
				handle(p, err)
			}
		})
	}
	if ctx.Err() != nil {
		return g.Close()
	}
	return errors.Join(fmt.Errorf("read NFQUEUE: %w", err), g.Close())
}

// late tells whether a packet is a segment of a connection of the app's that is there by
// now, or that the kernel resets: it opens none, so there is nothing to judge.
func (p Packet) late() bool {
	a := p.Src.Addr()
	return p.Proto == unix.IPPROTO_TCP && !p.opens && (a == App4 || a == App6 || a.IsLoopback() && p.Dst.Addr().IsLoopback())
}

// Drain waits until Run has handled all packets that the app has sent so far,
// or until ctx ends. It sends one of its own after them.
func (g *Gate) Drain(ctx context.Context, app *Namespace) {
	seen := make(chan struct{})
	nonce := make([]byte, 16)
	_, _ = rand.Read(nonce) // never fails
	g.mu.Lock()
	g.drains[string(nonce)] = seen
	g.mu.Unlock()
	err := app.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, nonce, 0, &unix.SockaddrInet4{Addr: g.drain.As4(), Port: drainPort})
	})
	if err != nil {
		g.mu.Lock()
		delete(g.drains, string(nonce))
		g.mu.Unlock()
		return
	}
	select {
	case <-seen:
	case <-ctx.Done(): // when it comes later, it is still none of the app's
	}
}

// drainPort is where Drain sends to. Nothing listens there.
const drainPort = 1

// drained tells whether a packet is one of Drain's.
func (g *Gate) drained(p Packet) bool {
	if p.Proto != unix.IPPROTO_UDP || p.Dst != netip.AddrPortFrom(g.drain, drainPort) {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	seen := g.drains[string(p.Payload)]
	if seen == nil {
		return false
	}
	close(seen)
	delete(g.drains, string(p.Payload))
	return true
}

// Accept lets the packet in: a SYN to a listener, a datagram to the socket
// that DialUDP made for its flow.
func (g *Gate) Accept(p Packet) error {
	return g.queue.accept(p.id, markTake)
}

// Drop forgets the packet. What it is answered goes by [Gate.Send].
func (g *Gate) Drop(p Packet) error {
	return g.queue.drop(p.id)
}

// Send sends a whole IP packet to the source of p: a reply that [Packet.Reset],
// [Packet.Unreachable], [Packet.Datagram] or [Packet.EchoReply] has built. It does
// not judge p: that is dropped besides, before or after. It does not wait; a reply
// for which there is no room is lost, with EAGAIN.
func (g *Gate) Send(p Packet, reply []byte) error {
	dst := p.Src.Addr()
	to := tcp.Sockaddr(netip.AddrPortFrom(dst, 0))
	raw := g.raw[dst.Is4()]
	if raw == nil {
		return unix.EAFNOSUPPORT
	}
	conn, err := raw.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := conn.Control(func(fd uintptr) { err = unix.Sendto(int(fd), reply, unix.MSG_DONTWAIT, to) }); cerr != nil {
		return cerr
	}
	return err
}

// connectTime is how long an app may take to accept a connection. Its kernel does
// so at once, unless its backlog is full.
const connectTime = 10 * time.Second

// DialTCP connects to a port of the app's. To the app, the connection comes from
// the given address, whoever's that is; with port 0, from any port. It gives up when
// ctx ends.
func (g *Gate) DialTCP(ctx context.Context, from, app netip.AddrPort) (conn *tcp.Conn, err error) {
	done := false
	err = g.ns.Do(func() error {
		conn, done, err = begin(from, app)
		return err
	})
	if err == nil && !done { // the namespace's thread is not held up
		ctx, cancel := context.WithTimeout(ctx, connectTime)
		defer cancel()
		err = conn.Await(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the app: %w", err)
	}
	return conn, nil
}

// begin starts a connection of the calling thread's namespace to the app.
func begin(from, app netip.AddrPort) (conn *tcp.Conn, done bool, err error) {
	fd, err := tcpSocket(app.Addr(), transparent, own, reuse, reno)
	if err != nil {
		return nil, false, err
	}
	if err = unix.Bind(fd, tcp.Sockaddr(from)); err != nil {
		unix.Close(fd)
		return nil, false, err
	}
	return tcp.Begin(fd, app)
}

// Close closes all sockets. What waits in the queue is dropped by the kernel.
// Run closes the gate when it ends.
func (g *Gate) Close() error {
	var errs []error
	g.closing.Do(func() {
		for _, l := range g.Listeners {
			errs = append(errs, l.Close())
		}
		if g.queue != nil {
			errs = append(errs, g.queue.Close())
		}
		for _, raw := range g.raw {
			errs = append(errs, raw.Close())
		}
	})
	return errors.Join(errs...)
}
