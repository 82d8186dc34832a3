package proxy

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"appfw/netns"
	"appfw/netns/mmsg"
	"appfw/netns/tcp"
	"appfw/policy"
)

// Published is a port of the host by which clients come to a port of the app's.
// One of TCP and UDP is set.
type Published struct {
	TCP  net.Listener
	UDP  *net.UDPConn
	Port uint16 // the app's
}

// Inward is how the app is reached: over the veth by whoever has an address that
// means something there, and on the app's own loopback by the host's.
type Inward struct{ Veth, Loopback *netns.Gate }

// Publish takes in the clients of a port until ctx ends, and closes it. The app
// sees their addresses. It returns when their flows have ended.
func (p *Proxy) Publish(ctx context.Context, port Published, in Inward) error {
	if port.UDP != nil {
		defer port.UDP.Close()
		defer context.AfterFunc(ctx, func() { port.UDP.Close() })()
		return p.publishUDP(ctx, port, in)
	}
	defer port.TCP.Close()
	defer context.AfterFunc(ctx, func() { port.TCP.Close() })()
	eachConn(ctx, port.TCP, func(conn net.Conn) { p.letIn(ctx, conn.(*net.TCPConn), port.Port, in) })
	return nil
}

// letIn relays between a client and the app.
func (p *Proxy) letIn(ctx context.Context, conn *net.TCPConn, port uint16, in Inward) {
	d := p.decideFrom(policy.TCP, addrPort(conn.RemoteAddr()), addrPort(conn.LocalAddr()).Port())
	p.Log(d.event(d.verdict))
	if !d.verdict.Allowed() {
		reset(conn)
		return
	}
	var app *tcp.Conn
	err := errCrowded
	select {
	case p.inward <- struct{}{}:
		app, err = in.dialTCP(ctx, addrPort(conn.RemoteAddr()), port)
		<-p.inward
	default:
	}
	if err != nil {
		reset(conn)
		p.unconnected(&d, err)
		return
	}
	r := newRelay(app, conn, d)
	if v := p.track(r, &r.decision); !v.Allowed() {
		r.abort()
		p.deny(&r.decision, v)
		p.ended(&r.decision, d.verdict, 0, 0)
		return
	}
	p.relay(ctx, r)
}

var errCrowded = errors.New("too many clients wait already")

// way is how a client comes to a port of the app's: by which gate, and from where
// to where.
type way struct {
	gate     *netns.Gate
	from, to netip.AddrPort
}

// ways are those of a client, in the order in which to try them.
func (in Inward) ways(client netip.AddrPort, port uint16) []way {
	local := func(a netip.Addr) way {
		return way{in.Loopback, netip.AddrPortFrom(a, 0), netip.AddrPortFrom(a, port)}
	}
	v4, v6 := local(netip.AddrFrom4([4]byte{127, 0, 0, 1})), local(netip.IPv6Loopback())
	switch a := client.Addr(); {
	case a.IsLoopback() && a.Is4():
		return []way{v4, v6}
	case a.IsLoopback(): // many programs listen to IPv4 alone
		return []way{v6, v4}
	case a.Is4():
		return []way{{in.Veth, client, netip.AddrPortFrom(netns.App4, port)}}
	case a.IsLinkLocalUnicast(): // means nothing on another link
		return []way{{in.Veth, netip.AddrPortFrom(netns.Gateway6, 0), netip.AddrPortFrom(netns.App6, port)}}
	default:
		return []way{{in.Veth, client, netip.AddrPortFrom(netns.App6, port)}}
	}
}

func (in Inward) dialTCP(ctx context.Context, client netip.AddrPort, port uint16) (conn *tcp.Conn, err error) {
	for _, w := range in.ways(client, port) {
		if conn, err = w.gate.DialTCP(ctx, w.from, w.to); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// clients are those of a published UDP port.
type clients struct {
	*Proxy
	port Published
	in   Inward
	work sync.WaitGroup

	mu     sync.Mutex
	flows  map[visit]*udpFlow
	denied map[netip.Addr]bool // clients that have been reported
	rules  *policy.Policy      // that denied them
}

// visit tells the flows of a UDP port apart: who came, to which of the host's
// addresses, as a control message has it.
type visit struct {
	client netip.AddrPort
	to     string
}

// maxDeniedClients bounds the clients of which it is known that they were reported.
const maxDeniedClients = 1024

func (p *Proxy) publishUDP(ctx context.Context, port Published, in Inward) error {
	c := &clients{Proxy: p, port: port, in: in, flows: make(map[visit]*udpFlow), denied: make(map[netip.Addr]bool)}
	closeAll := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, f := range c.flows {
			f.close()
		}
	}
	defer c.work.Wait()
	defer closeAll()
	defer context.AfterFunc(ctx, closeAll)() // one may hold up the loop below: root in the namespace can hold back packets
	datagrams, err := mmsg.NewInbox(port.UDP, mmsg.AnySize, mmsg.ReceiveTo)
	if err != nil {
		return err
	}
	var touched []*udpFlow
	for {
		err := datagrams.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // an ICMP error for one of the clients
			continue
		}
		for i := range datagrams.N {
			data, _ := datagrams.Datagram(i)
			if f := c.datagram(datagrams.Origin(i), data); f != nil && !slices.Contains(touched, f) {
				touched = append(touched, f)
			}
		}
		for _, f := range touched {
			if f.flush() != nil {
				f.close() // and downward ends
			}
		}
		clear(touched)
		touched = touched[:0]
		datagrams.Release()
	}
}

// datagram takes in a datagram of a client's. What is to be sent is in the flow that
// it returns; nil if nothing is.
func (c *clients) datagram(from mmsg.Origin, data []byte) *udpFlow {
	from.Addr = netip.AddrPortFrom(from.Addr.Addr().Unmap(), from.Addr.Port())
	c.mu.Lock()
	f := c.flows[visit{from.Addr, string(from.Control)}]
	c.mu.Unlock()
	if f == nil {
		if f = c.open(visit{from.Addr, string(from.Control)}); f == nil {
			return nil
		}
	}
	f.used.Store(c.Now().UnixNano())
	if c.pass(f, data) != nil {
		f.close() // and downward ends
	}
	return f
}

// open begins the flow of a client; nil if there can be none.
func (c *clients) open(v visit) *udpFlow {
	d := c.decideFrom(policy.UDP, namedZone(v.client), addrPortUDP(c.port.UDP.LocalAddr()).Port())
	if !d.verdict.Allowed() {
		c.mu.Lock()
		if c.rules != d.rules || len(c.denied) >= maxDeniedClients {
			clear(c.denied)
		}
		known := c.denied[v.client.Addr()]
		c.denied[v.client.Addr()], c.rules = true, d.rules
		c.mu.Unlock()
		if !known {
			c.deny(&d, d.verdict)
		}
		return nil
	}
	c.Log(d.event(d.verdict))
	f := &udpFlow{decision: d, app: &visitor{v, c.port.UDP}}
	f.used.Store(c.Now().UnixNano())
	w := c.in.ways(v.client, c.port.Port)[0]
	var err error
	if f.out, err = w.gate.DialUDP(w.to, w.from); err == nil {
		err = f.ready()
	}
	if err != nil {
		c.unconnected(&d, err)
		return nil
	}
	c.mu.Lock()
	denied := c.track(f, &f.decision)
	if denied.Allowed() {
		if len(c.flows) >= maxUDP {
			f := idlest(maps.Values(c.flows))
			delete(c.flows, f.app.(*visitor).visit)
			f.close() // and downward ends
		}
		c.flows[v] = f
	}
	c.mu.Unlock()
	if !denied.Allowed() {
		f.close()
		c.deny(&f.decision, denied)
		c.ended(&f.decision, d.verdict, 0, 0)
		return nil
	}
	c.work.Go(func() {
		c.downward(f)
		c.mu.Lock()
		if c.flows[v] == f {
			delete(c.flows, v)
		}
		c.mu.Unlock()
		f.close()
		c.untrack(f)
		c.ended(&f.decision, d.verdict, f.received.Load(), f.sent.Load()) // as the app sees it
	})
	return f
}

// visitor is the client of a flow.
type visitor struct {
	visit
	conn *net.UDPConn
}

func (v *visitor) deliver(datagrams [][]byte) (bytes int, err error) {
	control := []byte(v.to)
	return eachWrite(datagrams, func(data []byte) error {
		_, _, err := v.conn.WriteMsgUDPAddrPort(data, control, v.client)
		return err
	})
}

// unreachable does nothing: the host's sockets send no ICMP errors.
func (v *visitor) unreachable(netns.Unreachable) {}

func (v *visitor) Close() error { return nil }

// namedZone is a link-local address by the name of its device, and not by the number.
func namedZone(a netip.AddrPort) netip.AddrPort {
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

func addrPortUDP(a net.Addr) netip.AddrPort {
	udp, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := udp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// acceptPause is how long to wait when no descriptor is free: who wants to connect
// waits in the backlog.
const acceptPause = 10 * time.Millisecond

// eachConn serves the connections of a listener until that is closed, and returns
// when all have been served.
func eachConn(ctx context.Context, l net.Listener, serve func(net.Conn)) {
	var work sync.WaitGroup
	defer work.Wait()
	for {
		conn, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // no descriptor is free, or the client has left: accept(2)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
				return
			}
		default:
			work.Go(func() { serve(conn) })
		}
	}
}
