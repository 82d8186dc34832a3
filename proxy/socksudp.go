package proxy

import (
	"context"
	"encoding/binary"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/things-go/go-socks5/statute"
	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/policy"
)

// maxAsked bounds the destinations of one association. For one more, the one
// that has been idle for longest ends.
const maxAsked = 256

// datagrams are those of a client that asked for a UDP ASSOCIATE (RFC 1928, 7).
// Each of them is decided on by the destination that it names.
type datagrams struct {
	*client
	conn *net.UDPConn // to the client
	work sync.WaitGroup

	from atomic.Pointer[netip.AddrPort] // the client's; without a port until it is known

	mu    sync.Mutex
	flows map[string]*askedUDP // by destination, as the client writes it
}

// askedUDP is a destination of datagrams.
type askedUDP struct {
	mu      sync.Mutex
	flow    *udpFlow       // nil: it is being opened, or denied
	waiting [][]byte       // datagrams, while it is being opened
	waits   int            // their bytes
	denied  *policy.Policy // that denies it; nil if none
}

// associate serves the datagrams of a client until it hangs up.
func (c *client) associate(host string, port uint16) {
	local := c.localIP()
	if !local.IsValid() {
		c.reply(statute.RepCommandNotSupported, "", 0) // there is no address to send them to
		return
	}
	conn, err := c.listen(local)
	if err != nil {
		c.reply(statute.RepServerFailure, "", 0)
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	d := &datagrams{client: c, conn: conn, flows: make(map[string]*askedUDP)}
	from := netip.AddrPortFrom(c.remoteIP(), 0)
	if a, err := netip.ParseAddr(host); err == nil && (a.IsUnspecified() || a.Unmap() == from.Addr()) {
		from = netip.AddrPortFrom(from.Addr(), port)
	}
	d.from.Store(&from)
	at := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	_ = c.SetDeadline(time.Time{})
	if !c.reply(statute.RepSuccess, at.Addr().Unmap().WithZone("").String(), at.Port()) {
		return
	}
	d.work.Go(func() { d.receive(ctx) })
	for { // what it says now means nothing; that it hangs up does
		b, err := readReady(c.stream, smallBuffer)
		if err != nil {
			break
		}
		b.release()
	}
	cancel()
	conn.Close()
	d.mu.Lock()
	flows := slices.Collect(maps.Values(d.flows))
	d.mu.Unlock()
	for _, x := range flows {
		x.end()
	}
	d.work.Wait()
}

// receive takes in the client's datagrams.
func (d *datagrams) receive(ctx context.Context) {
	for {
		var from unix.Sockaddr
		b, err := readBy(d.conn, largeBuffer, func(fd int, b []byte) (n int, err error) {
			n, from, err = unix.Recvfrom(fd, b, 0)
			return n, err
		})
		if err != nil {
			return
		}
		if header, data, ok := payload(b.data); ok && d.isClient(from) {
			d.datagram(ctx, header, data)
		}
		b.release()
	}
}

// isClient tells whether a datagram is the client's: it comes from its address,
// and always from one port.
func (d *datagrams) isClient(from unix.Sockaddr) bool {
	var source netip.AddrPort
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		source = netip.AddrPortFrom(netip.AddrFrom4(from.Addr), uint16(from.Port))
	case *unix.SockaddrInet6:
		source = netip.AddrPortFrom(netip.AddrFrom16(from.Addr).Unmap(), uint16(from.Port))
	}
	known := *d.from.Load()
	if known.Port() == 0 && source.Addr() == known.Addr().WithZone("") {
		known = netip.AddrPortFrom(known.Addr(), source.Port())
		d.from.Store(&known)
	}
	return source == netip.AddrPortFrom(known.Addr().WithZone(""), known.Port())
}

// datagram sends on one datagram, whose destination is in the header.
func (d *datagrams) datagram(ctx context.Context, header, data []byte) {
	d.mu.Lock()
	x := d.flows[string(header)]
	if x == nil || x.outdated(d.Policy()) {
		key := string(header)
		delete(d.flows, key)
		if !d.makeRoom() {
			d.mu.Unlock()
			return // lost, as datagrams may be
		}
		x = &askedUDP{waiting: [][]byte{slices.Clone(data)}, waits: len(data)}
		d.flows[key] = x
		d.mu.Unlock()
		d.work.Go(func() { d.openUDP(ctx, key, x) })
		return
	}
	d.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.flow != nil:
		if d.send(x.flow, data) != nil {
			x.flow.close() // and downward ends
		}
	case x.denied == nil && len(x.waiting) < maxWaiting && x.waits+len(data) <= maxHeld:
		x.waiting = append(x.waiting, slices.Clone(data))
		x.waits += len(data)
	}
}

// outdated tells whether a destination was denied by another policy.
func (x *askedUDP) outdated(rules *policy.Policy) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.denied != nil && x.denied != rules
}

// openUDP opens the way to a destination, and relays back from it.
func (d *datagrams) openUDP(ctx context.Context, key string, x *askedUDP) {
	rules := d.Policy()
	f, err := d.openTo(ctx, key)
	x.mu.Lock()
	waiting := x.waiting
	x.waiting = nil
	if err != nil {
		if _, denied := err.(*refused); denied {
			x.denied = rules // and nothing more is said of it
		}
		x.mu.Unlock()
		if x.denied == nil {
			d.forget(key, x)
		}
		return
	}
	x.flow = f
	for _, data := range waiting {
		if err = d.send(f, data); err != nil {
			break
		}
	}
	x.mu.Unlock()
	if err == nil && ctx.Err() == nil {
		d.downward(f)
	}
	f.close()
	d.forget(key, x)
	d.untrack(f)
	d.ended(&f.decision, f.verdict, f.sent.Load(), f.received.Load())
}

// openTo decides on a destination, and makes its socket.
func (d *datagrams) openTo(ctx context.Context, key string) (*udpFlow, error) {
	to, port := splitAddress(key)
	ways, err := d.destinations(ctx, policy.UDP, to, port)
	if err != nil {
		return nil, err
	}
	for _, way := range ways {
		f := &udpFlow{decision: *way}
		f.used.Store(d.Now().UnixNano())
		d.Log(f.event(f.verdict))
		if err = d.dialUDP(ctx, f); err != nil {
			d.unconnected(&f.decision, err)
			continue // there is no way to an address of this family
		}
		name, _ := d.synthetic(f.dst.Addr())
		f.app = &associatedUDP{d, appendAddress([]byte{0, 0, 0}, host(name, f.dst), f.dst.Port())}
		if v := d.track(f, &f.decision); !v.Allowed() {
			f.close()
			d.deny(&f.decision, v)
			d.ended(&f.decision, f.verdict, 0, 0)
			return nil, &refused{"", v}
		}
		return f, nil
	}
	return nil, err
}

// forget has the next datagram to a destination open it anew.
func (d *datagrams) forget(key string, x *askedUDP) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.flows[key] == x {
		delete(d.flows, key)
	}
}

// makeRoom makes room for a destination: for one that is denied, or else the one
// that has been idle for longest. It is false if all are being opened. d.mu is held.
func (d *datagrams) makeRoom() bool {
	if len(d.flows) < maxAsked {
		return true
	}
	keys := make(map[*udpFlow]string)
	for key, x := range d.flows {
		x.mu.Lock()
		flow, denied := x.flow, x.denied
		x.mu.Unlock()
		if denied != nil {
			delete(d.flows, key)
			return true
		}
		if flow != nil {
			keys[flow] = key
		}
	}
	f := idlest(maps.Keys(keys))
	if f == nil {
		return false
	}
	delete(d.flows, keys[f]) // at once, and not when downward has ended
	f.close()
	return true
}

// end ends the flow to a destination, if there is one.
func (x *askedUDP) end() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.flow != nil {
		x.flow.close()
	}
}

// splitAddress is the host and the port in what appendAddress appends.
func splitAddress(b string) (host string, port uint16) {
	end := len(b) - 2
	if b[0] == addressName {
		host = b[2:end]
	} else {
		a, _ := netip.AddrFromSlice([]byte(b[1:end]))
		host = a.String()
	}
	return host, binary.BigEndian.Uint16([]byte(b[end:]))
}

// associatedUDP is the client's side of a flow of datagrams.
type associatedUDP struct {
	to     *datagrams
	header []byte // says where they are from
}

func (a *associatedUDP) deliver(datagrams [][]byte) (bytes int, err error) {
	return eachWrite(datagrams, func(data []byte) error {
		_, err := a.to.conn.WriteToUDPAddrPort(append(slices.Clip(a.header), data...), *a.to.from.Load())
		return err
	})
}

// unreachable does nothing: SOCKS has no way to say it.
func (a *associatedUDP) unreachable(netns.Unreachable) {}

// Close does nothing: other flows go by the same socket.
func (a *associatedUDP) Close() error { return nil }
