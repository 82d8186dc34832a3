package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/netns/tcp"
	"appfw/policy"
)

const (
	// maxPending bounds the SYNs being dialled. For more, those are given up whose
	// app has left; if there is none, they are dropped, and the app's kernel sends
	// them again (after 1 s, tcp(7)). As many clients may wait for the app to accept
	// them; more are reset.
	maxPending = 1024
	// handshakeTime is how long the app has for the last segment of the
	// handshake after its SYN was let in. It answers at once or has left.
	handshakeTime = 10 * time.Second
	// keepAlive finds destinations that are gone without a word. The app is on
	// this host: its kernel says when it goes.
	keepAlive  = 60 * time.Second
	keepAlives = 4
	port53     = 53
)

// pendingTCP is a connection between its SYN and its acceptance:
//
//	SYN → decide → dialling → let in → accepted
//	         ↓         ↓         ↓
//	       reset    refused   expired
type pendingTCP struct {
	decision
	seen   time.Time   // its last SYN
	again  int         // how often it was sent again
	out    stream      // to the destination; nil while dialling and for the resolver
	spare  int         // a descriptor that is kept for the acceptance; 0: none, or given away
	letIn  time.Time   // zero before
	expiry *time.Timer // nil while dialling

	ctx    context.Context // of dialling
	cancel context.CancelFunc
	denied *policy.Verdict // by the policy of by now, which cancelled it; nil if none
}

// syn decides on a SYN, and holds it while the destination is dialled: the
// app's connect(2) succeeds only when appfw's has.
func (in *intake) syn(p netns.Packet) {
	k := flowKey{p.Src, p.Dst}
	if !in.room(k) {
		_ = in.gate.Drop(p)
		return
	}

	if p.Dst.Port() == port53 || explicit(p.Dst) {
		c := new(pendingTCP)
		in.mu.Lock()
		err := in.admit(k, c)
		in.mu.Unlock()
		if err != nil {
			in.refuse(p, errShort)
			return
		}
		in.letIn(p, k, c)
		return
	}
	c := &pendingTCP{decision: in.decide(in.origin(p), policy.TCP, p.Dst, nil)}
	if !c.verdict.Allowed() {
		in.refuse(p, c.verdict)
		return
	}
	in.Log(c.event(c.verdict))
	var begun *tcp.Conn
	if name, _ := in.synthetic(p.Dst.Addr()); p.Alone && c.chain == nil && name == "" {
		var done bool
		var err error
		if begun, done, err = tcp.Start(p.Dst); err == nil {
			begun.KeepAlive(keepAlive, keepAlives)
		}
		if done || err != nil { // as on this host, and near it
			in.hold(k, c)
			in.dialled(p, k, c, begun, nil, err)
			return
		}
	}
	c.ctx, c.cancel = context.WithCancel(in.ctx)
	in.hold(k, c)
	in.work.Go(func() { in.dial(p, k, c, begun) })
}

// room tells whether there is room for a SYN that is not held yet.
func (in *intake) room(k flowKey) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if c := in.pending[k]; c != nil { // sent again while the first is held
		c.seen = in.Now()
		c.again++
		return false
	}
	if len(in.pending) >= maxPending {
		for k, c := range in.pending {
			if c.left(in.Now()) {
				in.giveUp(k, c)
			}
		}
	}
	return len(in.pending) < maxPending
}

// left tells whether the app has left: its kernel has not sent the SYN again when it was
// time for that (after 1 s, and then twice as long each time, or less: tcp(7)),
// or not answered when it was let in.
func (c *pendingTCP) left(now time.Time) bool {
	if !c.letIn.IsZero() {
		return now.Sub(c.letIn) > time.Second
	}
	return now.Sub(c.seen) > 2*time.Second<<min(c.again, 6)
}

// giveUp forgets a connection that is held or was let in, with in.mu held.
func (in *intake) giveUp(k flowKey, c *pendingTCP) {
	switch {
	case in.pending[k] != c: // it has been accepted
	case !c.letIn.IsZero():
		in.take(k)
		if c.out != nil {
			c.out.Close()
		}
	case c.cancel != nil:
		delete(in.pending, k)
		c.cancel()
	}
}

func (in *intake) hold(k flowKey, c *pendingTCP) {
	in.mu.Lock()
	c.seen = in.Now()
	in.pending[k] = c
	in.mu.Unlock()
}

// dial dials the destination of a held SYN, or awaits what has begun, and passes on
// how it went.
func (in *intake) dial(p netns.Packet, k flowKey, c *pendingTCP, begun *tcp.Conn) {
	defer c.cancel()
	if begun != nil {
		in.dialled(p, k, c, begun, nil, begun.Await(c.ctx))
		return
	}
	d := c.decision // Recheck looks at c's meanwhile
	conn, err := in.Proxy.dial(c.ctx, &d)
	in.dialled(p, k, c, conn, d.real, err)
}

// dialled passes on how dialling the destination of a held SYN went.
func (in *intake) dialled(p netns.Packet, k flowKey, c *pendingTCP, conn stream, to *real, err error) {
	in.mu.Lock()
	held, made := in.pending[k] == c, err == nil
	if held && made {
		c.out, c.real = conn, to
		err = in.admit(k, c)
	}
	if held && err == nil {
		in.mu.Unlock()
		in.letIn(p, k, c)
		return
	}
	if held {
		delete(in.pending, k)
	} else {
		err = errLeft
	}
	denied := c.denied
	in.mu.Unlock()
	if made {
		conn.Close()
	}
	in.unconnected(&c.decision, err)
	switch {
	case !held:
		_ = in.gate.Drop(p)
		return
	case denied != nil:
		in.refuse(p, *denied)
		return
	case shortage(err):
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

// unconnected reports the end of a flow whose destination could not be reached.
func (p *Proxy) unconnected(d *decision, err error) {
	e := p.end(d, d.verdict)
	if e.Failed = plain(err); errors.Is(err, context.Canceled) {
		e.Failed = "it was not wanted any more"
	}
	e.Verdict = e.Verdict.Because(e.Verdict.Reason() + "; connecting failed: " + e.Failed)
	p.Log(e)
	if failed := failure(err); failed != "" {
		p.deny(d, policy.Denial(failed))
	}
}

// letIn lets a held SYN in that was admitted. If the app has left by now, the
// connection expires.
func (in *intake) letIn(p netns.Packet, k flowKey, c *pendingTCP) {
	if in.gate.Accept(p) != nil {
		in.expire(k, c)
	}
}

// admit makes ready for the acceptance of a connection, with in.mu held. It keeps a
// descriptor for that: without one, the app would be connected, and hear nothing.
func (in *intake) admit(k flowKey, c *pendingTCP) (err error) {
	if in.owed > 0 {
		return unix.EMFILE
	}
	if c.spare, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return err
	}
	in.pending[k] = c
	c.letIn = in.Now()
	c.expiry = time.AfterFunc(handshakeTime, func() { in.expire(k, c) })
	return nil
}

// expire gives up a connection that was let in.
func (in *intake) expire(k flowKey, c *pendingTCP) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.giveUp(k, c)
}

var errLeft = errors.New("the app has given up")

// take takes a connection that was let in out of the pending ones, with in.mu held;
// nil if there is none.
func (in *intake) take(k flowKey) *pendingTCP {
	c := in.pending[k]
	if c == nil || c.letIn.IsZero() {
		return nil
	}
	delete(in.pending, k)
	c.expiry.Stop()
	if c.spare > 0 {
		unix.Close(c.spare)
	} else {
		in.owed--
	}
	return c
}

// makeRoom gives away a descriptor that was kept, for one acceptance; false if there
// is none, or the last that was given away has been taken by something else.
func (in *intake) makeRoom() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.owed > 0 {
		return false
	}
	for _, c := range in.pending {
		if c.spare > 0 {
			unix.Close(c.spare)
			c.spare = 0
			in.owed++
			return true
		}
	}
	return false
}

// accept takes in the connections whose SYN was let in.
func (in *intake) accept(l *tcp.Listener) {
	for {
		app, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if shortage(err) && in.makeRoom() {
			continue
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
		k := flowKey{app.Remote, app.Local}
		var r *relay
		v := policy.Verdict{Action: policy.Allow}
		in.mu.Lock()
		c := in.take(k)
		if c != nil && c.out != nil {
			r = newRelay(app, c.out, c.decision)
			v = in.track(r, &r.decision)
		}
		in.mu.Unlock()
		switch {
		case c == nil: // nothing was decided on it: it must not be
			reset(app)
		case r == nil && k.dst.Port() == port53:
			in.work.Go(func() { in.resolver.hand(app) })
		case r == nil:
			in.work.Go(func() { in.explicit.serve(in.ctx, app, in.origins(unix.IPPROTO_TCP, k.src, k.dst), in.gate.ListenUDP) })
		case !v.Allowed():
			r.abort()
			in.deny(&r.decision, v)
		default:
			in.work.Go(func() { in.relay(in.ctx, r) })
		}
	}
}

// relay relays a connection that is tracked, and reports its end.
func (p *Proxy) relay(ctx context.Context, r *relay) {
	if r.looked {
		r.judge = func(shown policy.Name) bool { return p.judge(&r.decision, shown).Allowed() }
		r.garbled = func(err error) { p.deny(&r.decision, policy.Denial(err.Error())) }
	}
	sent, received := r.run(ctx)
	p.untrack(r)
	p.ended(&r.decision, r.verdict, sent, received)
}

// addrPort is the address of a TCP socket; invalid for others.
func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// reset closes a connection by a reset instead of a FIN.
func reset(c net.Conn) {
	if tcp, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	c.Close()
}
