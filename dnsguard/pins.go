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
	// maxNamesAPinned bounds the names of one address; the one given out
	// longest ago goes. Content delivery networks have hundreds on one.
	maxNamesAPinned = 1024
)

// Pins remembers which addresses were given to the app for which names. The
// zero value is empty and ready. It may be used by any goroutine.
type Pins struct {
	mu    sync.Mutex
	addrs map[netip.Addr][]pin
	swept time.Time // when what was out of date was looked for last
}

type pin struct {
	name  policy.Name
	until time.Time
}

// Give pins the addresses to the name for the given TTL: for pinLife at least,
// and maxTTL at most.
func (p *Pins) Give(name policy.Name, addrs []netip.Addr, ttl time.Duration, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.addrs == nil {
		p.addrs = make(map[netip.Addr][]pin)
	}
	until := now.Add(min(max(ttl, pinLife), maxTTL))
	for _, a := range addrs {
		list := slices.DeleteFunc(p.addrs[a], func(x pin) bool { return x.name == name || x.until.Before(now) })
		if len(list) == maxNamesAPinned {
			list = slices.Delete(list, 0, 1)
		}
		if len(list) == 0 && len(p.addrs) >= maxPinned {
			p.makeRoom(now)
		}
		p.addrs[a] = append(list, pin{name, until})
	}
}

// sweepEvery keeps a full table from being gone through for every address.
const sweepEvery = time.Minute

// makeRoom forgets what is out of date, or else the first address it meets.
func (p *Pins) makeRoom(now time.Time) {
	if now.Sub(p.swept) >= sweepEvery {
		p.swept = now
		for a, list := range p.addrs {
			if list[len(list)-1].until.Before(now) {
				delete(p.addrs, a)
			}
		}
	}
	for a := range p.addrs {
		if len(p.addrs) < maxPinned {
			return
		}
		delete(p.addrs, a)
	}
}

// Names are the names that the address is pinned to, the newest first. A flow
// that asks keeps them pinned.
func (p *Pins) Names(a netip.Addr, now time.Time) []policy.Name {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.addrs[a]
	var names []policy.Name
	for i, x := range slices.Backward(list) {
		if x.until.Before(now) {
			continue
		}
		names = append(names, x.name)
		if until := now.Add(pinLife); list[i].until.Before(until) {
			list[i].until = until
		}
	}
	return names
}

// Has tells whether the address is pinned to the name.
func (p *Pins) Has(a netip.Addr, name policy.Name, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.addrs[a], func(x pin) bool { return x.name == name && !x.until.Before(now) })
}
