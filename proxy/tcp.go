package proxy

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"appfw/netns"
	"appfw/policy"
)

const (
	// maxPending bounds the SYNs being dialled. More are dropped, and the
	// app's kernel sends them again (after 1 s, tcp(7)).
	maxPending = 1024
	// handshakeTime is how long the app has for the last segment of the
	// handshake after its SYN was let in. It answers at once or has left.
	handshakeTime = 10 * time.Second
	// keepAlive finds destinations that are gone without a word. The app is on
	// this host: its kernel says when it goes.
	keepAlive = 60 * time.Second
	port53    = 53
)

// pendingTCP is a connection between its SYN and its acceptance:
//
//	SYN → decide → dialling → let in → accepted
//	         ↓         ↓         ↓
//	       reset    refused   expired
type pendingTCP struct {
	verdict policy.Verdict
	name    policy.Name
	started time.Time
	out     *net.TCPConn // to the destination; nil while dialling and for the resolver
	letIn   time.Time    // zero before
	expiry  *time.Timer  // nil while dialling
}

// syn decides on a SYN, and holds it while the destination is dialled: the
// app's connect(2) succeeds only when appfw's has.
func (in *intake) syn(p netns.Packet) {
	k := flowKey{p.Src, p.Dst}
	in.mu.Lock()
	known, crowded := in.pending[k] != nil, len(in.pending) >= maxPending
	in.mu.Unlock()
	if known || crowded {
		_ = in.gate.Drop(p) // known: sent again while the first is held
		return
	}

	c := &pendingTCP{started: in.Now()}
	if p.Dst.Port() == port53 {
		c.verdict = policy.Verdict{Allow: true, Reason: "the resolver"}
		in.hold(k, c)
		in.letIn(p, k, c)
		return
	}
	c.verdict, c.name = in.Decide(policy.TCP, p.Dst)
	if !c.verdict.Allow {
		in.refuse(p, c.verdict)
		return
	}
	in.Log(Event{Verdict: c.verdict, Proto: "tcp", Dst: p.Dst, Name: string(c.name)})
	in.hold(k, c)
	in.work.Go(func() { in.dial(p, k, c) })
}

func (in *intake) hold(k flowKey, c *pendingTCP) {
	in.mu.Lock()
	in.pending[k] = c
	in.mu.Unlock()
}

// dial dials the destination of a held SYN and passes on how it went.
func (in *intake) dial(p netns.Packet, k flowKey, c *pendingTCP) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive, Count: 4}}
	d.SetMultipathTCP(false) // the destination is reached as by any program
	conn, err := d.DialContext(in.ctx, "tcp", p.Dst.String())
	if err == nil {
		c.out = conn.(*net.TCPConn)
		in.letIn(p, k, c)
		return
	}
	in.mu.Lock()
	delete(in.pending, k)
	in.mu.Unlock()
	in.Log(Event{Closed: true, Verdict: c.verdict, Proto: "tcp", Dst: p.Dst, Name: string(c.name), Duration: in.Now().Sub(c.started)})
	if shortage(err) {
		in.refuse(p, errShort)
		return
	}
	switch why, ok := unreachable(err); {
	case !ok:
		_ = in.gate.Drop(p)
	case why == netns.NoPort:
		_ = in.gate.Reset(p)
	default:
		_ = in.gate.Reject(p, why)
	}
}

// letIn lets the held SYN in. If the app has left by now, the connection expires.
func (in *intake) letIn(p netns.Packet, k flowKey, c *pendingTCP) {
	in.mu.Lock()
	c.letIn = in.Now()
	c.expiry = time.AfterFunc(handshakeTime, func() {
		if in.take(k) == c && c.out != nil {
			c.out.Close()
		}
	})
	in.mu.Unlock()
	if err := in.gate.Accept(p); err != nil && in.take(k) == c && c.out != nil {
		c.out.Close()
	}
}

// take takes a connection that was let in out of the pending ones; nil if
// there is none.
func (in *intake) take(k flowKey) *pendingTCP {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.takeLocked(k)
}

// takeLocked is take with in.mu held.
func (in *intake) takeLocked(k flowKey) *pendingTCP {
	c := in.pending[k]
	if c == nil || c.letIn.IsZero() {
		return nil
	}
	delete(in.pending, k)
	c.expiry.Stop()
	return c
}

// accept takes in the connections whose SYN was let in.
func (in *intake) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// No descriptor is free: the connection waits in the backlog.
			select {
			case <-time.After(10 * time.Millisecond):
				continue
			case <-in.ctx.Done():
				return
			}
		}
		tcp := conn.(*net.TCPConn)
		k := flowKey{addrPort(tcp.RemoteAddr()), addrPort(tcp.LocalAddr())}
		var r *relay
		in.mu.Lock()
		c := in.takeLocked(k)
		if c != nil && c.out != nil {
			r = &relay{app: tcp, out: c.out, sent: make(chan struct{})}
			in.relays[r] = struct{}{}
		}
		in.mu.Unlock()
		switch {
		case c == nil: // nothing was decided on it: it must not be
			reset(tcp)
		case r == nil:
			in.work.Go(func() { in.resolver.hand(tcp) })
		default:
			in.work.Go(func() { in.serveTCP(r, k.dst, c) })
		}
	}
}

// serveTCP relays a connection and reports its end.
func (in *intake) serveTCP(r *relay, dst netip.AddrPort, c *pendingTCP) {
	if c.verdict.ByName || in.Policy().JudgesNames() {
		r.judge = func(shown policy.Name) bool { return in.judgeShown(dst, shown) }
		r.garbled = func(err error) {
			in.Log(Event{Verdict: policy.Verdict{Reason: err.Error()}, Proto: "tcp", Dst: dst, Name: string(c.name)})
		}
	}
	sent, received := r.run(in.ctx)
	in.mu.Lock()
	delete(in.relays, r)
	in.mu.Unlock()
	in.Log(Event{
		Closed: true, Verdict: c.verdict, Proto: "tcp", Dst: dst, Name: string(c.name),
		Sent: sent, Received: received, Duration: in.Now().Sub(c.started),
	})
}

// judgeShown decides on a name that a connection shows, and reports a denial.
func (in *intake) judgeShown(dst netip.AddrPort, shown policy.Name) bool {
	v := in.decideShown(policy.TCP, dst, shown)
	if !v.Allow {
		in.Log(Event{Verdict: v, Proto: "tcp", Dst: dst, Name: string(shown)})
	}
	return v.Allow
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// reset closes a connection by a reset instead of a FIN.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	c.Close()
}
