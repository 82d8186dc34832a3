package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/netns/tcp"
	"appfw/proxy/relay"
)

// fakeGate is a gate without a kernel behind it. What is let in comes to a socket of
// the proxy's as the kernel would bring it. Each packet has to be settled once.
type fakeGate struct {
	t       testing.TB
	packets chan fakePacket
	conns   chan accepted // that the listener takes in
	running chan struct{} // closed when packets are taken in
	closed  chan struct{} // and when they are not any more

	mu       sync.Mutex
	shown    uint16                    // packets
	settled  map[uint16]bool           // by number: whether they were let in
	changed  chan struct{}             // closed when one is settled or a reply sent
	replies  []netns.Packet            // that were sent
	udp      map[pair]*net.UDPConn     // the app's ends of sockets
	dialUDP  func() error              // before a socket is made; nil: nothing
	onSettle func()                    // before a verdict is noted; nil: nothing
	onSYN    func(k pair)              // what the kernel does with a SYN that is let in; nil: it connects
	apps     chan net.Conn             // the app's ends of connections
	inward   []inward                  // connections to the app
	inTo     map[netip.AddrPort]string // where the app listens in truth
}

type fakePacket struct {
	netns.Packet
	err error
}

// accepted is what the listener takes in next: a connection, or an error.
type accepted struct {
	conn     relay.Stream
	src, dst netip.AddrPort
	err      error
}

// inward is a connection to the app that was made.
type inward struct{ from, app netip.AddrPort }

func newFakeGate(t testing.TB) *fakeGate {
	return &fakeGate{
		t: t, packets: make(chan fakePacket), conns: make(chan accepted, 4096), running: make(chan struct{}), closed: make(chan struct{}),
		settled: make(map[uint16]bool), changed: make(chan struct{}), udp: make(map[pair]*net.UDPConn),
		apps: make(chan net.Conn, 4096), inTo: make(map[netip.AddrPort]string),
	}
}

func (g *fakeGate) gate() Gate { return Gate{Queue: g, Sockets: g, Listeners: []Listener{g}} }

// served has the gate's packets taken in until the test ends or stop is called, which
// waits for that. Then each of them must have been settled.
func (w *world) served(g *fakeGate, asks Asks) (in *GateIntake, stop func()) {
	in = &GateIntake{Proxy: w.Proxy, Gate: g.gate(), Explicit: asks}
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error)
	go func() { ended <- w.Serve(ctx, in) }()
	receive(w.t, "the intake", g.running)
	stop = sync.OnceFunc(func() {
		cancel()
		if err := receive(w.t, "the end of the intake", ended); err != nil {
			w.t.Error(err)
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		for n := range g.shown {
			if _, ok := g.settled[n]; !ok {
				w.t.Errorf("packet %d has no verdict", n)
			}
		}
		in.mu.Lock()
		defer in.mu.Unlock()
		if len(in.let) > 0 || in.owed != 0 {
			w.t.Errorf("%d SYNs are let in, %d descriptors owed", len(in.let), in.owed)
		}
		for _, c := range g.udp {
			c.Close()
		}
		w.checkScope(in.scope)
	})
	w.t.Cleanup(stop)
	return in, stop
}

// show has a packet wait in the queue, and returns its number.
func (g *fakeGate) show(packet []byte) uint16 {
	g.t.Helper()
	g.mu.Lock()
	n := g.shown
	g.shown++
	g.mu.Unlock()
	if packet[0]>>4 == 4 {
		binary.BigEndian.PutUint16(packet[4:], n) // the identification
	} else {
		binary.BigEndian.PutUint16(packet[2:], n) // the flow label
	}
	p, err := netns.ParsePacket(packet)
	select {
	case g.packets <- fakePacket{p, err}:
	case <-g.closed:
		g.t.Error("nobody takes packets in")
	}
	return n
}

func numberOf(p netns.Packet) uint16 {
	if p.IP[0]>>4 == 4 {
		return binary.BigEndian.Uint16(p.IP[4:])
	}
	return binary.BigEndian.Uint16(p.IP[2:])
}

// Run implements [Queue].
func (g *fakeGate) Run(ctx context.Context, handle func(netns.Packet, error)) error {
	close(g.running)
	defer close(g.closed)
	for {
		select {
		case p := <-g.packets:
			handle(p.Packet, p.err)
		case <-ctx.Done():
			return nil
		}
	}
}

// Settle implements [Queue].
func (g *fakeGate) Settle(p netns.Packet, in bool) error {
	n, k := numberOf(p), pair{p.Src, p.Dst}
	if g.onSettle != nil {
		g.onSettle()
	}
	g.mu.Lock()
	if _, known := g.settled[n]; known {
		g.t.Errorf("packet %d is settled again", n)
	}
	g.settled[n] = in
	g.change()
	app, onSYN := g.udp[k], g.onSYN
	g.mu.Unlock()
	switch {
	case !in:
	case p.Proto == unix.IPPROTO_UDP && app == nil:
		g.t.Errorf("packet %d is let in to no socket", n)
	case p.Proto == unix.IPPROTO_UDP:
		_, _ = app.Write(p.Payload)
	case onSYN != nil:
		onSYN(k)
	default:
		g.connect(k)
	}
	return nil
}

// connect makes the connection of a SYN that was let in.
func (g *fakeGate) connect(k pair) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Error(err)
		return
	}
	defer l.Close()
	app, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		g.t.Error(err)
		return
	}
	conn, err := l.Accept()
	if err != nil {
		g.t.Error(err)
		return
	}
	g.t.Cleanup(func() { app.Close(); conn.Close() })
	g.conns <- accepted{conn: gated{conn.(*net.TCPConn), k}, src: k.src, dst: k.dst}
	g.apps <- app
}

// gated is a connection that has the addresses of the app's and its destination.
type gated struct {
	*net.TCPConn
	pair
}

func (c gated) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.src) }
func (c gated) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.dst) }

// Accept implements [Listener].
func (g *fakeGate) Accept() (relay.Stream, netip.AddrPort, netip.AddrPort, error) {
	select {
	case a := <-g.conns:
		return a.conn, a.src, a.dst, a.err
	case <-g.closed:
		return nil, netip.AddrPort{}, netip.AddrPort{}, net.ErrClosed
	}
}

// Send implements [Queue].
func (g *fakeGate) Send(to netns.Packet, reply []byte) error {
	p, err := netns.ParsePacket(reply)
	if err == netns.ErrMapped { // it is from such an address
		p.Payload = p.IP[40:]
	} else if err != nil {
		g.t.Error(err)
	}
	if p.Dst.Addr() != to.Src.Addr() {
		g.t.Errorf("a reply to %s goes to %s", to.Src, p.Dst)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.replies = append(g.replies, p)
	g.change()
	return nil
}

// change says that something happened. g.mu is held.
func (g *fakeGate) change() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// wantSettled waits until a packet is settled, as it should be.
func (g *fakeGate) wantSettled(n uint16, want bool) {
	g.t.Helper()
	for {
		g.mu.Lock()
		in, known := g.settled[n]
		changed := g.changed
		g.mu.Unlock()
		if known && in != want {
			g.t.Errorf("packet %d: let in is %t", n, in)
		}
		if known {
			return
		}
		receive(g.t, "a verdict", changed)
	}
}

// waits fails the test if a packet is settled.
func (g *fakeGate) waits(n uint16) {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if in, known := g.settled[n]; known {
		g.t.Errorf("packet %d does not wait: let in is %t", n, in)
	}
}

// reply waits for the next reply.
func (g *fakeGate) reply() netns.Packet {
	g.t.Helper()
	for {
		g.mu.Lock()
		if len(g.replies) > 0 {
			p := g.replies[0]
			g.replies = g.replies[1:]
			g.mu.Unlock()
			return p
		}
		changed := g.changed
		g.mu.Unlock()
		receive(g.t, "a reply", changed)
	}
}

// silent fails the test if there is a reply that was not asked for.
func (g *fakeGate) silent() {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.replies) > 0 {
		g.t.Errorf("%d replies are left: %+v", len(g.replies), g.replies)
	}
}

// DialClient implements [Sockets].
func (g *fakeGate) DialClient(app, client netip.AddrPort) (*net.UDPConn, error) {
	return g.DialUDP(app, client)
}

// DialUDP implements [Sockets].
func (g *fakeGate) DialUDP(app, dst netip.AddrPort) (*net.UDPConn, error) {
	g.mu.Lock()
	before := g.dialUDP
	g.mu.Unlock()
	if before != nil {
		if err := before(); err != nil {
			return nil, err
		}
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if old := g.udp[pair{app, dst}]; old != nil {
		old.Close()
	}
	g.udp[pair{app, dst}] = theirs
	return ours, nil
}

// socketPair are two sockets of UDP that are connected to each other.
func socketPair() (a, b *net.UDPConn, err error) {
	free, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, nil, err
	}
	at := free.LocalAddr().(*net.UDPAddr)
	if a, err = net.DialUDP("udp4", nil, at); err != nil {
		free.Close()
		return nil, nil, err
	}
	raw, err := free.SyscallConn()
	if err == nil {
		to := a.LocalAddr().(*net.UDPAddr).AddrPort()
		cerr := raw.Control(func(fd uintptr) { err = unix.Connect(int(fd), tcp.Sockaddr(to)) })
		err = errors.Join(cerr, err)
	}
	return a, free, err
}

// appUDP waits for the app's end of a flow of datagrams.
func (g *fakeGate) appUDP(src, dst netip.AddrPort) (c *net.UDPConn) {
	g.t.Helper()
	eventually(g.t, "the socket of a flow", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		c = g.udp[pair{src, dst}]
		return c != nil
	})
	return c
}

// ListenUDP implements [Sockets].
func (g *fakeGate) ListenUDP(netip.Addr) (*net.UDPConn, error) {
	return net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
}

// DialTCP implements [Sockets].
func (g *fakeGate) DialTCP(ctx context.Context, from, app netip.AddrPort) (*tcp.Conn, error) {
	g.mu.Lock()
	g.inward = append(g.inward, inward{from, app})
	at, listens := g.inTo[app]
	g.mu.Unlock()
	if !listens {
		return nil, unix.ECONNREFUSED
	}
	return tcp.Dial(ctx, netip.MustParseAddrPort(at))
}
