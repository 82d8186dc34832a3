package gateway

import (
	"net/netip"

	"appfw/netns"
	"appfw/netns/tcp"
	"appfw/proxy"
	"appfw/proxy/relay"
)

// ByGate is what comes by a gate of the kernel's.
func ByGate(g *netns.Gate) proxy.Gate {
	made := proxy.Gate{Queue: queue{g}, Sockets: g}
	for _, l := range g.Listeners {
		made.Listeners = append(made.Listeners, listener{l})
	}
	return made
}

type queue struct{ *netns.Gate }

func (q queue) Settle(p netns.Packet, in bool) error {
	if in {
		return q.Accept(p)
	}
	return q.Drop(p)
}

type listener struct{ l *tcp.Listener }

func (l listener) Accept() (relay.Stream, netip.AddrPort, netip.AddrPort, error) {
	conn, err := l.l.Accept()
	if err != nil {
		return nil, netip.AddrPort{}, netip.AddrPort{}, err
	}
	return conn, conn.Remote, conn.Local, nil
}
