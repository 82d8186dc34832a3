package proxy

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/policy"
	"appfw/proxy/decide"
	"appfw/proxy/sniff"
)

// held is an attempt of a packet that waits in the queue.
type held struct {
	in      *GateIntake
	p       netns.Packet
	refused string // why it is none; "" if it is one
	settled bool   // the packet has had its verdict, of which there is one
}

// settle gives the packet its verdict.
func (h *held) settle(in bool) (err error) {
	if !h.settled {
		h.settled = true
		err = h.in.Gate.Queue.Settle(h.p, in)
	}
	return err
}

// Facts implements [Attempt].
func (h *held) Facts() Facts {
	proto, carried := transports[h.p.Proto]
	f := Facts{
		Facts: decide.Facts{Proto: proto, Src: h.p.Src, Dst: h.p.Dst, Refused: h.refused},
		Scope: h.in.scope, Key: Key{Proto: proto, Src: h.p.Src, Dst: h.p.Dst},
	}
	if !carried {
		f.Other, f.Key.Proto, f.Key.Text = netns.ProtocolName(h.p.Proto), otherProto, netns.ProtocolName(h.p.Proto)
	}
	switch {
	case h.refused != "":
		f.Key.Text += "?" // never the key of a flow
	case proto == policy.ICMP:
		f.Key.Text = string(h.p.Payload[4:8]) // identifier and sequence number (RFC 792)
		fallthrough
	default:
		f.Subject = h.in.subject(h.p.Proto, h.p.Src, h.p.Dst)
	}
	return f
}

// Accept is of packets that are none.
func (h *held) Accept(context.Context) (Endpoint, error) { return Endpoint{}, errors.ErrUnsupported }

// Refuse tells the app at once. What was spoofed gets no answer, and who left none.
func (h *held) Refuse(err error) {
	_ = h.settle(false)
	h.answer(h.p, err)
}

// Drop has the app's kernel send the packet again, if it does.
func (h *held) Drop() { _ = h.settle(false) }

// answer tells the app that a packet is refused: by a TCP reset, or an ICMP error.
func (h *held) answer(p netns.Packet, err error) {
	q := h.in.Gate.Queue
	if netns.Shortage(err) {
		err = short
	}
	denied, isDenied := errors.AsType[*Denied](err)
	why, tell := netns.Prohibited, true
	if !isDenied {
		why, tell = netns.UnreachableFor(err)
	}
	switch {
	case !tell, errors.Is(err, errLeft), !p.Dst.IsValid(), !fromApp(p), p.ICMPError():
	case p.Proto == unix.IPPROTO_TCP && p.Dst.Port() != 0 && (isDenied || why == netns.NoPort):
		_ = q.Send(p, p.Reset())
	default:
		if isDenied && p.Proto == unix.IPPROTO_UDP { // few clients of QUIC hear of ICMP errors
			if refusal := sniff.RefuseQUIC(p.Payload, "appfw: "+denied.Reason()); refusal != nil {
				_ = q.Send(p, p.Datagram(refusal))
			}
		}
		_ = q.Send(p, p.Unreachable(why))
	}
}
