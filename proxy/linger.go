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
// open. It gives up when nothing more is passed on for [relay.StallTime]; as long as something
// is, it calls moving every now and then.
func (p *Proxy) Linger(ctx context.Context, moving func(), closing func() map[netns.Connection]bool) {
	flows := p.all()
	if len(flows) == 0 {
		return
	}
	closed := closing()
	if !poll(ctx, acceptTime+relay.StallTime/4, flows, (*Flow).beingAccepted) {
		return
	}
	var waiting []*relay.Relay
	for _, f := range flows {
		if r := f.ending(closed); r != nil {
			waiting = append(waiting, r)
		}
	}
	if relay.PassOn(ctx, waiting, moving) {
		poll(ctx, relay.StallTime/4, flows, (*Flow).busy)
	}
}

const (
	// lingerPoll is how often Linger looks whether something still waits.
	lingerPoll = 200 * time.Microsecond
	// acceptTime is how long a connection may take from its SYN to its
	// acceptance. One that takes longer was given up by the app.
	acceptTime = 100 * time.Millisecond
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
