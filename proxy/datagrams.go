package proxy

import (
	"context"
	"net"
	"net/netip"

	"appfw/netns/mmsg"
	"appfw/proxy/relay"
	"appfw/proxy/upstream"
)

// associate makes the sockets of a flow of datagrams, lets those in that wait, and
// relays.
func (f *Flow) associate(ctx context.Context) {
	out, by, err := f.dialUDP(ctx)
	if err != nil {
		f.fail(ctx, err)
		return
	}
	closeOut := func() {
		out.Close()
		if by != nil {
			by.Close()
		}
	}
	c := relay.Config{Out: out, Held: f.proxy.held, Sent: &f.sent, Received: &f.received, Now: f.proxy.Now}
	if by != nil {
		c.By, c.Header = by, by.Header
	}
	if f.facts.In { // the app is at the other side
		c.Sent, c.Received = c.Received, c.Sent
	}
	if r, ok := f.attempt.(Reacher); ok {
		r.Reached(f.proxy.host(f.way.dst), f.way.dst.Port())
	}
	f.enter(Accepting)
	in, err := f.attempt.Accept(ctx)
	if err != nil {
		closeOut()
		f.fail(ctx, err)
		return
	}
	c.In = in.Datagrams
	var d *relay.Datagrams
	f.mu.Lock()
	if f.looked && !f.facts.In {
		c.Judge = f.judge
	}
	if err = context.Cause(ctx); err != nil { // it was cut meanwhile
		c.In.Close()
		closeOut()
	} else if d, err = relay.NewDatagrams(c); err == nil {
		f.state = Open
		f.packets.Store(d)
	}
	f.mu.Unlock()
	if err != nil {
		f.fail(ctx, err)
		return
	}
	f.proxy.opened(f)
	f.end(f.how(ctx, d.Run(ctx)), "")
}

// used is when the flow of datagrams was used last.
func (f *Flow) used() int64 {
	if d := f.packets.Load(); d != nil {
		return d.Used()
	}
	return 0
}

// dialUDP makes the socket by which datagrams go out, by a proxy or directly.
func (f *Flow) dialUDP(ctx context.Context) (*net.UDPConn, *upstream.Association, error) {
	if in, ok := f.attempt.(Inwards); ok {
		out, err := in.DialUDP()
		return out, nil, err
	}
	if name := f.proxy.standsFor(f.way.dst.Addr()); name != "" && f.way.chain == nil {
		addrs, pin, err := f.resolve(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		to := netip.AddrPortFrom(addrs[0], f.way.dst.Port())
		if err := f.settle(f.way, &realWay{to, pin}); err != nil {
			return nil, nil, err
		}
		out, err := mmsg.Dial(to)
		return out, nil, err
	}
	var err error
	for i, w := range append([]way{f.way}, f.others...) {
		var out *net.UDPConn
		var by *upstream.Association
		if out, by, err = f.dialWayUDP(ctx, w); err != nil {
			continue // there is no way to an address of this family
		}
		if i > 0 {
			if err = f.settle(w, nil); err != nil {
				out.Close()
				if by != nil {
					by.Close()
				}
				return nil, nil, err
			}
		}
		return out, by, nil
	}
	return nil, nil, err
}

// dialWayUDP makes the socket for datagrams that go a way.
func (f *Flow) dialWayUDP(ctx context.Context, w way) (*net.UDPConn, *upstream.Association, error) {
	if w.chain == nil {
		out, err := mmsg.Dial(w.dst)
		return out, nil, err
	}
	at := f.proxy.host(w.dst)
	by, err := w.chain.Associate(ctx, f.isolation(at), at, w.dst.Port(), f.proxy.isLocal)
	if err != nil {
		return nil, nil, err
	}
	return by.UDP, by, nil
}
