package proxy

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"appfw/dnsguard"
	"appfw/netns/mmsg"
	"appfw/netns/tcp"
	"appfw/policy"
)

// dial connects to where a flow goes, the way that was decided.
func (p *Proxy) dial(ctx context.Context, d *decision) (stream, error) {
	name, _ := p.synthetic(d.dst.Addr())
	if d.verdict.Via != policy.Direct {
		return d.chain.Dial(ctx, isolation(d, name), host(name, d.dst), d.dst.Port())
	}
	if name == "" {
		return dialTCP(ctx, d.dst)
	}
	addrs, pin, err := p.resolve(ctx, d, name)
	if len(addrs) == 0 {
		return nil, err
	}
	conn, err := race(ctx, addrs, func(ctx context.Context, a netip.Addr) (stream, error) {
		return dialTCP(ctx, netip.AddrPortFrom(a, d.dst.Port()))
	})
	if err == nil {
		d.real = &real{addrPort(conn.RemoteAddr()), pin}
	}
	return conn, err
}

// dialTCP connects to an address from the host.
func dialTCP(ctx context.Context, dst netip.AddrPort) (stream, error) {
	conn, err := tcp.Dial(ctx, dst)
	if err != nil {
		return nil, err
	}
	conn.KeepAlive(keepAlive, keepAlives)
	return conn, nil
}

// raceDelay is how long an address has before the next one is tried beside it
// (RFC 8305, 8).
const raceDelay = 250 * time.Millisecond

// race dials several destinations, each when the one before has failed or
// taken long, and returns the first connection. If there is none, the error is
// that of the first that failed. At least one destination is given.
func race[T any, C io.Closer](ctx context.Context, dsts []T, dial func(context.Context, T) (C, error)) (conn C, err error) {
	if len(dsts) == 1 {
		return dial(ctx, dsts[0])
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn C
		err  error
	}
	results := make(chan result)
	over := make(chan struct{}) // not ctx: whoever ends that still waits for the results
	defer close(over)
	next := func() {
		dst := dsts[0]
		dsts = dsts[1:]
		go func() {
			c, err := dial(ctx, dst)
			select {
			case results <- result{c, err}:
			case <-over: // nobody waits any more
				if err == nil {
					c.Close()
				}
			}
		}()
	}
	next()
	delay := time.NewTimer(raceDelay)
	defer delay.Stop()
	for dialling := 1; dialling > 0; {
		select {
		case r := <-results:
			if r.err == nil {
				return r.conn, nil
			}
			if err == nil {
				err = r.err
			}
			dialling--
		case <-delay.C:
		}
		if len(dsts) > 0 {
			next()
			dialling++
			delay.Reset(raceDelay)
		}
	}
	return conn, err
}

// resolve resolves a name that has another way out at other ports, so that it was
// not resolved before. What is dialled is judged first, as ever.
func (p *Proxy) resolve(ctx context.Context, d *decision, name policy.Name) ([]netip.Addr, dnsguard.Pin, error) {
	addrs, pin, err := p.Guard.Lookup(ctx, d.rules, name)
	addrs = slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool {
		v, _ := p.decideReal(d.rules, d.proto, netip.AddrPortFrom(a, d.dst.Port()), &pin)
		return !v.Allowed() || v.Via != policy.Direct
	})
	if len(addrs) == 0 && err == nil {
		err = unix.EHOSTUNREACH
	}
	return addrs, pin, err
}

// dialUDP makes the socket by which a UDP flow goes out.
func (p *Proxy) dialUDP(ctx context.Context, f *udpFlow) error {
	if err := p.reachUDP(ctx, f); err != nil {
		return err
	}
	return f.ready()
}

// ready makes what sends by the flow's socket, or closes that.
func (f *udpFlow) ready() (err error) {
	if f.outbox, err = mmsg.NewOutbox(f.out); err != nil {
		f.closeOut()
	}
	return err
}

// reachUDP makes the socket of dialUDP.
func (p *Proxy) reachUDP(ctx context.Context, f *udpFlow) (err error) {
	name, _ := p.synthetic(f.dst.Addr())
	dst := f.dst
	switch {
	case f.verdict.Via != policy.Direct:
		if f.by, err = f.chain.Associate(ctx, isolation(&f.decision, name), host(name, dst), dst.Port()); err != nil {
			return err
		}
		f.out = f.by.udp
		return nil
	case name != "":
		addrs, pin, err := p.resolve(ctx, &f.decision, name)
		if len(addrs) == 0 {
			return err
		}
		dst = netip.AddrPortFrom(addrs[0], dst.Port())
		f.real = &real{dst, pin}
	}
	f.out, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(dst))
	return err
}

// host is what the end of a chain is told of a destination.
func host(name policy.Name, dst netip.AddrPort) string {
	if name != "" {
		return string(name)
	}
	return dst.Addr().String()
}

// isolation tells flows apart that are not to share a circuit of Tor's. Clients
// that gave credentials of their own never share one.
func isolation(d *decision, name policy.Name) string {
	own := d.credentials
	switch d.rules.Isolate {
	case policy.IsolateDestination:
		return host(name, d.dst) + "\x00" + own
	case policy.IsolateProcess:
		if d.owner != nil {
			if owner := d.owner(); owner != "" {
				return owner + "\x00" + own
			}
		}
		return rand.Text() // rather with nobody than with somebody else
	}
	return own
}

// chain is the chain with the name; one that always fails if there is none. Nil
// is the direct way.
func (p *Proxy) chain(name string) *Chain {
	if name == policy.Direct {
		return nil
	}
	if p.Chain != nil {
		if c := p.Chain(name); c != nil {
			return c
		}
	}
	return noChain
}

var noChain = new(Chain)

// failure says for people what a chain did, if it failed itself or refuses who asks;
// "" if the error is the destination's.
func failure(err error) string {
	up, ok := errors.AsType[*errUpstream](err)
	switch {
	case ok && up.down:
		return "the upstream failed: " + up.Error()
	case ok && up.errno == unix.EACCES:
		return "the upstream refuses it: " + up.Error()
	}
	return ""
}
