package dnsguard

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// do53 is plain DNS: over UDP, and over TCP what does not fit or does not look
// right.
type do53 netip.AddrPort

func (a do53) exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	m, err := a.over(ctx, "udp", q)
	if _, ok := errors.AsType[badAnswer](err); ok {
		// Perhaps it was a forgery. To wait for another datagram is to give
		// the next one a chance; over TCP, nobody off the path can answer.
		m, err = a.over(ctx, "tcp", q)
	}
	return m, err
}

// over asks from a port of its own and with an ID of its own (RFC 5452, 9.2),
// and takes the first message that comes.
func (a do53) over(ctx context.Context, network string, q *dns.Msg) (*dns.Msg, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, netip.AddrPort(a).String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	q.Id = dns.Id()
	c := dns.Conn{Conn: conn, UDPSize: udpSize}
	if err := c.WriteMsg(q); err != nil {
		return nil, err
	}
	packet, err := readPacket(&c)
	if err != nil {
		return nil, err
	}
	return unpack(packet, q)
}
