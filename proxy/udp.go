package proxy

import (
	"errors"
	"net"
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

// udpFlow is one UDP flow: a socket on either side, both connected.
type udpFlow struct {
	first netns.Packet // header and some data, to quote in ICMP errors
	app   *net.UDPConn // in the gateway: from the destination's address to the app
	out   *net.UDPConn
	by    *association // by which out leads to the destination; nil: directly
	decision
	hellos quicHellos // that the app sent
	held   [][]byte   // datagrams that wait for the rest of a ClientHello
	holds  int        // their bytes

	used           atomic.Int64 // unix nanoseconds of the last datagram
	sent, received atomic.Int64 // payload bytes
}

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

	f := &udpFlow{decision: in.decide(policy.UDP, p.Dst)}
	f.owner = in.owner(p)
	if !f.verdict.Allow {
		in.refuse(p, f.verdict)
		return
	}
	in.Log(Event{Verdict: f.verdict, Proto: "udp", Dst: p.Dst, Name: string(f.name)})
	in.mu.Lock()
	in.opening[k] = []netns.Packet{p}
	in.mu.Unlock()
	f.first = p
	f.first.IP = append([]byte(nil), p.IP[:min(len(p.IP), 128)]...)
	f.first.Payload = nil
	in.work.Go(func() { in.open(k, f) })
}

// open makes the sockets of a flow, lets the waiting datagrams in and relays.
func (in *intake) open(k flowKey, f *udpFlow) {
	err := f.open(in, k)
	in.mu.Lock()
	waiting := in.opening[k]
	delete(in.opening, k)
	var v policy.Verdict
	if err == nil {
		if v = in.again(&f.decision); v.Allow {
			in.udp[k] = f
			in.evict()
		}
	}
	in.mu.Unlock()
	if err == nil && !v.Allow {
		f.close()
		for _, p := range waiting {
			in.refuse(p, v)
		}
		in.closed(f)
		return
	}
	if err != nil {
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
		in.closed(f)
		return
	}
	for _, p := range waiting {
		_ = in.gate.Accept(p)
	}
	in.work.Go(func() { in.relayUDP(k, f, f.out, f.app, &f.sent) })
	in.relayUDP(k, f, f.app, f.out, &f.received)
}

func (f *udpFlow) open(in *intake, k flowKey) (err error) {
	f.used.Store(in.Now().UnixNano())
	if f.out, f.by, err = in.dialUDP(in.ctx, &f.decision); err != nil {
		return err
	}
	if f.app, err = in.gate.DialUDP(k.src, k.dst); err != nil {
		f.out.Close()
		if f.by != nil {
			f.by.close()
		}
	}
	return err
}

// send sends a datagram of the app's on.
func (f *udpFlow) send(data []byte) error {
	if f.by != nil {
		data = append(slices.Clip(f.by.header), data...)
	}
	_, err := f.out.Write(data)
	return err
}

// evict closes the flow that has been idle for longest if there are too many.
// in.mu is held.
func (in *intake) evict() {
	if len(in.udp) <= maxUDP {
		return
	}
	var oldest *udpFlow
	for _, f := range in.udp {
		if oldest == nil || f.used.Load() < oldest.used.Load() {
			oldest = f
		}
	}
	oldest.close()
}

func (f *udpFlow) close() {
	f.app.Close()
	f.out.Close()
	if f.by != nil {
		f.by.close()
	}
}

// relayUDP relays one direction until the flow ends: idle, closed, or unreachable.
func (in *intake) relayUDP(k flowKey, f *udpFlow, dst, src *net.UDPConn, count *atomic.Int64) {
	defer in.end(k, f)
	for {
		idle := shortIdle
		if f.received.Load() > 0 {
			idle = longIdle
		}
		_ = src.SetReadDeadline(time.Unix(0, f.used.Load()).Add(idle))
		b, err := readReady(src, largeBuffer)
		if errors.Is(err, unix.ECONNREFUSED) && src == f.app {
			return // the app closed its socket
		}
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			if in.Now().Sub(time.Unix(0, f.used.Load())) < idle {
				continue // used by the other direction
			}
			return
		}
		if err == nil && src == f.app && f.looked {
			pass, denied := in.look(f, b.data)
			if denied || !pass {
				b.release()
				f.used.Store(in.Now().UnixNano())
			}
			if denied {
				return
			}
			if !pass {
				continue
			}
		}
		if err == nil {
			f.used.Store(in.Now().UnixNano())
			data, ok := b.data, true
			if src == f.out && f.by != nil {
				data, ok = f.by.receive(data)
			}
			n := int64(len(data))
			switch {
			case !ok:
			case dst == f.out:
				err = f.send(data)
			default:
				_, err = dst.Write(data)
			}
			b.release()
			if err == nil {
				count.Add(n)
				continue
			}
			if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOBUFS) {
				continue // lost, as datagrams may be
			}
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if src == f.out || dst == f.out {
			if why, ok := unreachable(err); ok {
				_ = in.gate.Unreachable(f.first, why)
			}
		}
		return
	}
}

// look judges the names that a datagram of the app's shows. It is false if the
// datagram has to wait for others; those that waited for it have been sent.
func (in *intake) look(f *udpFlow, datagram []byte) (pass, denied bool) {
	names, more, err := f.hellos.read(datagram)
	if f.holds += len(datagram); err == nil && more && (f.holds > maxHeld || len(f.held) == maxWaiting) {
		err = errLongHello
	}
	if err != nil {
		v := policy.Verdict{Reason: err.Error()}
		in.Log(Event{Verdict: v, Proto: "udp", Dst: f.dst, Name: string(f.name)})
		in.refuseUDP(f, v)
		return false, true
	}
	for _, shown := range names {
		if v := in.judge(&f.decision, shown); !v.Allow {
			in.refuseUDP(f, v)
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

// refuseUDP tells the app that a flow is denied from here on: by an ICMP error,
// and in QUIC's own way, as few clients hear of the other.
func (in *intake) refuseUDP(f *udpFlow, v policy.Verdict) {
	if refusal := f.hellos.refusal("appfw: " + v.Reason); refusal != nil {
		_, _ = f.app.Write(refusal)
	}
	_ = in.gate.Unreachable(f.first, netns.Prohibited)
}

// end ends a flow, once.
func (in *intake) end(k flowKey, f *udpFlow) {
	in.mu.Lock()
	mine := in.udp[k] == f
	if mine {
		delete(in.udp, k)
	}
	in.mu.Unlock()
	f.close()
	if mine {
		in.closed(f)
	}
}

// closed reports the end of a flow.
func (in *intake) closed(f *udpFlow) {
	in.Log(Event{
		Closed: true, Verdict: f.verdict, Proto: "udp", Dst: f.dst, Name: string(f.name),
		Sent: f.sent.Load(), Received: f.received.Load(), Duration: in.Now().Sub(f.started),
	})
}
