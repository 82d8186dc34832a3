package proxy

import (
	"context"
	"slices"
	"time"

	"appfw/netns"
	"appfw/policy"
	"appfw/proxy/relay"
)

// Linger waits until what the app sent before it ended has been passed on, or
// until ctx ends: a program may end as soon as its last write(2) returned.
// Connections that are still open belong to what the app left behind, and are
// not waited for, nor are flows that begin meanwhile: closing are those that are not
// open. It gives up when nothing more is passed on for stallTime; as long as something
// is, it calls moving every now and then.
func (p *Proxy) Linger(ctx context.Context, moving func(), closing func() map[netns.Connection]bool) {
	flows := p.all()
	if len(flows) == 0 {
		return
	}
	closed := closing()
	if !poll(ctx, acceptTime+stallTime/4, flows, (*Flow).beingAccepted) {
		return
	}
	var waiting []*relay.Relay
	for _, f := range flows {
		if r := f.ending(closed); r != nil {
			waiting = append(waiting, r)
		}
	}
	if passOn(ctx, waiting, moving) {
		poll(ctx, stallTime/4, flows, (*Flow).busy)
	}
}

const (
	// lingerPoll is how often Linger looks whether something still waits.
	lingerPoll = 200 * time.Microsecond
	// acceptTime is how long a connection may take from its SYN to its
	// acceptance. One that takes longer was given up by the app.
	acceptTime = 100 * time.Millisecond
	// stallTime is for how long nothing is passed on before that is given up: four
	// times as long as a segment takes that was lost once (RFC 6298, 2.4, as Linux
	// has it).
	stallTime = 800 * time.Millisecond
)

// poll waits until none of the flows waits any more; false if ctx ended before. It
// returns after a time in any case.
func poll(ctx context.Context, d time.Duration, flows []*Flow, waits func(*Flow) bool) bool {
	late := time.After(d)
	for slices.ContainsFunc(flows, waits) {
		select {
		case <-time.After(lingerPoll):
		case <-late:
			return true
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// passOn waits until all that the app sent by the relays was passed on, or nothing more
// is; false if ctx ended before.
func passOn(ctx context.Context, waiting []*relay.Relay, moving func()) bool {
	left, sent, since := len(waiting), int64(-1), time.Now()
	for {
		waiting = slices.DeleteFunc(waiting, func(r *relay.Relay) bool {
			select {
			case <-r.AllSent():
				return true
			default:
				return false
			}
		})
		if len(waiting) == 0 {
			return true
		}
		var now int64
		for _, r := range waiting {
			now += r.Sent.Load()
		}
		if now != sent || len(waiting) != left {
			left, sent, since = len(waiting), now, time.Now()
			moving()
		} else if time.Since(since) > stallTime {
			return true
		}
		select {
		case <-waiting[0].AllSent():
		case <-time.After(stallTime / 4):
		case <-ctx.Done():
			return false
		}
	}
}

// beingAccepted tells whether a flow is decided on, or its connection accepted.
func (f *Flow) beingAccepted() bool {
	switch f.State() {
	case Deciding:
		return f.facts.Asked == "" // else a resolver is waited for
	case Accepting:
		f.proxy.mu.Lock()
		s, ok := f.attempt.(*syn)
		f.proxy.mu.Unlock()
		return ok && s.waits()
	}
	return false
}

// ending is the relay of a connection that the app has ended, or closed; else nil.
func (f *Flow) ending(closed map[netns.Connection]bool) *relay.Relay {
	f.mu.Lock()
	r := f.stream
	f.mu.Unlock()
	if r == nil {
		return nil
	}
	// As the app sees it.
	at := netns.Connection{Local: relay.AddrPort(r.App.RemoteAddr()), Remote: relay.AddrPort(r.App.LocalAddr())}
	if r.AppEnded() || closed[at] {
		return r
	}
	return nil
}

// busy tells whether a datagram of the app's that came as a packet has not been passed
// on.
func (f *Flow) busy() bool {
	if f.facts.Proto != policy.UDP { // of connections, attempt is for its goroutine
		return false
	}
	if _, ok := f.attempt.(*datagram); !ok {
		return false
	}
	if f.State() != Open {
		return true
	}
	b, ok := f.packets.Load().In().(interface{ Busy() bool })
	return ok && b.Busy()
}
