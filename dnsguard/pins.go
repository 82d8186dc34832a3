package dnsguard

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"appfw/policy"
)

const (
	// pinLife is how long an address stays pinned after it was given out or
	// used last. Programs hold addresses far longer than their TTL: connection
	// pools, JVMs (networkaddress.cache.ttl) and long downloads for minutes.
	pinLife = time.Hour

	maxPinned = 1 << 16 // addresses
	maxPins   = 1 << 18 // of all addresses together
	// maxNamesAPinned bounds the names of one address; the one given out
	// longest ago goes. Content delivery networks have hundreds on one.
	maxNamesAPinned = 512
)

// Pins remembers which addresses were given to the app for which names. The
// zero value is empty and ready. It may be used by any goroutine.
type Pins struct {
	mu    sync.Mutex
	addrs map[netip.Addr][]pin
	count int       // of pins
	swept time.Time // when what was out of date was looked for last
}

// Pin is a name that an address was given out for.
type Pin struct {
	Name    policy.Name
	Aliases []policy.Name // by way of which the name led to the address
}

type pin struct {
	Pin
	until time.Time
}

// Give pins the addresses to the name for the given TTL: for pinLife at least,
// and maxTTL at most.
func (p *Pins) Give(name policy.Name, aliases []policy.Name, addrs []netip.Addr, ttl time.Duration, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.addrs == nil {
		p.addrs = make(map[netip.Addr][]pin)
	}
	until := now.Add(min(max(ttl, pinLife), maxTTL))
	for _, a := range addrs {
		list := p.addrs[a]
		p.count -= len(list)
		list = slices.DeleteFunc(list, func(x pin) bool { return x.Name == name || x.until.Before(now) })
		if len(list) == maxNamesAPinned {
			list = slices.Delete(list, 0, 1)
		}
		list = append(list, pin{Pin{name, aliases}, until})
		p.addrs[a] = list
		p.count += len(list)
		if len(p.addrs) > maxPinned || p.count > maxPins {
			p.makeRoom(now, a)
		}
	}
}

// sweepEvery keeps a full table from being gone through for every address.
const sweepEvery = time.Minute

// makeRoom forgets what is out of date, or else the first addresses it meets,
// but for one.
func (p *Pins) makeRoom(now time.Time, but netip.Addr) {
	forget := func(a netip.Addr) {
		p.count -= len(p.addrs[a])
		delete(p.addrs, a)
	}
	if now.Sub(p.swept) >= sweepEvery {
		p.swept = now
		for a, list := range p.addrs {
			if list[len(list)-1].until.Before(now) {
				forget(a)
			}
		}
	}
	for a := range p.addrs {
		if len(p.addrs) <= maxPinned && p.count <= maxPins {
			return
		}
		if a != but {
			forget(a)
		}
	}
}

// Of are the names that the address is pinned to, the newest first.
func (p *Pins) Of(a netip.Addr, now time.Time) []Pin {
	p.mu.Lock()
	defer p.mu.Unlock()
	var pinned []Pin
	for _, x := range slices.Backward(p.addrs[a]) {
		if !x.until.Before(now) {
			pinned = append(pinned, x.Pin)
		}
	}
	return pinned
}

// Find is the pin of the address to the name, if there is one.
func (p *Pins) Find(a netip.Addr, name policy.Name, now time.Time) (Pin, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.addrs[a]
	i := slices.IndexFunc(list, func(x pin) bool { return x.Name == name && !x.until.Before(now) })
	if i < 0 {
		return Pin{}, false
	}
	return list[i].Pin, true
}

// Keep keeps an address pinned to a name for which a flow to it was allowed.
func (p *Pins) Keep(a netip.Addr, name policy.Name, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.addrs[a]
	if i := slices.IndexFunc(list, func(x pin) bool { return x.Name == name }); i >= 0 {
		if until := now.Add(pinLife); list[i].until.Before(until) {
			list[i].until = until
		}
	}
}
