package dnsguard

import (
	"container/list"
	"crypto/rand"
	"net/netip"
	"time"
)

// room is the synthetic addresses of one prefix.
//
//	free ──> taken ──> resting ──> free
type room struct {
	prefix  netip.Prefix
	size    int // addresses; 0: so many that none comes twice
	taken   map[netip.Addr]*stand
	stands  *list.List // of what is taken, used last in front
	resting map[netip.Addr]bool
	queue   []rest              // what rests, since longest first
	free    map[netip.Addr]bool // what has rested: it is hardly found by chance where few are free
}

// rest is an address that was taken back.
type rest struct {
	addr  netip.Addr
	since time.Time
}

// restFor is how long an address stands for nothing before it stands for another name.
// A program that still has it for the old one finds it closed meanwhile.
const restFor = time.Hour

// largeRoom is so large, in bits, that of the addresses taken at random in a run none
// comes twice.
const largeRoom = 48

func newRoom(p netip.Prefix) *room {
	r := &room{prefix: p.Masked(), taken: make(map[netip.Addr]*stand), stands: list.New(),
		resting: make(map[netip.Addr]bool), free: make(map[netip.Addr]bool)}
	if bits := p.Addr().BitLen() - p.Bits(); bits < largeRoom {
		r.size = 1<<bits - 1 // the first is none
	}
	return r
}

// short tells whether less than a fourth is neither taken nor resting.
func (r *room) short() bool {
	return r.size > 0 && r.size-len(r.taken)-len(r.resting) < r.size/4
}

// full tells whether there is hardly any.
func (r *room) full() bool {
	return r.size > 0 && r.size-len(r.taken)-len(r.resting) <= r.size/64
}

// oldest is what was used longest ago; nil if there is nothing.
func (r *room) oldest() *stand {
	if last := r.stands.Back(); last != nil {
		return last.Value.(*stand)
	}
	return nil
}

// give gives x an address, of the i-th room, if there is one.
func (r *room) give(x *stand, i int, now time.Time) {
	for len(r.queue) > 0 && now.Sub(r.queue[0].since) >= restFor {
		delete(r.resting, r.queue[0].addr)
		r.free[r.queue[0].addr] = true
		r.queue = r.queue[1:]
	}
	a, ok := r.pick()
	if !ok {
		return
	}
	delete(r.free, a)
	r.taken[a] = x
	x.addrs[i], x.places[i] = a, r.stands.PushFront(x)
}

// takeBack takes the address of the i-th room from x.
func (r *room) takeBack(x *stand, i int, now time.Time) {
	a := x.addrs[i]
	delete(r.taken, a)
	r.stands.Remove(x.places[i])
	x.addrs[i], x.places[i] = netip.Addr{}, nil
	if r.size > 0 {
		r.resting[a] = true
		r.queue = append(r.queue, rest{a, now})
	}
}

// pick picks a free address at random: which names were asked for is not to be seen
// from it.
func (r *room) pick() (netip.Addr, bool) {
	if r.full() { // by chance, hardly one is found
		for a := range r.free {
			return a, true
		}
		return netip.Addr{}, false
	}
	first := r.prefix.Addr().AsSlice()
	for range 64 { // of a room that is half full, one in 2^64 finds none
		b := make([]byte, len(first))
		_, _ = rand.Read(b) // never fails
		for i := range b {
			host := byte(0xff)
			if bits := r.prefix.Bits() - 8*i; bits >= 8 {
				host = 0
			} else if bits > 0 {
				host >>= bits
			}
			b[i] = first[i]&^host | b[i]&host
		}
		a, _ := netip.AddrFromSlice(b)
		if r.taken[a] == nil && !r.resting[a] && a != r.prefix.Addr() {
			return a, true
		}
	}
	for a := range r.free {
		return a, true
	}
	return netip.Addr{}, false
}
