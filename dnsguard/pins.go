package dnsguard

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
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
	addrs map[netip.Addr][]*pin
	count int       // of pins
	swept time.Time // when what was out of date was looked for last
	gifts atomic.Int64
}

// Pin is a name that an address was given out for.
type Pin struct {
	Name    policy.Name
	Aliases []policy.Name // by way of which the name led to the address
}

// pin is a Pin of one address.
type pin struct {
	Pin
	until atomic.Int64 // Unix nanoseconds
	given atomic.Int64 // which of all gifts was its last
	gone  atomic.Bool  // it is forgotten
}

func (x *pin) give(gift int64, until time.Time) {
	x.given.Store(gift)
	x.until.Store(until.UnixNano())
}

func (x *pin) expired(now time.Time) bool { return x.until.Load() < now.UnixNano() }

// pinned are the pins of an answer, by which the same can be given again without
// looking for them.
type pinned struct {
	pins  []*pin
	life  time.Duration
	gifts *atomic.Int64 // of the Pins
}

// gone tells whether some of it is forgotten.
func (p pinned) gone() bool {
	return slices.ContainsFunc(p.pins, func(x *pin) bool { return x.gone.Load() })
}

// again gives the same again; false if some of it is forgotten.
func (p pinned) again(now time.Time) bool {
	gift := p.gifts.Add(1)
	for _, x := range p.pins {
		x.give(gift, now.Add(p.life))
	}
	return !p.gone() // asked last: what goes now was given
}

// Give pins the addresses to the name for the given TTL: for pinLife at least,
// and maxTTL at most.
func (p *Pins) Give(name policy.Name, aliases []policy.Name, addrs []netip.Addr, ttl time.Duration, now time.Time) {
	p.give(name, aliases, addrs, ttl, now)
}

func (p *Pins) give(name policy.Name, aliases []policy.Name, addrs []netip.Addr, ttl time.Duration, now time.Time) pinned {
	given := pinned{make([]*pin, 0, len(addrs)), min(max(ttl, pinLife), maxTTL), &p.gifts}
	gift := p.gifts.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.addrs == nil {
		p.addrs = make(map[netip.Addr][]*pin)
	}
	for _, a := range addrs {
		list := p.addrs[a]
		p.count -= len(list)
		var mine *pin
		list = slices.DeleteFunc(list, func(x *pin) bool {
			if x.Name == name && slices.Equal(x.Aliases, aliases) {
				mine = x
				return false
			}
			old := x.Name == name || x.expired(now)
			if old {
				x.gone.Store(true)
			}
			return old
		})
		if mine == nil {
			if len(list) == maxNamesAPinned {
				oldest := slices.MinFunc(list, func(a, b *pin) int { return cmp.Compare(a.given.Load(), b.given.Load()) })
				oldest.gone.Store(true)
				list = slices.DeleteFunc(list, func(x *pin) bool { return x == oldest })
			}
			mine = &pin{Pin: Pin{name, aliases}}
			list = append(list, mine)
		}
		mine.give(gift, now.Add(given.life))
		given.pins = append(given.pins, mine)
		p.addrs[a] = list
		p.count += len(list)
		if len(p.addrs) > maxPinned || p.count > maxPins {
			p.makeRoom(now, a)
		}
	}
	return given
}

// sweepEvery keeps a full table from being gone through for every address.
const sweepEvery = time.Minute

// makeRoom forgets what is out of date, or else the first addresses it meets,
// but for one.
func (p *Pins) makeRoom(now time.Time, but netip.Addr) {
	forget := func(a netip.Addr) {
		for _, x := range p.addrs[a] {
			x.gone.Store(true)
		}
		p.count -= len(p.addrs[a])
		delete(p.addrs, a)
	}
	if now.Sub(p.swept) >= sweepEvery {
		p.swept = now
		for a, list := range p.addrs {
			if !slices.ContainsFunc(list, func(x *pin) bool { return !x.expired(now) }) {
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

// Of are the names that the address is pinned to, the one given last first.
func (p *Pins) Of(a netip.Addr, now time.Time) []Pin {
	p.mu.Lock()
	defer p.mu.Unlock()
	type dated struct {
		Pin
		given int64
	}
	var list []dated
	for _, x := range p.addrs[a] {
		if !x.expired(now) {
			list = append(list, dated{x.Pin, x.given.Load()}) // it may be given again meanwhile
		}
	}
	slices.SortFunc(list, func(a, b dated) int { return cmp.Compare(b.given, a.given) })
	var names []Pin
	for _, x := range list {
		names = append(names, x.Pin)
	}
	return names
}

// Find is the pin of the address to the name, if there is one.
func (p *Pins) Find(a netip.Addr, name policy.Name, now time.Time) (Pin, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if x := p.find(a, name); x != nil && !x.expired(now) {
		return x.Pin, true
	}
	return Pin{}, false
}

// Keep keeps an address pinned to a name for which a flow to it was allowed.
func (p *Pins) Keep(a netip.Addr, name policy.Name, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if x, until := p.find(a, name), now.Add(pinLife).UnixNano(); x != nil && x.until.Load() < until {
		x.until.Store(until)
	}
}

func (p *Pins) find(a netip.Addr, name policy.Name) *pin {
	list := p.addrs[a]
	if i := slices.IndexFunc(list, func(x *pin) bool { return x.Name == name }); i >= 0 {
		return list[i]
	}
	return nil
}
