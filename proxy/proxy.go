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

// Config is what a Proxy is made of. Only Log may be nil.
type Config struct {
	Policy func() *policy.Policy
	Pins   *dnsguard.Pins
	Guard  *dnsguard.Guard
	Log    func(Event)
	Now    func() time.Time
}

// Proxy relays the flows of one app. Make it with New.
type Proxy struct {
	Config
	echoes chan struct{} // one for each echo request on its way

	mu      sync.Mutex
	intakes []*intake // those that are served
}

// New makes a Proxy.
func New(c Config) *Proxy {
	if c.Log == nil {
		c.Log = func(Event) {}
	}
	return &Proxy{Config: c, echoes: make(chan struct{}, maxEchoes)}
}

// intake is the flows that come by one gate.
type intake struct {
	*Proxy
	gate *netns.Gate
	ctx  context.Context // of Serve
	work sync.WaitGroup  // everything that Serve started

	mu      sync.Mutex
	pending map[flowKey]*pendingTCP // SYNs that were let in or are being dialled
	relays  map[*relay]struct{}
	udp     map[flowKey]*udpFlow
	opening map[flowKey][]netns.Packet // first datagrams that wait for their sockets

	resolver *connListener // connections to port 53
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
		relays:   make(map[*relay]struct{}),
		udp:      make(map[flowKey]*udpFlow),
		opening:  make(map[flowKey][]netns.Packet),
		resolver: newConnListener(),
	}
	p.mu.Lock()
	p.intakes = append(p.intakes, in)
	p.mu.Unlock()
	in.work.Go(func() { _ = p.Guard.Serve(ctx, []net.Listener{in.resolver}, nil) })
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

// packet handles a first packet. It must not block: what takes time is started.
func (in *intake) packet(p netns.Packet, err error) {
	switch {
	case err != nil:
		in.refuse(p, policy.Verdict{Reason: "it hides where it goes: " + err.Error()})
	case !in.fromApp(p):
		in.refuse(p, policy.Verdict{Reason: "its source address " + p.Src.Addr().String() + " is not the app's"})
	case p.Proto == unix.IPPROTO_TCP:
		in.syn(p)
	case p.Proto == unix.IPPROTO_UDP:
		in.datagram(p)
	case p.Echo():
		in.echo(p)
	default:
		in.refuse(p, policy.Verdict{Reason: "only TCP, UDP and ICMP echo are carried"})
	}
}

// fromApp tells whether the source of a packet is the app's own address.
func (in *intake) fromApp(p netns.Packet) bool {
	a := p.Src.Addr()
	return a == netns.App4 || a == netns.App6 || a.IsLoopback() && p.Dst.Addr().IsLoopback()
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
	default:
		_ = in.gate.Reject(p, netns.Prohibited)
	}
}

// nameOf is the name the address was last given out for, for people to read.
func (in *intake) nameOf(a netip.Addr) string {
	if names := in.Pins.Names(a, in.Now()); len(names) > 0 {
		return string(names[0])
	}
	return ""
}

// Decide judges a flow by its address and by the names the address is pinned
// to. name is the one that it was allowed for, or that it is best known by.
func (p *Proxy) Decide(proto policy.Proto, dst netip.AddrPort) (v policy.Verdict, name policy.Name) {
	switch dst.Addr() {
	case netns.Gateway4, netns.Gateway6, netns.App4, netns.App6:
		return policy.Verdict{Reason: "it is an address of appfw's own"}, ""
	}
	v, name = p.decidePinned(proto, dst)
	if v.Allow && (v.ByName || v.Rule == nil) && onThisHost(dst.Addr()) {
		// A name's owner must not be able to point the app at the host itself,
		// and its services are no more open by default than its loopback.
		to := policy.Destination(policy.Flow{Proto: proto, Addr: dst.Addr(), Port: dst.Port()})
		v = policy.Verdict{Reason: "it is an address of this host, and no rule names that", Hint: to}
	}
	return v, name
}

// decidePinned judges a flow by the policy alone.
func (p *Proxy) decidePinned(proto policy.Proto, dst netip.AddrPort) (policy.Verdict, policy.Name) {
	rules := p.Policy()
	flow := policy.Flow{Proto: proto, Addr: dst.Addr(), Port: dst.Port()}
	plain := rules.Decide(flow)
	names := p.Pins.Names(dst.Addr(), p.Now())
	if len(names) == 0 {
		return plain, ""
	}
	flow.Pinned = true
	var denied policy.Verdict
	for i, n := range names {
		flow.Name = n
		switch v := rules.Decide(flow); {
		case v.Allow:
			return v, n
		case i == 0:
			denied = v
		}
	}
	return denied, names[0]
}

// onThisHost tells whether an address is one of the host's own. The kernel
// knows: it gives a socket that is connected to such an address that address.
// Connecting a UDP socket sends nothing. Where it fails, there is no way to the
// address, and dialling fails in the same way.
func onThisHost(a netip.Addr) bool {
	domain := unix.AF_INET
	var to unix.Sockaddr
	if a.Is4() {
		to = &unix.SockaddrInet4{Addr: a.As4(), Port: port53}
	} else {
		domain, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: a.As16(), Port: port53}
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if unix.Connect(fd, to) != nil {
		return false
	}
	switch own, _ := unix.Getsockname(fd); own := own.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(own.Addr) == a
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(own.Addr) == a
	}
	return false
}

// decideShown judges a flow by a name that it shows, after Decide allowed it.
func (p *Proxy) decideShown(proto policy.Proto, dst netip.AddrPort, shown policy.Name) policy.Verdict {
	return p.Policy().Decide(policy.Flow{
		Proto: proto, Addr: dst.Addr(), Port: dst.Port(),
		Name: shown, Pinned: p.Pins.Has(dst.Addr(), shown, p.Now()),
	})
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
var errShort = policy.Verdict{Reason: "appfw has no file descriptor left for it (ulimit -n raises the limit)"}

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

func (l *connListener) hand(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.closed:
		c.Close()
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
