package proxy

import (
	"errors"
	"net"
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
	// maxWaiting bounds the datagrams that wait for their flow's sockets.
	maxWaiting = 64
	// A flow without an answer ends after shortIdle, any other after longIdle
	// (RFC 4787, REQ-5: not less than two minutes).
	shortIdle = 30 * time.Second
	longIdle  = 180 * time.Second
)

// udpFlow is one UDP flow: a socket on either side, both connected.
type udpFlow struct {
	first   netns.Packet // header and some data, to quote in ICMP errors
	app     *net.UDPConn // in the gateway: from the destination's address to the app
	out     *net.UDPConn
	verdict policy.Verdict
	name    policy.Name
	started time.Time
	judged  bool // the names that it shows matter

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

	f := &udpFlow{started: in.Now()}
	f.verdict, f.name = in.Decide(policy.UDP, p.Dst)
	f.judged = f.verdict.ByName || in.Policy().JudgesNames()
	if f.verdict.Allow && f.judged && isQUIC(p.Payload) {
		f.verdict = deniedQUIC
	}
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

// deniedQUIC is for QUIC where the name that the flow shows would matter: it is
// not read. Clients that are refused at once fall back to TCP.
var deniedQUIC = policy.Verdict{Reason: "the name that a QUIC flow shows is not read; that of TLS over TCP is"}

// isQUIC tells whether a datagram starts a QUIC connection: a long header with
// a version (RFC 8999, 5.1) and the size an Initial must have (RFC 9000, 14.1).
func isQUIC(b []byte) bool {
	return len(b) >= 1200 && b[0]&0x80 != 0 && (b[1]|b[2]|b[3]|b[4]) != 0
}

// open makes the sockets of a flow, lets the waiting datagrams in and relays.
func (in *intake) open(k flowKey, f *udpFlow) {
	err := f.open(in, k)
	in.mu.Lock()
	waiting := in.opening[k]
	delete(in.opening, k)
	if err == nil {
		in.udp[k] = f
		in.evict()
	}
	in.mu.Unlock()
	if err != nil {
		why, _ := unreachable(err)
		for _, p := range waiting {
			if shortage(err) {
				in.refuse(p, errShort)
			} else {
				_ = in.gate.Reject(p, why)
			}
		}
		in.closed(k, f)
		return
	}
	for _, p := range waiting {
		_ = in.gate.Accept(p)
	}
	in.work.Go(func() { in.relayUDP(k, f, f.out, f.app, &f.sent) })
	in.relayUDP(k, f, f.app, f.out, &f.received)
}

func (f *udpFlow) open(in *intake, k flowKey) error {
	f.used.Store(in.Now().UnixNano())
	out, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(k.dst))
	if err != nil {
		return err
	}
	app, err := in.gate.DialUDP(k.src, k.dst)
	if err != nil {
		out.Close()
		return err
	}
	f.out, f.app = out, app
	return nil
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
		if err == nil && src == f.app && f.judged && isQUIC(b.data) {
			b.release()
			in.Log(Event{Verdict: deniedQUIC, Proto: "udp", Dst: k.dst, Name: string(f.name)})
			_ = in.gate.Unreachable(f.first, netns.Prohibited)
			return
		}
		if err == nil {
			f.used.Store(in.Now().UnixNano())
			_, err = dst.Write(b.data)
			n := int64(len(b.data))
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
		in.closed(k, f)
	}
}

// closed reports the end of a flow.
func (in *intake) closed(k flowKey, f *udpFlow) {
	in.Log(Event{
		Closed: true, Verdict: f.verdict, Proto: "udp", Dst: k.dst, Name: string(f.name),
		Sent: f.sent.Load(), Received: f.received.Load(), Duration: in.Now().Sub(f.started),
	})
}
