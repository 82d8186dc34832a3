// Package route tells what the host's routes call an address: whether it is a
// host elsewhere, this host's own, or no single host at all. It asks the kernel
// (rtnetlink(7)) and never guesses. It changes no route, and does not say what
// may be sent where: package proxy does.
//
//	t := route.New()
//	defer t.Close()
//	if t.Kind(netip.MustParseAddr("10.0.0.255")) != route.Unicast {
//		return errNotOneHost
//	}
package route

import (
	"errors"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Kind is the type of a route (rtm_type of rtnetlink(7)).
type Kind uint8

const (
	Unknown     Kind = iota // not asked, or the kernel could not be
	Unicast                 // one host elsewhere, or a gateway to it
	Local                   // this host's own
	Broadcast               // all hosts of a network of this host's
	Anycast                 // whichever router answers first (RFC 4291, 2.6)
	Multicast               // a group of hosts
	Unreachable             // there is no way to it: a socket says why
)

var names = [...]string{"unknown", "unicast", "local", "broadcast", "anycast", "multicast", "unreachable"}

func (k Kind) String() string { return names[k] }

// maxKept bounds the addresses that are remembered.
const maxKept = 4096

// Table answers from what it has asked before, until a route, an address, a rule
// or a device of the host changes. It may be used by any goroutine.
type Table struct {
	mu    sync.Mutex
	kept  map[netip.Addr]Kind
	since uint64 // how often something changed
	watch bool   // changes are heard of; without, nothing is kept

	done   chan struct{}
	closed sync.Once
	ask    func(netip.Addr) Kind
}

// New makes a Table of the network namespace of the calling thread. Close it.
func New() *Table {
	t := &Table{kept: make(map[netip.Addr]Kind), done: make(chan struct{}), ask: ask}
	t.watch = t.subscribe() == nil
	return t
}

// Close ends the watch for changes. What is asked later is asked of the kernel.
func (t *Table) Close() {
	t.closed.Do(func() { close(t.done) })
	t.forget(false)
}

// Kind is what the routes call an address, zone or not.
func (t *Table) Kind(a netip.Addr) Kind {
	a = a.WithZone("").Unmap()
	t.mu.Lock()
	k, known := t.kept[a]
	since := t.since
	t.mu.Unlock()
	if known {
		return k
	}
	k = t.ask(a)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watch && since == t.since && k != Unknown {
		if len(t.kept) >= maxKept {
			clear(t.kept)
		}
		t.kept[a] = k
	}
	return k
}

// Known is Kind without asking: Unknown if it takes that.
func (t *Table) Known(a netip.Addr) Kind {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kept[a.WithZone("").Unmap()]
}

// forget forgets what was asked; watch tells whether later changes are heard of.
func (t *Table) forget(watch bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.kept)
	t.since++
	t.watch = watch
}

// ask asks the kernel (RTM_GETROUTE).
func ask(a netip.Addr) Kind {
	routes, err := netlink.RouteGet(a.AsSlice())
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINVAL):
		return Unreachable // no route, or one of type unreachable, prohibit or blackhole (ip-route(8))
	case err != nil || len(routes) == 0:
		return Unknown
	}
	switch routes[0].Type {
	case unix.RTN_UNICAST:
		return Unicast
	case unix.RTN_LOCAL:
		return Local
	case unix.RTN_BROADCAST:
		return Broadcast
	case unix.RTN_ANYCAST:
		return Anycast
	case unix.RTN_MULTICAST:
		return Multicast
	}
	return Unreachable
}
