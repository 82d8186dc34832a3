// Package proxy takes in the app's flows, decides on each, dials its
// destination and relays. Deciding happens in one place, [Proxy.Decide], and
// before the app's connect(2) returns; what the flow then shows of itself (TLS
// SNI, HTTP Host) goes through the same place.
//
//	p := proxy.New(proxy.Config{Policy: pol, Pins: pins, Guard: guard, Log: log})
//	go p.Serve(ctx, gateway)  // a *netns.Gate
//	go p.Serve(ctx, loopback)
package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"appfw/dnsguard"
	"appfw/netns"
	"appfw/policy"
)

// Config is what a Proxy is made of. Only Log, Chain, Owner and Own may be
// nil.
type Config struct {
	Policy func() *policy.Policy
	Pins   *dnsguard.Pins
	Guard  *dnsguard.Guard
	Log    func(Event)
	Now    func() time.Time
	// Chain is the chain of proxies with a name that verdicts have (Via). Nil
	// if there is none.
	Chain func(name string) *Chain
	// Owner names the process that a flow is of (policy.IsolateProcess); "" if
	// that cannot be told.
	Owner func(proto uint8, src, dst netip.AddrPort) string
	// Own are the addresses that appfw itself listens at: no flow may go there.
	Own []netip.AddrPort
	// Shared tells that the flows are of several apps: what one resolved is not
	// pinned for others.
	Shared bool
}

// Proxy relays the flows of one app, or of those that share a policy. Make it
// with New.
type Proxy struct {
	Config
	echoes chan struct{} // one for each echo request on its way
	inward chan struct{} // one for each client that the app has not accepted

	mu      sync.Mutex
	intakes []*intake // those that are served
	flows   map[flow]*decision
}

// New makes a Proxy.
func New(c Config) *Proxy {
	if c.Log == nil {
		c.Log = func(Event) {}
	}
	return &Proxy{Config: c, echoes: make(chan struct{}, maxEchoes), inward: make(chan struct{}, maxPending), flows: make(map[flow]*decision)}
}

// intake is the flows that come by one gate.
type intake struct {
	*Proxy
	gate *netns.Gate
	ctx  context.Context // of Serve
	work sync.WaitGroup  // everything that Serve started

	mu      sync.Mutex
	pending map[flowKey]*pendingTCP // SYNs that were let in or are being dialled
	owed    int                     // connections that were let in and have given away their spare descriptor
	udp     map[flowKey]*udpFlow
	opening map[flowKey][]netns.Packet // first datagrams that wait for their sockets

	resolver *connListener // connections to port 53
	explicit *Explicit     // of those to ExplicitPort
}

// flowKey tells flows of one transport apart.
type flowKey struct{ src, dst netip.AddrPort }

// Serve takes in what comes by the gate until ctx ends, and closes it. It
// returns when all its flows have ended.
func (p *Proxy) Serve(ctx context.Context, gate *netns.Gate) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in := &intake{
		Proxy: p, gate: gate, ctx: ctx,
		pending:  make(map[flowKey]*pendingTCP),
		udp:      make(map[flowKey]*udpFlow),
		opening:  make(map[flowKey][]netns.Packet),
		resolver: newConnListener(),
		explicit: NewExplicit(p, nil),
	}
	p.mu.Lock()
	p.intakes = append(p.intakes, in)
	p.mu.Unlock()
	in.work.Go(func() { _ = p.Guard.Serve(ctx, []net.Listener{in.resolver}, nil) })
	in.work.Go(func() { in.explicit.Run(ctx) })
	for _, l := range gate.Listeners {
		in.work.Go(func() { in.accept(l) })
	}
	err := gate.Run(ctx, in.packet)
	cancel()
	in.mu.Lock()
	for _, f := range in.udp {
		f.close()
	}
	in.mu.Unlock()
	in.work.Wait()
	p.mu.Lock()
	p.intakes = slices.DeleteFunc(p.intakes, func(x *intake) bool { return x == in })
	p.mu.Unlock()
	return err
}

// Alive returns when the proxy can take in flows; it does not if it hangs.
func (p *Proxy) Alive() {
	p.mu.Lock()
	intakes := slices.Clone(p.intakes)
	p.mu.Unlock()
	for _, in := range intakes {
		in.mu.Lock()
		_ = len(in.pending)
		in.mu.Unlock()
	}
}

// packet handles a first packet. It must not block: what takes time is started.
func (in *intake) packet(p netns.Packet, err error) {
	switch {
	case err != nil:
		in.refuse(p, policy.Denial("it hides where it goes: "+err.Error()))
	case !in.fromApp(p):
		in.refuse(p, policy.Denial("its source address "+p.Src.Addr().String()+" is not the app's"))
	case p.Proto == unix.IPPROTO_TCP:
		in.syn(p)
	case p.Proto == unix.IPPROTO_UDP:
		in.datagram(p)
	case p.Echo():
		in.echo(p)
	default:
		in.refuse(p, policy.Denial("only TCP, UDP and ICMP echo are carried"))
	}
}

// fromApp tells whether the source of a packet is the app's own address.
func (in *intake) fromApp(p netns.Packet) bool {
	a := p.Src.Addr()
	return a == netns.App4 || a == netns.App6 || a.IsLoopback() && p.Dst.Addr().IsLoopback()
}

// origin is who sent a packet.
func (in *intake) origin(p netns.Packet) origin { return in.origins(p.Proto, p.Src, p.Dst) }

// origins is who has the socket with these addresses, src its own.
func (p *Proxy) origins(proto uint8, src, dst netip.AddrPort) origin {
	if p.Owner == nil {
		return origin{}
	}
	return origin{owner: func() string { return p.Owner(proto, src, dst) }}
}

// refuse denies a packet: a TCP reset, or an ICMP error that tells the app at
// once. What was spoofed gets no answer.
func (in *intake) refuse(p netns.Packet, v policy.Verdict) {
	in.Log(Event{Verdict: v, Proto: protoName(p.Proto), Dst: p.Dst, Name: in.nameOf(p.Dst.Addr())})
	switch {
	case !p.Dst.IsValid() || !in.fromApp(p) || p.ICMPError():
		_ = in.gate.Drop(p)
	case p.Proto == unix.IPPROTO_TCP && p.Dst.Port() != 0:
		_ = in.gate.Reset(p)
	case p.Proto == unix.IPPROTO_UDP && in.refuseQUIC(p, v):
	default:
		_ = in.gate.Reject(p, netns.Prohibited)
	}
}

// refuseQUIC answers the first datagram of a QUIC connection in QUIC's own way,
// too: few clients hear of ICMP errors. It is false if the packet is none.
func (in *intake) refuseQUIC(p netns.Packet, v policy.Verdict) bool {
	var hellos quicHellos
	_, _, _ = hellos.read(p.Payload)
	refusal := hellos.refusal("appfw: " + v.Reason())
	if refusal == nil {
		return false
	}
	_ = in.gate.ReplyUDP(p, refusal)
	_ = in.gate.Unreachable(p, netns.Prohibited)
	return true
}

// nameOf is the name that the app was last given the address for.
func (p *Proxy) nameOf(a netip.Addr) string {
	if name, _ := p.synthetic(a); name != "" {
		return string(name)
	}
	if pinned := p.Pins.Of(a, p.Now()); len(pinned) > 0 && !p.Shared {
		return string(pinned[0].Name)
	}
	return ""
}

// unreachable translates the error of a dial to what the app is told; ok is
// false if it is told nothing, and waits like any other client.
func unreachable(err error) (why netns.Unreachable, ok bool) {
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return netns.NoPort, true
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EAFNOSUPPORT):
		return netns.NoNetwork, true
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return netns.Prohibited, true // the host's own firewall
	case errors.Is(err, unix.ETIMEDOUT), errors.Is(err, context.Canceled):
		return 0, false
	}
	return netns.NoHost, true
}

// shortage tells errors that say nothing of the destination: appfw itself is
// short of something.
func shortage(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM)
}

// errShort is why a flow is refused then.
var errShort = policy.Denial("appfw has no file descriptor left for it (ulimit -n raises the limit)")

// connListener is a listener that connections are handed to.
type connListener struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

func newConnListener() *connListener {
	l := &connListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.closed) })
	return l
}

// hand is false if nobody takes c any more, and c is closed then.
func (l *connListener) hand(c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.closed:
		c.Close()
		return false
	}
}

func (l *connListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *connListener) Close() error   { l.close(); return nil }
func (l *connListener) Addr() net.Addr { return &net.TCPAddr{} }
