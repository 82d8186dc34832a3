package explicit

import (
	"context"
	"errors"
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
	"appfw/proxy"
	"appfw/proxy/relay"
	"appfw/proxy/upstream/socks"
)

// maxAsked bounds the destinations of one association. For one more, the one
// that has been idle for longest ends.
const maxAsked = 256

// association is that of a client which asked for a UDP ASSOCIATE (RFC 1928, 7). Each
// of its datagrams is decided on by the destination that it names.
type association struct {
	*client
	hungUp context.Context // ends when the client hangs up
	conn   *net.UDPConn    // to the client
	scope  *proxy.Scope
	peer   atomic.Pointer[netip.AddrPort] // the client's address; without a port until it is known

	// Destinations, as the client writes them, that are denied or not decided on yet,
	// and the rules that held before they were.
	mu     sync.Mutex
	denied map[string]*policy.Policy
}

// newAssociation makes an association. hungUp ends when its client hangs up.
func newAssociation(hungUp context.Context, c *client, conn *net.UDPConn) *association {
	a := &association{client: c, hungUp: hungUp, conn: conn, scope: c.by.NewScope(), denied: make(map[string]*policy.Policy)}
	a.scope.Most = maxAsked
	return a
}

// associate serves the datagrams of a client until it hangs up.
func (c *client) associate(ctx context.Context, host string, port uint16) {
	local := c.localIP()
	if !local.IsValid() {
		_ = c.reply(statute.RepCommandNotSupported, "", 0) // there is no address to send them to
		return
	}
	conn, err := c.listen(local)
	if err != nil {
		_ = c.reply(statute.RepServerFailure, "", 0)
		return
	}
	defer conn.Close()
	hungUp, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	defer hangUp()
	a := newAssociation(hungUp, c, conn)
	from := netip.AddrPortFrom(c.remoteIP(), 0)
	if at, err := netip.ParseAddr(host); err == nil && (at.IsUnspecified() || at.Unmap() == from.Addr()) {
		from = netip.AddrPortFrom(from.Addr(), port)
	}
	a.peer.Store(&from)
	at := relay.AddrPort(conn.LocalAddr())
	_ = c.SetDeadline(time.Time{})
	if c.reply(statute.RepSuccess, at.Addr().WithZone("").String(), at.Port()) != nil {
		return
	}
	var receiving sync.WaitGroup
	receiving.Go(func() { a.receive(ctx) })
	for { // what it says now means nothing; that it hangs up does
		b, err := relay.ReadReady(c.Stream, relay.SmallBuffer)
		if err != nil {
			break
		}
		b.Release()
	}
	if ctx.Err() == nil { // else that ends them, and says why
		hangUp()
	}
	conn.Close()
	receiving.Wait()
	a.scope.Wait()
}

// receive takes in the client's datagrams.
func (a *association) receive(ctx context.Context) {
	for {
		var from unix.Sockaddr
		b, err := relay.ReadBy(a.conn, relay.LargeBuffer, func(fd int, b []byte) (n int, err error) {
			n, from, err = unix.Recvfrom(fd, b, 0)
			return n, err
		})
		if err != nil {
			return
		}
		if header, data, ok := socks.Payload(b.Data); ok && a.isClient(from) {
			a.datagram(ctx, header, data)
		}
		b.Release()
	}
}

// isClient tells whether a datagram is the client's: it comes from its address,
// and always from one port.
func (a *association) isClient(from unix.Sockaddr) bool {
	var source netip.AddrPort
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		source = netip.AddrPortFrom(netip.AddrFrom4(from.Addr), uint16(from.Port))
	case *unix.SockaddrInet6:
		source = netip.AddrPortFrom(netip.AddrFrom16(from.Addr).Unmap(), uint16(from.Port))
	}
	known := *a.peer.Load()
	if known.Port() == 0 && source.Addr() == known.Addr().WithZone("") {
		known = netip.AddrPortFrom(known.Addr(), source.Port())
		a.peer.Store(&known)
	}
	return source == netip.AddrPortFrom(known.Addr().WithZone(""), known.Port())
}

// datagram sends on one datagram, whose destination is in the header.
func (a *association) datagram(ctx context.Context, header, data []byte) {
	d, known := a.scope.Find(proxy.Key{Proto: policy.UDP, Text: string(header)}).(*destination)
	if known {
		d.Push(data)
		d.Flush()
		return
	}
	if ctx.Err() != nil || a.hungUp.Err() != nil {
		return // nobody wants another flow
	}
	d = &destination{of: a, asked: string(header)}
	if a.deny(d.asked) {
		d.Push(data)
		a.by.Start(ctx, d)
	}
}

// deny has a destination be denied until it turns out to be allowed; false if it is
// already, and nothing more is said of it.
func (a *association) deny(asked string) bool {
	rules := a.by.Policy()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.denied[asked] == rules {
		return false
	}
	if len(a.denied) >= maxAsked {
		clear(a.denied)
	}
	a.denied[asked] = rules
	return true
}

// allow takes back that a destination is denied.
func (a *association) allow(asked string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.denied, asked)
}

// destination is an attempt: the datagrams to one destination of an association.
type destination struct {
	relay.Pushed
	of    *association
	asked string // address and port, as the client writes them
	from  []byte // before what comes back: where it is from; set before the flow is open
}

// Facts implements [proxy.Attempt].
func (d *destination) Facts() proxy.Facts {
	host, port := socks.SplitAddress(d.asked)
	f := factsTo(d.of.scope, d.of.client.from, policy.UDP, host, port)
	f.Key = proxy.Key{Proto: policy.UDP, Text: d.asked}
	return f
}

// Watch implements [proxy.Watched].
func (d *destination) Watch(ctx context.Context) context.Context {
	ctx, _ = alongside(ctx, d.of.hungUp)
	return ctx
}

// Reached implements [proxy.Reacher].
func (d *destination) Reached(host string, port uint16) {
	d.from = socks.AppendAddress([]byte{0, 0, 0}, host, port)
}

// Accept implements [proxy.Attempt].
func (d *destination) Accept(context.Context) (proxy.Endpoint, error) {
	d.of.allow(d.asked)
	return proxy.Endpoint{Datagrams: d}, nil
}

// Refuse remembers what is denied, so that it is said once.
func (d *destination) Refuse(err error) {
	d.Forget()
	if _, denied := errors.AsType[*proxy.Denied](err); !denied {
		d.of.allow(d.asked)
	}
}

// Drop implements [proxy.Lost]: the datagram is lost, as datagrams may be.
func (d *destination) Drop() { d.of.allow(d.asked) }

// Deliver implements [relay.Sink].
func (d *destination) Deliver(datagrams [][]byte) (bytes int, err error) {
	return relay.EachWrite(datagrams, func(data []byte) error {
		_, err := d.of.conn.WriteToUDPAddrPort(append(slices.Clip(d.from), data...), *d.of.peer.Load())
		return err
	})
}

// Unreachable does nothing: SOCKS has no way to say it.
func (d *destination) Unreachable(netns.Unreachable) {}

// Close does nothing: other flows go by the same socket.
func (d *destination) Close() error { return nil }
