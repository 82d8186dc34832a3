package proxy

import (
	"errors"
	"io"
	"iter"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/netns/mmsg"
	"appfw/policy"
)

const (
	// maxUDP bounds the UDP flows of an app. For one more, the one that has
	// been idle for longest ends.
	maxUDP = 2048
	// maxWaiting bounds the datagrams that wait for their flow's sockets, and
	// those that wait for the rest of a ClientHello.
	maxWaiting = 64
	// maxHeld bounds the bytes of the latter: servers take 16 KiB at most.
	maxHeld = 64 << 10
	// A flow without an answer ends after shortIdle, any other after longIdle
	// (RFC 4787, REQ-5: not less than two minutes).
	shortIdle = 30 * time.Second
	longIdle  = 180 * time.Second
)

// udpFlow is one UDP flow.
type udpFlow struct {
	decision
	app    udpApp
	out    *net.UDPConn
	by     *association // by which out leads to the destination; nil: directly
	outbox *mmsg.Outbox // of out
	hellos quicHellos   // that the app sent
	held   [][]byte     // datagrams that wait for the rest of a ClientHello
	holds  int          // their bytes

	used           atomic.Int64 // unix nanoseconds of the last datagram
	sent, received atomic.Int64 // payload bytes
}

// udpApp is the app's side of a UDP flow.
type udpApp interface {
	io.Closer
	deliver(datagrams [][]byte) (bytes int, err error) // from the destination
	// unreachable says that the destination cannot be reached, or not any more.
	unreachable(why netns.Unreachable)
}

// gatedUDP is the app's side of a flow that comes by a gate: a socket from the
// destination's address to the app's.
type gatedUDP struct {
	*net.UDPConn
	inbox *mmsg.Inbox
	gate  *netns.Gate
	first netns.Packet // header and some data, to quote in ICMP errors

	mu     sync.Mutex // what refuses the flow is delivered beside what comes from the destination
	outbox *mmsg.Outbox
}

func newGatedUDP(conn *net.UDPConn, gate *netns.Gate, first netns.Packet) (*gatedUDP, error) {
	in, err := mmsg.NewInbox(conn, mmsg.AnySize, mmsg.Gather)
	if err != nil {
		return nil, err
	}
	out, err := mmsg.NewOutbox(conn)
	return &gatedUDP{UDPConn: conn, inbox: in, gate: gate, first: first, outbox: out}, err
}

func (a *gatedUDP) deliver(datagrams [][]byte) (bytes int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, data := range datagrams {
		a.outbox.Add(nil, data)
	}
	return a.outbox.Send()
}

func (a *gatedUDP) unreachable(why netns.Unreachable) { _ = a.gate.Unreachable(a.first, why) }

// datagram handles a datagram that belongs to no flow yet. Those that come
// while its flow is being opened wait with it.
func (in *intake) datagram(p netns.Packet) {
	if p.Dst.Port() == port53 {
		in.work.Go(func() {
			if answer := in.Guard.AnswerPacket(in.ctx, p.Payload); answer != nil {
				_ = in.gate.ReplyUDP(p, answer)
			} else {
				_ = in.gate.Drop(p)
			}
		})
		return
	}
	k := flowKey{p.Src, p.Dst}
	in.mu.Lock()
	if waiting, opening := in.opening[k]; opening && len(waiting) < maxWaiting {
		in.opening[k] = append(waiting, p)
		in.mu.Unlock()
		return
	} else if opening {
		in.mu.Unlock()
		_ = in.gate.Drop(p)
		return
	}
	if in.udp[k] != nil { // it came before the flow's socket was there
		in.mu.Unlock()
		_ = in.gate.Accept(p)
		return
	}
	in.mu.Unlock()

	f := &udpFlow{decision: in.decide(in.origin(p), policy.UDP, p.Dst, nil)}
	if !f.verdict.Allowed() {
		in.refuse(p, f.verdict)
		return
	}
	in.Log(f.event(f.verdict))
	in.mu.Lock()
	in.opening[k] = []netns.Packet{p}
	in.mu.Unlock()
	first := p
	first.IP = append([]byte(nil), p.IP[:min(len(p.IP), 128)]...)
	first.Payload = nil
	in.work.Go(func() { in.openUDP(k, f, first) })
}

// openUDP makes the sockets of a flow, lets the waiting datagrams in and relays.
func (in *intake) openUDP(k flowKey, f *udpFlow, first netns.Packet) {
	f.used.Store(in.Now().UnixNano())
	var app *gatedUDP
	err := in.dialUDP(in.ctx, f)
	if err == nil {
		var conn *net.UDPConn
		if conn, err = in.gate.DialUDP(k.src, k.dst); err == nil {
			if app, err = newGatedUDP(conn, in.gate, first); err != nil {
				conn.Close()
			}
			f.app = app
		}
		if err != nil {
			f.closeOut()
		}
	}
	in.mu.Lock()
	waiting := in.opening[k]
	delete(in.opening, k)
	var v policy.Verdict
	if err == nil {
		if v = in.track(f, &f.decision); v.Allowed() {
			in.udp[k] = f
			in.evict()
		}
	}
	in.mu.Unlock()
	switch {
	case err == nil && v.Allowed():
		for _, p := range waiting {
			_ = in.gate.Accept(p)
		}
		in.work.Go(func() {
			defer in.endUDP(k, f)
			in.upward(f, app.inbox)
		})
		defer in.endUDP(k, f)
		in.downward(f)
		return
	case err == nil:
		f.close()
		for _, p := range waiting {
			in.refuse(p, v)
		}
		in.ended(&f.decision, f.verdict, 0, 0)
	default:
		in.unconnected(&f.decision, err)
		why, _ := unreachable(err)
		for _, p := range waiting {
			switch {
			case shortage(err):
				in.refuse(p, errShort)
			case errors.Is(err, errNoUDP):
				in.refuse(p, policy.Denial(errNoUDP.Error()))
			default:
				_ = in.gate.Reject(p, why)
			}
		}
	}
}

// endUDP ends a flow, once.
func (in *intake) endUDP(k flowKey, f *udpFlow) {
	in.mu.Lock()
	mine := in.udp[k] == f
	if mine {
		delete(in.udp, k)
	}
	in.mu.Unlock()
	f.close()
	if mine {
		in.untrack(f)
		in.ended(&f.decision, f.verdict, f.sent.Load(), f.received.Load())
	}
}

// evict closes the flow that has been idle for longest if there are too many.
// in.mu is held.
func (in *intake) evict() {
	if len(in.udp) > maxUDP {
		idlest(maps.Values(in.udp)).close()
	}
}

// idlest is the flow that has been idle for longest; nil if there is none.
func idlest(flows iter.Seq[*udpFlow]) (f *udpFlow) {
	for x := range flows {
		if f == nil || x.used.Load() < f.used.Load() {
			f = x
		}
	}
	return f
}

func (f *udpFlow) close() {
	f.app.Close()
	f.closeOut()
}

func (f *udpFlow) closeOut() {
	f.out.Close()
	if f.by != nil {
		f.by.close()
	}
}

// abort ends a flow that is denied from here on.
func (f *udpFlow) abort() {
	f.app.unreachable(netns.Prohibited)
	f.close()
}

// receive waits for datagrams at one of the flow's sockets; at the end of an idle
// flow it is os.ErrDeadlineExceeded.
func (p *Proxy) receive(f *udpFlow, in *mmsg.Inbox) error {
	for {
		_ = in.Conn().SetReadDeadline(f.idleEnd())
		err := in.Receive()
		now := p.Now()
		if errors.Is(err, os.ErrDeadlineExceeded) && now.Before(f.idleEnd()) {
			continue // used by the other direction
		}
		if errors.Is(err, unix.EMSGSIZE) {
			continue // of what was sent: now the kernel knows how much the path takes
		}
		if err == nil {
			f.used.Store(now.UnixNano())
		}
		return err
	}
}

// idleEnd is when the flow ends if nothing more is sent.
func (f *udpFlow) idleEnd() time.Time {
	idle := shortIdle
	if f.received.Load() > 0 {
		idle = longIdle
	}
	return time.Unix(0, f.used.Load()).Add(idle)
}

// upward relays from the app until the flow ends.
func (p *Proxy) upward(f *udpFlow, in *mmsg.Inbox) {
	for {
		if p.receive(f, in) != nil {
			return // idle, closed, or the app closed its socket
		}
		var err error
		for data := range in.Datagrams(in.N) {
			if err = p.pass(f, data); err != nil {
				break
			}
		}
		err = errors.Join(err, f.flush())
		in.Release()
		if err != nil {
			return
		}
	}
}

// send sends a datagram of the app's on, or holds it until more is known. After
// an error, of which the app has been told, the flow is over.
func (p *Proxy) send(f *udpFlow, data []byte) error {
	f.used.Store(p.Now().UnixNano())
	err := p.pass(f, data)
	return errors.Join(err, f.flush())
}

// pass has the next flush send a datagram of the app's on, or holds it until more is
// known. It is an error if it is denied, of which the app has been told.
func (p *Proxy) pass(f *udpFlow, data []byte) error {
	if f.looked {
		if pass, denied := p.look(f, data); denied {
			return errDenied
		} else if !pass {
			return nil
		}
	}
	f.add(data)
	return nil
}

// add has the next flush send a datagram.
func (f *udpFlow) add(data []byte) {
	var header []byte
	if f.by != nil {
		header = f.by.header
	}
	f.outbox.Add(header, data)
}

// flush sends what has passed to the destination. It is an error if nothing can be
// sent there, of which the app has been told.
func (f *udpFlow) flush() error {
	sent, err := f.outbox.Send()
	f.sent.Add(int64(sent))
	if err != nil {
		f.failed(err)
	}
	return err
}

// failed tells the app of an error of the socket to the destination.
func (f *udpFlow) failed(err error) {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	if why, ok := unreachable(err); ok {
		f.app.unreachable(why)
	}
}

// downward relays to the app until the flow ends.
func (p *Proxy) downward(f *udpFlow) {
	in, err := mmsg.NewInbox(f.out, mmsg.AnySize, mmsg.Gather)
	var datagrams [][]byte
	for err == nil {
		if err := p.receive(f, in); err != nil {
			f.failed(err)
			return
		}
		datagrams = datagrams[:0]
		for data := range in.Datagrams(in.N) {
			ok := true
			if f.by != nil {
				data, ok = f.by.receive(data)
			}
			if ok {
				datagrams = append(datagrams, data)
			}
		}
		var received int
		received, err = f.app.deliver(datagrams)
		f.received.Add(int64(received))
		clear(datagrams) // an idle flow is not to hold the batch
		in.Release()
	}
}

// eachWrite delivers datagrams one by one.
func eachWrite(datagrams [][]byte, write func([]byte) error) (bytes int, err error) {
	for _, data := range datagrams {
		switch err := write(data); {
		case err == nil:
			bytes += len(data)
		case !errors.Is(err, unix.EMSGSIZE) && !errors.Is(err, unix.ENOBUFS): // else lost, as datagrams may be
			return bytes, err
		}
	}
	return bytes, nil
}

// look judges the names that a datagram of the app's shows. It is false if the
// datagram has to wait for others; those that waited for it have passed.
func (p *Proxy) look(f *udpFlow, datagram []byte) (pass, denied bool) {
	names, more, err := f.hellos.read(datagram)
	if f.holds += len(datagram); err == nil && more && (f.holds > maxHeld || len(f.held) == maxWaiting) {
		err = errLongHello
	}
	if err != nil {
		v := policy.Denial(err.Error())
		p.deny(&f.decision, v)
		f.refuse(v)
		return false, true
	}
	for _, shown := range names {
		if v := p.judge(&f.decision, shown); !v.Allowed() {
			f.refuse(v)
			return false, true
		}
	}
	if more {
		f.held = append(f.held, slices.Clone(datagram))
		return false, false
	}
	for _, d := range f.held {
		f.add(d)
	}
	f.held, f.holds = nil, 0
	return true, false
}

var errLongHello = errors.New("the QUIC ClientHello does not end")

// refuse tells the app that a flow is denied from here on: by an ICMP error, and
// in QUIC's own way, as few clients hear of the other.
func (f *udpFlow) refuse(v policy.Verdict) {
	if refusal := f.hellos.refusal("appfw: " + v.Reason()); refusal != nil {
		_, _ = f.app.deliver([][]byte{refusal})
	}
	f.app.unreachable(netns.Prohibited)
}
