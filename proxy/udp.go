package proxy

import (
	"errors"
	"io"
	"iter"
	"maps"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"appfw/netns"
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
	hellos quicHellos   // that the app sent
	held   [][]byte     // datagrams that wait for the rest of a ClientHello
	holds  int          // their bytes

	used           atomic.Int64 // unix nanoseconds of the last datagram
	sent, received atomic.Int64 // payload bytes
}

// udpApp is the app's side of a UDP flow.
type udpApp interface {
	io.WriteCloser // of datagrams from the destination
	// unreachable says that the destination cannot be reached, or not any more.
	unreachable(why netns.Unreachable)
}

// gatedUDP is the app's side of a flow that comes by a gate: a socket from the
// destination's address to the app's.
type gatedUDP struct {
	*net.UDPConn
	gate  *netns.Gate
	first netns.Packet // header and some data, to quote in ICMP errors
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
	if !f.verdict.Allow {
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
	var app *net.UDPConn
	err := in.dialUDP(in.ctx, f)
	if err == nil {
		if app, err = in.gate.DialUDP(k.src, k.dst); err == nil {
			f.app = &gatedUDP{app, in.gate, first}
		} else {
			f.closeOut()
		}
	}
	in.mu.Lock()
	waiting := in.opening[k]
	delete(in.opening, k)
	var v policy.Verdict
	if err == nil {
		if v = in.track(f, &f.decision); v.Allow {
			in.udp[k] = f
			in.evict()
		}
	}
	in.mu.Unlock()
	switch {
	case err == nil && v.Allow:
		for _, p := range waiting {
			_ = in.gate.Accept(p)
		}
		in.work.Go(func() {
			defer in.endUDP(k, f)
			in.upward(f, app)
		})
		defer in.endUDP(k, f)
		in.downward(f)
		return
	case err == nil:
		f.close()
		for _, p := range waiting {
			in.refuse(p, v)
		}
	default:
		why, _ := unreachable(err)
		if failed := failure(err); failed != nil {
			in.deny(&f.decision, policy.Verdict{Reason: "the upstream failed: " + failed.Error()})
		}
		for _, p := range waiting {
			switch {
			case shortage(err):
				in.refuse(p, errShort)
			case errors.Is(err, errNoUDP):
				in.refuse(p, policy.Verdict{Reason: errNoUDP.Error()})
			default:
				_ = in.gate.Reject(p, why)
			}
		}
	}
	in.ended(&f.decision, f.verdict, 0, 0)
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

// read reads a datagram from one of the flow's sockets; at the end of an idle
// flow it is os.ErrDeadlineExceeded.
func (p *Proxy) read(f *udpFlow, src *net.UDPConn) (buffer, error) {
	for {
		idle := shortIdle
		if f.received.Load() > 0 {
			idle = longIdle
		}
		_ = src.SetReadDeadline(time.Unix(0, f.used.Load()).Add(idle))
		b, err := readReady(src, largeBuffer)
		if errors.Is(err, os.ErrDeadlineExceeded) && p.Now().Sub(time.Unix(0, f.used.Load())) < idle {
			continue // used by the other direction
		}
		return b, err
	}
}

// upward relays from the app until the flow ends.
func (p *Proxy) upward(f *udpFlow, app *net.UDPConn) {
	for {
		b, err := p.read(f, app)
		if err != nil {
			return // idle, closed, or the app closed its socket
		}
		err = p.send(f, b.data)
		b.release()
		if err != nil {
			return
		}
	}
}

// send sends a datagram of the app's on, or holds it until more is known. After
// an error, of which the app has been told, the flow is over.
func (p *Proxy) send(f *udpFlow, data []byte) error {
	f.used.Store(p.Now().UnixNano())
	if f.looked {
		if pass, denied := p.look(f, data); denied {
			return errDenied
		} else if !pass {
			return nil
		}
	}
	err := f.send(data)
	switch {
	case err == nil:
		f.sent.Add(int64(len(data)))
	case errors.Is(err, unix.EMSGSIZE), errors.Is(err, unix.ENOBUFS):
		return nil // lost, as datagrams may be
	default:
		f.failed(err)
	}
	return err
}

// send sends a datagram to the destination.
func (f *udpFlow) send(data []byte) error {
	if f.by != nil {
		data = append(slices.Clip(f.by.header), data...)
	}
	_, err := f.out.Write(data)
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
	for {
		b, err := p.read(f, f.out)
		if err != nil {
			f.failed(err)
			return
		}
		f.used.Store(p.Now().UnixNano())
		data, ok := b.data, true
		if f.by != nil {
			data, ok = f.by.receive(data)
		}
		n := len(data)
		if ok {
			_, err = f.app.Write(data)
		}
		b.release()
		switch {
		case err == nil:
			f.received.Add(int64(n))
		case errors.Is(err, unix.EMSGSIZE), errors.Is(err, unix.ENOBUFS): // lost, as datagrams may be
		default:
			return
		}
	}
}

// look judges the names that a datagram of the app's shows. It is false if the
// datagram has to wait for others; those that waited for it have been sent.
func (p *Proxy) look(f *udpFlow, datagram []byte) (pass, denied bool) {
	names, more, err := f.hellos.read(datagram)
	if f.holds += len(datagram); err == nil && more && (f.holds > maxHeld || len(f.held) == maxWaiting) {
		err = errLongHello
	}
	if err != nil {
		v := policy.Verdict{Reason: err.Error()}
		p.deny(&f.decision, v)
		f.refuse(v)
		return false, true
	}
	for _, shown := range names {
		if v := p.judge(&f.decision, shown); !v.Allow {
			f.refuse(v)
			return false, true
		}
	}
	if more {
		f.held = append(f.held, slices.Clone(datagram))
		return false, false
	}
	for _, d := range f.held {
		if err := f.send(d); err == nil {
			f.sent.Add(int64(len(d)))
		} // else lost, as datagrams may be
	}
	f.held, f.holds = nil, 0
	return true, false
}

var errLongHello = errors.New("the QUIC ClientHello does not end")

// refuse tells the app that a flow is denied from here on: by an ICMP error, and
// in QUIC's own way, as few clients hear of the other.
func (f *udpFlow) refuse(v policy.Verdict) {
	if refusal := f.hellos.refusal("appfw: " + v.Reason); refusal != nil {
		_, _ = f.app.Write(refusal)
	}
	f.app.unreachable(netns.Prohibited)
}
