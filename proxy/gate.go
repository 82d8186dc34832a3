package proxy

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/netns/tcp"
	"appfw/policy"
	"appfw/proxy/relay"
)

// ExplicitPort is the port of the gateway's addresses where programs may ask for
// destinations by SOCKS and HTTP.
const ExplicitPort = 1080

const port53 = 53

// Gate is what an app's packets and connections come by. Package gateway makes it of a
// *netns.Gate; tests make fakes.
type Gate struct {
	Queue     Queue
	Sockets   Sockets
	Listeners []Listener // of the connections whose SYN was accepted
}

// Queue is where first packets wait for a verdict.
type Queue interface {
	// Run hands over one packet after another until ctx ends. Each needs one call of
	// Settle.
	Run(ctx context.Context, handle func(netns.Packet, error)) error
	// Settle lets a packet in, or drops it.
	Settle(p netns.Packet, in bool) error
	// Send sends a whole IP packet to the source of p.
	Send(p netns.Packet, reply []byte) error
}

// Sockets makes sockets in the namespace of a gate.
type Sockets interface {
	DialUDP(app, dst netip.AddrPort) (*net.UDPConn, error)
	DialClient(app, client netip.AddrPort) (*net.UDPConn, error)
	ListenUDP(at netip.Addr) (*net.UDPConn, error)
	DialTCP(ctx context.Context, from, app netip.AddrPort) (*tcp.Conn, error)
}

// Listener takes in connections. src is the app's socket, dst where it connected to.
type Listener interface {
	Accept() (conn relay.Stream, src, dst netip.AddrPort, err error)
}

// Asks serves the clients of the explicit proxy: an *explicit.Service.
type Asks interface {
	// Serve serves a client until it has left. listen opens a port for its datagrams.
	Serve(ctx context.Context, conn relay.Stream, from Subject, listen func(netip.Addr) (*net.UDPConn, error))
	// Run does what clients share, until ctx ends.
	Run(ctx context.Context)
}

// GateIntake takes in what comes by a gate. It is run once.
type GateIntake struct {
	Proxy    *Proxy
	Gate     Gate
	Explicit Asks // of connections to ExplicitPort; nil: there are none

	scope    *Scope
	work     sync.WaitGroup // all but the flows
	resolver *relay.Handed  // connections to port 53

	mu   sync.Mutex
	let  map[pair]*syn // SYNs that were let in
	owed int           // of them, those whose spare descriptor was given away
}

// pair tells connections of a gate apart.
type pair struct{ src, dst netip.AddrPort }

// Run implements [Intake].
func (in *GateIntake) Run(ctx context.Context, admit func(Attempt)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := in.Proxy
	in.scope, in.resolver = p.NewScope(), relay.NewHanded()
	in.let = make(map[pair]*syn)
	in.work.Go(func() { _ = p.Guard.Serve(ctx, []net.Listener{in.resolver}, nil) })
	if in.Explicit != nil {
		in.work.Go(func() { in.Explicit.Run(ctx) })
	}
	for _, l := range in.Gate.Listeners {
		in.work.Go(func() { in.accept(ctx, l) })
	}
	err := in.Gate.Queue.Run(ctx, func(packet netns.Packet, err error) { in.packet(ctx, packet, err, admit) })
	cancel()
	in.scope.Wait()
	in.work.Wait()
	return err
}

// packet handles a first packet. It must not block: what takes time is started.
func (in *GateIntake) packet(ctx context.Context, p netns.Packet, err error, admit func(Attempt)) {
	proto, carried := transports[p.Proto]
	refused := ""
	switch {
	case err != nil:
		refused = "it hides where it goes: " + err.Error()
	case !fromApp(p):
		refused = "its source address " + p.Src.Addr().String() + " is not the app's"
	case proto == policy.TCP && carried && (p.Dst.Port() == port53 || in.Explicit != nil && explicit(p.Dst)):
		in.own(ctx, p)
		return
	case proto == policy.UDP && carried && p.Dst.Port() == port53:
		in.ask(ctx, p)
		return
	case !carried || proto == policy.ICMP && !p.Echo():
		refused = "only TCP, UDP and ICMP echo are carried"
	}
	h := held{in: in, p: p, refused: refused}
	switch {
	case refused != "":
		admit(&h)
	case proto == policy.TCP:
		admit(newSYN(h))
	case proto == policy.UDP:
		admit(&datagram{held: h, waiting: []netns.Packet{p}})
	default:
		admit(&echo{h})
	}
}

// transports are the protocols that are carried, by their numbers.
var transports = map[uint8]policy.Proto{
	unix.IPPROTO_TCP: policy.TCP, unix.IPPROTO_UDP: policy.UDP, unix.IPPROTO_ICMP: policy.ICMP, unix.IPPROTO_ICMPV6: policy.ICMP,
}

// fromApp tells whether the source of a packet is the app's own address.
func fromApp(p netns.Packet) bool {
	a := p.Src.Addr()
	return a == netns.App4 || a == netns.App6 || a.IsLoopback() && p.Dst.Addr().IsLoopback()
}

// explicit tells whether a connection is for the explicit proxy in a namespace.
func explicit(dst netip.AddrPort) bool {
	return dst.Port() == ExplicitPort && (dst.Addr() == netns.Gateway4 || dst.Addr() == netns.Gateway6)
}

// subject is who has the socket with these addresses, src its own.
func (in *GateIntake) subject(proto uint8, src, dst netip.AddrPort) Subject {
	var s Subject
	if owner := in.Proxy.Owner; owner != nil {
		s.Owner = func() string { return owner(proto, src, dst) }
	}
	if group := in.Proxy.Group; group != nil {
		s.Group = func() string { return group(proto, src, dst) }
	}
	return s
}

// ask answers a datagram to a resolver that came by the queue.
func (in *GateIntake) ask(ctx context.Context, p netns.Packet) {
	in.work.Go(func() {
		answer := in.Proxy.Guard.AnswerPacket(ctx, p.Payload)
		_ = in.Gate.Queue.Settle(p, false)
		if answer != nil {
			_ = in.Gate.Queue.Send(p, p.Datagram(answer))
		}
	})
}
