package proxy

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"appfw/policy"
)

// dialer dials destinations directly, from the host.
func dialer() *net.Dialer {
	d := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive, Count: 4}}
	d.SetMultipathTCP(false) // the destination is reached as by any program
	return d
}

// dial connects to where a flow goes, the way that was decided.
func (p *Proxy) dial(ctx context.Context, d *decision) (stream, error) {
	name, _ := p.synthetic(d.dst.Addr())
	if d.verdict.Via != policy.Direct {
		return d.chain.Dial(ctx, isolation(d, name), host(name, d.dst), d.dst.Port())
	}
	if name == "" {
		conn, err := dialer().DialContext(ctx, "tcp", d.dst.String())
		if err != nil {
			return nil, err
		}
		return conn.(*net.TCPConn), nil
	}
	addrs, err := p.resolve(ctx, d, name)
	for _, a := range addrs {
		var conn net.Conn
		if conn, err = dialer().DialContext(ctx, "tcp", netip.AddrPortFrom(a, d.dst.Port()).String()); err == nil {
			return conn.(*net.TCPConn), nil
		}
	}
	return nil, err
}

// resolve resolves a name that has another way out at other ports, so that it was
// not resolved before. What is dialled is judged first, as ever.
func (p *Proxy) resolve(ctx context.Context, d *decision, name policy.Name) ([]netip.Addr, error) {
	addrs, err := p.Guard.Lookup(ctx, d.rules, name)
	addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool {
		v := d.rules.Decide(policy.Flow{Proto: d.proto, Addr: a, Port: d.dst.Port(), Name: name, Pinned: true})
		return !v.Allow || v.Via != policy.Direct || v.ByName && onThisHost(a)
	})
	if len(addrs) == 0 && err == nil {
		err = unix.EHOSTUNREACH
	}
	return addrs, err
}

// dialUDP makes the socket by which a UDP flow goes out; by is how, if not
// directly.
func (p *Proxy) dialUDP(ctx context.Context, d *decision) (conn *net.UDPConn, by *association, err error) {
	name, _ := p.synthetic(d.dst.Addr())
	dst := d.dst
	switch {
	case d.verdict.Via != policy.Direct:
		if by, err = d.chain.Associate(ctx, isolation(d, name), host(name, dst), dst.Port()); err != nil {
			return nil, nil, err
		}
		return by.udp, by, nil
	case name != "":
		addrs, err := p.resolve(ctx, d, name)
		if len(addrs) == 0 {
			return nil, nil, err
		}
		dst = netip.AddrPortFrom(addrs[0], dst.Port())
	}
	conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(dst))
	return conn, nil, err
}

// host is what the end of a chain is told of a destination.
func host(name policy.Name, dst netip.AddrPort) string {
	if name != "" {
		return string(name)
	}
	return dst.Addr().String()
}

// isolation tells flows apart that are not to share a circuit of Tor's.
func isolation(d *decision, name policy.Name) string {
	switch d.rules.Isolate {
	case policy.IsolateDestination:
		return host(name, d.dst)
	case policy.IsolateProcess:
		if d.owner != nil {
			if owner := d.owner(); owner != "" {
				return owner
			}
		}
		return rand.Text() // rather with nobody than with somebody else
	}
	return ""
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

// failure is the error of a chain that is not the destination's, for people to
// read; nil if it is.
func failure(err error) error {
	if up, ok := errors.AsType[*errUpstream](err); ok && up.down {
		return up
	}
	return nil
}
