package proxy

import (
	"context"
	"slices"
	"time"

	"appfw/netns"
)

// Linger waits until what the app sent before it exited has been passed on, or
// until ctx ends: a program may exit as soon as its last write(2) returned.
// Connections that are still open belong to what the app left behind, and are
// not waited for: closing are those that are not.
func (p *Proxy) Linger(ctx context.Context, closing func() map[netns.Connection]bool) {
	p.mu.Lock()
	intakes := slices.Clone(p.intakes)
	p.mu.Unlock()
	opening := slices.ContainsFunc(intakes, (*intake).opens) // asked first: what opens becomes a flow
	p.mu.Lock()
	idle := len(p.flows) == 0
	p.mu.Unlock()
	if idle && !opening {
		return
	}
	closed := closing()
	wait := func(waits func(*intake) bool) bool {
		return poll(ctx, func() bool { return slices.ContainsFunc(intakes, waits) })
	}
	if !wait((*intake).connectionsWait) {
		return
	}
	p.mu.Lock()
	var ending []*relay
	for f := range p.flows {
		if r, ok := f.(*relay); ok && (r.appEnded() || closed[r.connection()]) {
			ending = append(ending, r)
		}
	}
	p.mu.Unlock()
	for _, r := range ending {
		select {
		case <-r.sent:
		case <-ctx.Done():
			return
		}
	}
	wait((*intake).datagramsWait)
}

// connection is the app's connection, as the app sees it.
func (r *relay) connection() netns.Connection {
	return netns.Connection{Local: addrPort(r.app.RemoteAddr()), Remote: addrPort(r.app.LocalAddr())}
}

const (
	// lingerPoll is how often Linger looks whether something still waits.
	lingerPoll = 200 * time.Microsecond
	// acceptTime is how long a connection may take from its SYN to its
	// acceptance. One that takes longer was given up by the app.
	acceptTime = 100 * time.Millisecond
)

// poll waits until nothing waits any more; false if ctx ended before.
func poll(ctx context.Context, waits func() bool) bool {
	for waits() {
		select {
		case <-time.After(lingerPoll):
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// opens tells whether a flow is being opened.
func (in *intake) opens() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.pending)+len(in.opening) > 0
}

// connectionsWait tells whether a connection is being accepted.
func (in *intake) connectionsWait() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, c := range in.pending {
		if !c.letIn.IsZero() && in.Now().Sub(c.letIn) < acceptTime {
			return true
		}
	}
	return false
}

// datagramsWait tells whether a datagram of the app's has not been passed on.
func (in *intake) datagramsWait() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.opening) > 0 {
		return true
	}
	for _, f := range in.udp {
		if f.app.(*gatedUDP).inbox.Busy() {
			return true
		}
	}
	return false
}
