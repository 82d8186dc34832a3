package dnsguard

import (
	"cmp"
	"context"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"appfw/policy"
)

// An address stays pinned to the name that it was given out for, as long as who was
// given it may still use it. Programs hold addresses far longer than their TTL, and
// some for as long as they run: nginx (proxy_pass), JVMs (networkaddress.cache.ttl),
// connection pools. So no pin ends by its TTL. It ends when there is no room, those
// that were used longest ago first, and after [Pins.Life] without a use, if there is
// such. That a flow lives which a pin allowed is a use of it.
//
// What that opens: an address that was the name's and is now somebody else's can be
// reached still, by a program that was given it. Who wants to receive something there
// has to get that very address. Within one run that is accepted: the owner of the name
// could have pointed it there at any time. In a namespace that lives for months, whose
// programs come and go, a Life bounds it.
const (
	// maxPins bounds what pins take, in bytes, as they count themselves: some 60,000
	// names as they usually are.
	maxPins = 32 << 20
	// maxNamesAPinned bounds the names of one address, which each flow to it is judged
	// by; the one used longest ago goes. Content delivery networks have thousands on one.
	maxNamesAPinned = 4096

	// What things take, with their places in maps and lists.
	pinSize    = 224
	addrSize   = 128
	originSize = 176
)

// Living yields the addresses that flows go to, and the names that they go there for.
// It must not be called with a lock held that it might want.
type Living = iter.Seq2[netip.Addr, policy.Name]

// Pins remembers which addresses were given to the app for which names. The
// zero value is empty and ready. It may be used by any goroutine.
type Pins struct {
	// Life is how long a pin stays that nothing uses; 0 is as long as there is room.
	Life time.Duration
	// Living tells which flows live. Nil: none do. Both may be set before the first use.
	Living Living

	mu      sync.Mutex
	addrs   map[netip.Addr][]*pin
	pins    map[pinKey]*pin
	origins map[policy.Name]*origin // the last of each name
	ends    pin                     // of the ring of all pins: the next is the newest, the last the oldest
	size    int                     // bytes, of all
	fresh   int                     // bytes that were given since it was asked what lives
	crowded int                     // names that were given since then for an address with many
	gifts   atomic.Int64
}

// Pin is a name that an address was given out for.
type Pin struct {
	Name    policy.Name
	Aliases []policy.Name // by way of which the name led to the address
}

// pinKey is what a pin is found by.
type pinKey struct {
	addr netip.Addr
	name policy.Name
}

// origin is a Pin that the pins of some addresses share.
type origin struct {
	Pin
	pins int // that have it
}

func (o *origin) size() int { return originSize + nameSize(o.Name) + namesSize(o.Aliases) }

// pin is that one address was given out for a name.
type pin struct {
	origin    *origin
	addr      netip.Addr
	next, old *pin         // in the ring
	used      atomic.Int64 // Unix nanoseconds
	given     atomic.Int64 // which of all gifts was its last
	spared    atomic.Bool  // it was used since it came to where it is in the ring
	gone      atomic.Bool  // it is forgotten
}

// use records that the pin is used.
func (x *pin) use(now int64) {
	x.used.Store(now)
	if !x.spared.Load() {
		x.spared.Store(true)
	}
}

// pinned are the pins of an answer, by which the same can be given again without
// looking for them.
type pinned struct {
	pins  []*pin
	gifts *atomic.Int64 // of the Pins
}

// gone tells whether some of it is forgotten.
func (p pinned) gone() bool {
	return slices.ContainsFunc(p.pins, func(x *pin) bool { return x.gone.Load() })
}

// again gives the same again; false if some of it is forgotten.
func (p pinned) again(now time.Time) bool {
	gift, at := p.gifts.Add(1), now.UnixNano()
	for _, x := range p.pins {
		x.given.Store(gift)
		x.use(at)
	}
	return !p.gone() // asked last: what goes now was given
}

// Give pins the addresses to the name.
func (p *Pins) Give(name policy.Name, aliases []policy.Name, addrs []netip.Addr, now time.Time) {
	p.give(name, aliases, addrs, now)
}

func (p *Pins) give(name policy.Name, aliases []policy.Name, addrs []netip.Addr, now time.Time) pinned {
	p.look(now)
	given := pinned{make([]*pin, 0, len(addrs)), &p.gifts}
	gift := p.gifts.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.addrs == nil {
		p.addrs, p.pins, p.origins = make(map[netip.Addr][]*pin), make(map[pinKey]*pin), make(map[policy.Name]*origin)
		p.ends.next, p.ends.old = &p.ends, &p.ends
	}
	for _, a := range addrs {
		x := p.pins[pinKey{a, name}]
		if x != nil && !slices.Equal(x.origin.Aliases, aliases) {
			p.forget(x)
			x = nil
		}
		if x != nil {
			x.use(now.UnixNano())
		} else {
			x = p.add(a, name, aliases)
			x.used.Store(now.UnixNano())
		}
		x.given.Store(gift)
		given.pins = append(given.pins, x)
	}
	p.makeRoom()
	return given
}

// add makes a pin. p.mu is held.
func (p *Pins) add(a netip.Addr, name policy.Name, aliases []policy.Name) *pin {
	list := p.addrs[a]
	if len(list) >= maxNamesAPinned/2 {
		p.crowded++
	}
	if len(list) >= maxNamesAPinned {
		p.forget(slices.MinFunc(list, func(x, y *pin) int { return cmp.Compare(x.used.Load(), y.used.Load()) }))
		list = p.addrs[a]
	}
	before := p.size
	o := p.origins[name]
	if o == nil || !slices.Equal(o.Aliases, aliases) {
		o = &origin{Pin: Pin{name, aliases}}
		p.origins[name] = o
		p.size += o.size()
	}
	o.pins++
	x := &pin{origin: o, addr: a}
	if len(list) == 0 {
		p.size += addrSize
	}
	p.addrs[a], p.pins[pinKey{a, name}] = append(list, x), x
	p.size += pinSize
	p.fresh += p.size - before
	p.place(x)
	return x
}

// place puts a pin where the newest are. p.mu is held.
func (p *Pins) place(x *pin) {
	x.next, x.old = p.ends.next, &p.ends
	x.next.old, p.ends.next = x, x
}

// forget forgets a pin. p.mu is held.
func (p *Pins) forget(x *pin) {
	x.gone.Store(true)
	x.old.next, x.next.old = x.next, x.old
	p.size -= pinSize
	list := slices.DeleteFunc(p.addrs[x.addr], func(y *pin) bool { return y == x })
	if p.addrs[x.addr] = list; len(list) == 0 {
		delete(p.addrs, x.addr)
		p.size -= addrSize
	}
	o := x.origin
	delete(p.pins, pinKey{x.addr, o.Name})
	if o.pins--; o.pins > 0 {
		return
	}
	p.size -= o.size()
	if p.origins[o.Name] == o {
		delete(p.origins, o.Name)
	}
}

// makeRoom forgets those used longest ago, about: each that was used since it came to
// the end of the ring goes around once more. p.mu is held.
func (p *Pins) makeRoom() {
	for p.size > maxPins {
		x := p.ends.old
		if !x.spared.Swap(false) {
			p.forget(x)
			continue
		}
		x.old.next, x.next.old = x.next, x.old
		p.place(x)
	}
}

// look has what lives used, before so much was given that it could go: a connection
// is not to be cut because others asked for many names.
func (p *Pins) look(now time.Time) {
	p.mu.Lock()
	due := p.Living != nil && (p.fresh > maxPins/4 || p.crowded > maxNamesAPinned/4)
	if due {
		p.fresh, p.crowded = 0, 0
	}
	p.mu.Unlock()
	if due {
		p.keepLiving(now)
	}
}

// keepLiving has what lives used. p.mu is not held: flows ask for pins.
func (p *Pins) keepLiving(now time.Time) {
	var uses []pinKey
	for a, name := range p.Living {
		uses = append(uses, pinKey{a, name})
	}
	for chunk := range slices.Chunk(uses, 1000) { // others wait for no more
		p.mu.Lock()
		for _, k := range chunk {
			if x := p.pins[k]; x != nil {
				x.use(now.UnixNano())
			}
		}
		p.mu.Unlock()
	}
}

// lookEvery is how often it is asked what lives where pins have a Life. That is days.
const lookEvery = 10 * time.Minute

// serve keeps the pins of flows that live, until ctx ends.
func (p *Pins) serve(ctx context.Context, now func() time.Time) {
	if p.Life == 0 || p.Living == nil {
		return
	}
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			p.keepLiving(now())
		case <-ctx.Done():
			return
		}
	}
}

// ended tells that a pin was not used for its life.
func (p *Pins) ended(x *pin, now time.Time) bool {
	return p.Life != 0 && now.UnixNano()-x.used.Load() > int64(p.Life)
}

// Of are the names that the address is pinned to, the one given last first.
func (p *Pins) Of(a netip.Addr, now time.Time) []Pin {
	type dated struct {
		*origin
		given int64 // it may be given again meanwhile
	}
	var list []dated
	p.mu.Lock()
	for _, x := range p.addrs[a] {
		if !p.ended(x, now) {
			list = append(list, dated{x.origin, x.given.Load()})
		}
	}
	p.mu.Unlock()
	slices.SortFunc(list, func(a, b dated) int { return cmp.Compare(b.given, a.given) })
	var names []Pin
	for _, x := range list {
		names = append(names, x.Pin)
	}
	return names
}

// Find is the pin of the address to the name, if there is one. Who asks uses it.
func (p *Pins) Find(a netip.Addr, name policy.Name, now time.Time) (Pin, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	x := p.pins[pinKey{a, name}]
	if x == nil || p.ended(x, now) {
		return Pin{}, false
	}
	x.use(now.UnixNano())
	return x.origin.Pin, true
}

// Keep records that a flow to the address was allowed for the name.
func (p *Pins) Keep(a netip.Addr, name policy.Name, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if x := p.pins[pinKey{a, name}]; x != nil {
		x.use(now.UnixNano())
	}
}
