package proxy

import (
	"context"
	"slices"
	"time"

	"appfw/netns"
	"appfw/policy"
	"appfw/proxy/relay"
)

// Linger waits until what the app sent before it exited has been passed on, or
// until ctx ends: a program may exit as soon as its last write(2) returned.
// Connections that are still open belong to what the app left behind, and are
// not waited for: closing are those that are not.
func (p *Proxy) Linger(ctx context.Context, closing func() map[netns.Connection]bool) {
	if len(p.all()) == 0 {
		return
	}
	closed := closing()
	if !p.poll(ctx, (*Flow).beingAccepted) {
		return
	}
	for _, f := range p.all() {
		if r := f.ending(closed); r != nil {
			select {
			case <-r.AllSent():
			case <-ctx.Done():
				return
			}
		}
	}
	p.poll(ctx, (*Flow).busy)
}

const (
	// lingerPoll is how often Linger looks whether something still waits.
	lingerPoll = 200 * time.Microsecond
	// acceptTime is how long a connection may take from its SYN to its
	// acceptance. One that takes longer was given up by the app.
	acceptTime = 100 * time.Millisecond
)

// poll waits until no flow waits any more; false if ctx ended before.
func (p *Proxy) poll(ctx context.Context, waits func(*Flow) bool) bool {
	for slices.ContainsFunc(p.all(), waits) {
		select {
		case <-time.After(lingerPoll):
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
