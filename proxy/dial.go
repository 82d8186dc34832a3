package proxy

import (
	"cmp"
	"context"
	"crypto/rand"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"appfw/dnsguard"
	"appfw/netns/tcp"
	"appfw/policy"
	"appfw/proxy/relay"
	"appfw/proxy/upstream"
)

// dial connects to where the flow goes, the way that was decided.
func (f *Flow) dial(ctx context.Context) (relay.Stream, error) {
	if in, ok := f.attempt.(Inwards); ok {
		return in.DialTCP(ctx)
	}
	first, others := f.way, f.others
	if name := f.proxy.standsFor(first.dst.Addr()); name != "" && first.chain == nil {
		return f.dialName(ctx, name)
	}
	if len(others) == 0 {
		return f.dialWay(ctx, first)
	}
	r, err := tcp.Race(ctx, append([]way{first}, others...), func(ctx context.Context, w way) (reached, error) {
		conn, err := f.dialWay(ctx, w)
		return reached{conn, w}, err
	})
	if err == nil {
		if err = f.settle(r.way, nil); err != nil {
			r.Close()
		}
	}
	return r.Stream, err
}

// reached is a connection, and the way that it went.
type reached struct {
	relay.Stream
	way way
}

// dialWay connects to where a way leads.
func (f *Flow) dialWay(ctx context.Context, w way) (relay.Stream, error) {
	if w.chain != nil {
		at := f.proxy.host(w.dst)
		return w.chain.Dial(ctx, f.isolation(at), at, w.dst.Port(), f.facts.Web)
	}
	return dialTCP(ctx, w.dst)
}

// dialName connects to a name that has another way out at other ports, so that it was
// not resolved before.
func (f *Flow) dialName(ctx context.Context, name policy.Name) (relay.Stream, error) {
	addrs, pin, err := f.resolve(ctx, name)
	if err != nil {
		return nil, err
	}
	port := f.way.dst.Port() // f.way may be another when the last one is dialled
	conn, err := tcp.Race(ctx, addrs, func(ctx context.Context, a netip.Addr) (relay.Stream, error) {
		return dialTCP(ctx, netip.AddrPortFrom(a, port))
	})
	if err == nil {
		if err = f.settle(f.way, &realWay{relay.AddrPort(conn.RemoteAddr()), pin}); err != nil {
			conn.Close()
		}
	}
	return conn, err
}

// dialTCP connects to an address from the host.
func dialTCP(ctx context.Context, dst netip.AddrPort) (relay.Stream, error) {
	return relay.Dialled(tcp.DialFar(ctx, dst))
}

// resolve resolves a name to those of its addresses that the flow may reach directly.
// There is one at least, or an error.
func (f *Flow) resolve(ctx context.Context, name policy.Name) ([]netip.Addr, dnsguard.Pin, error) {
	rules := f.decidedBy()
	addrs, pin, err := f.proxy.Guard.Lookup(ctx, rules, name)
	addrs = slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool {
		at := f.facts.Facts
		at.Name, at.Stands, at.Asked = "", false, ""
		at.Dst, at.Pin = netip.AddrPortFrom(a, f.way.dst.Port()), &pin
		v := f.proxy.judgeReal(rules, &at, f.proxy.Routes.Kind).Verdict
		return !v.Allowed() || v.Via != policy.Direct
	})
	if len(addrs) == 0 && err == nil {
		err = unix.EHOSTUNREACH
	}
	if len(addrs) > 0 {
		err = nil
	}
	return addrs, pin, err
}

// host is what the end of a chain is told of a destination.
func (p *Proxy) host(dst netip.AddrPort) string {
	if name := p.standsFor(dst.Addr()); name != "" {
		return string(name)
	}
	return dst.Addr().String()
}

// isolation tells flows apart that are not to share a circuit of Tor's. Clients
// that gave credentials of their own never share one.
func (f *Flow) isolation(host string) string {
	from := f.facts.Subject
	switch f.decidedBy().Settings().Isolate {
	case policy.IsolateDestination:
		return host + "\x00" + from.Credentials
	case policy.IsolateProcess:
		if from.Owner != nil {
			if owner := from.Owner(); owner != "" {
				return owner + "\x00" + from.Credentials
			}
		}
		return rand.Text() // rather with nobody than with somebody else
	}
	return from.Credentials
}

// chain is the chain with the name; one that always fails if there is none. Nil
// is the direct way.
func (p *Proxy) chain(name string) *upstream.Chain {
	if name == policy.Direct {
		return nil
	}
	if p.Chain == nil {
		return noChain
	}
	return cmp.Or(p.Chain(name), noChain)
}

var noChain = new(upstream.Chain)
