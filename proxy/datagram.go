package proxy

import (
	"context"
	"net"
	"sync"

	"appfw/netns"
	"appfw/netns/mmsg"
	"appfw/proxy/relay"
)

// maxWaiting bounds the datagrams that wait for their flow's sockets.
const maxWaiting = 64

// datagram is the first datagram of a flow, which waits in the queue, and those that
// wait with it.
type datagram struct {
	held

	mu      sync.Mutex
	waiting []netns.Packet
	open    bool // the flow has its socket, which takes in what comes
}

// Join implements [Joiner].
func (a *datagram) Join(later Attempt) {
	p := later.(*datagram).p
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.open: // it came before the socket was there
		_ = a.in.Gate.Queue.Settle(p, true)
	case len(a.waiting) < maxWaiting:
		a.waiting = append(a.waiting, p)
	default:
		_ = a.in.Gate.Queue.Settle(p, false)
	}
}

// Accept implements [Attempt].
func (a *datagram) Accept(context.Context) (Endpoint, error) {
	conn, err := a.in.Gate.Sockets.DialUDP(a.p.Src, a.p.Dst)
	if err != nil {
		return Endpoint{}, err
	}
	inbox, err := mmsg.NewInbox(conn, mmsg.AnySize, mmsg.Gather)
	if err == nil {
		var outbox *mmsg.Outbox
		if outbox, err = mmsg.NewOutbox(conn); err == nil {
			return Endpoint{Datagrams: &gateSink{of: a, conn: conn, inbox: inbox, outbox: outbox}}, nil
		}
	}
	conn.Close()
	return Endpoint{}, err
}

// Refuse implements [Attempt].
func (a *datagram) Refuse(err error) {
	a.mu.Lock()
	waiting := a.waiting
	a.waiting = nil
	a.mu.Unlock()
	for _, p := range waiting {
		_ = a.in.Gate.Queue.Settle(p, false)
		a.answer(p, err)
	}
}

// gateSink is the app's side of a flow of datagrams that comes by a gate: a socket from
// the destination's address to the app's.
type gateSink struct {
	of    *datagram
	conn  *net.UDPConn
	inbox *mmsg.Inbox

	mu     sync.Mutex // what refuses the flow is delivered beside what comes from the destination
	outbox *mmsg.Outbox
}

// Open implements [relay.Sink].
func (s *gateSink) Open(d *relay.Datagrams) {
	a := s.of
	a.mu.Lock()
	waiting := a.waiting
	a.waiting, a.open = nil, true
	// To quote in ICMP errors, the header and some data are enough.
	a.p.IP, a.p.Payload = append([]byte(nil), a.p.IP[:min(len(a.p.IP), 128)]...), nil
	a.mu.Unlock()
	for _, p := range waiting {
		_ = a.in.Gate.Queue.Settle(p, true)
	}
	a.in.work.Go(func() { d.Upward(s.inbox) })
}

// Deliver implements [relay.Sink].
func (s *gateSink) Deliver(datagrams [][]byte) (bytes int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, data := range datagrams {
		s.outbox.Add(nil, data)
	}
	return s.outbox.Send()
}

// Unreachable implements [relay.Sink].
func (s *gateSink) Unreachable(why netns.Unreachable) {
	s.of.mu.Lock()
	p := s.of.p
	s.of.mu.Unlock()
	_ = s.of.in.Gate.Queue.Send(p, p.Unreachable(why))
}

// Close implements [relay.Sink].
func (s *gateSink) Close() error { return s.conn.Close() }

// Busy tells whether datagrams of the app's have not been passed on.
func (s *gateSink) Busy() bool { return s.inbox.Busy() }
