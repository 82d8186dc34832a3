package dnsguard

import (
	"container/list"
	"errors"
	"net/netip"
	"sync"
	"time"

	"appfw/policy"
)

// Synthetic gives out addresses that stand for names: of those that are resolved
// beyond a chain of proxies, nothing else is known here. It may be used by any
// goroutine.
//
// No address stands for two names, nor soon for another one: a program that holds it
// would be led to whom it never asked for. A name keeps its addresses as long as there
// is room. When there is little, those are taken back that were used longest ago:
// asked for, connected to, or gone to by a flow that lives. A name for which there is
// room in one family alone has an address of that one; IPv6 is the larger.
type Synthetic struct {
	V4, V6 netip.Prefix     // where from; invalid: SyntheticV4, SyntheticV6
	Now    func() time.Time // nil: time.Now
	// Living tells which flows live. Nil: none do. It may be set before the first use.
	Living Living

	mu     sync.Mutex
	names  map[policy.Name]*stand
	rooms  [2]*room  // of IPv4, of IPv6
	size   int       // bytes, of all
	looked time.Time // when it was asked what lives
}

// Where synthetic addresses come from: a range that no destination has (RFC
// 2544), and a prefix of unique local addresses (RFC 4193).
var (
	SyntheticV4 = netip.MustParsePrefix("198.18.0.0/15")
	SyntheticV6 = netip.MustParsePrefix("fd61:7070:6677:ff00::/64")
)

const (
	// maxSynthetic bounds what all of it takes, in bytes, as it counts itself: some
	// 35,000 names. standSize is what one takes, with its places in maps and lists, and
	// without the letters of its name.
	maxSynthetic = 16 << 20
	standSize    = 448
	// heldFor is how long after its last use a program may be expected to connect to an
	// address that it has: longer than the TTL that it was told (hostsTTL), and than
	// most pools of connections and caches of programs hold one.
	heldFor = 5 * time.Minute
	// askedFor is how long a program may take from the answer to the connection, if
	// there is no room at all.
	askedFor = 10 * time.Second
	// usedEvery is how often it is asked what lives, while there is little room.
	usedEvery = time.Minute
)

var errFull = errors.New("all synthetic addresses are given out")

// stand is what stands for a name.
type stand struct {
	name    policy.Name
	places  [2]*list.Element // where it is among those of each room; nil if it has no address there
	addrs   [2]netip.Addr
	used    time.Time
	reached bool // a flow went to it: it was not only asked for
}

// prepare makes the maps. s.mu is held.
func (s *Synthetic) prepare() {
	if s.names != nil {
		return
	}
	v4, v6 := s.prefixes()
	s.names, s.rooms = make(map[policy.Name]*stand), [2]*room{newRoom(v4), newRoom(v6)}
}

func (s *Synthetic) prefixes() (v4, v6 netip.Prefix) {
	v4, v6 = SyntheticV4, SyntheticV6
	if s.V4.IsValid() {
		v4 = s.V4
	}
	if s.V6.IsValid() {
		v6 = s.V6
	}
	return v4, v6
}

func (s *Synthetic) now() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}

// Has tells whether the name has addresses by now.
func (s *Synthetic) Has(name policy.Name) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names[name] != nil
}

// For is the pair of addresses that stand for the name. One of them is invalid if there
// is no room for it.
func (s *Synthetic) For(name policy.Name) (v4, v6 netip.Addr, err error) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prepare()
	if x := s.names[name]; x != nil && x.places[0] != nil && x.places[1] != nil {
		s.use(x, now)
		return x.addrs[0], x.addrs[1], nil
	}
	s.look(now)
	s.takeBack(now)
	x := s.names[name]
	if x == nil {
		if s.size >= maxSynthetic {
			return v4, v6, errFull
		}
		x = &stand{name: name}
	}
	for i, r := range s.rooms {
		if x.places[i] == nil {
			r.give(x, i, now)
		}
	}
	if x.places[0] == nil && x.places[1] == nil {
		return v4, v6, errFull
	}
	if s.names[name] == nil {
		s.names[name] = x
		s.size += standSize + nameSize(name)
	}
	s.use(x, now)
	return x.addrs[0], x.addrs[1], nil
}

// use records that a name is used. s.mu is held.
func (s *Synthetic) use(x *stand, now time.Time) {
	x.used = now
	for i, place := range x.places {
		if place != nil {
			s.rooms[i].stands.MoveToFront(place)
		}
	}
}

// short tells whether there is little room. s.mu is held.
func (s *Synthetic) short() bool {
	return s.size > maxSynthetic/4*3 || s.rooms[0].short() || s.rooms[1].short()
}

// look has what lives used, where there is little room. s.mu is held, but not all the
// time: flows ask for names.
func (s *Synthetic) look(now time.Time) {
	if s.Living == nil || !s.short() || now.Sub(s.looked) < usedEvery {
		return
	}
	s.looked = now
	s.mu.Unlock()
	var living []netip.Addr
	for a := range s.Living {
		living = append(living, a)
	}
	s.mu.Lock()
	for _, a := range living {
		if x := s.stand(a); x != nil {
			x.reached = true
			s.use(x, now)
		}
	}
}

// takeBack takes back a few addresses that nobody is expected to use any more, where
// there is little room. Where there is none, who only asks for names does not keep
// others from theirs. s.mu is held.
func (s *Synthetic) takeBack(now time.Time) {
	const some = 4 // more than one name takes
	for i, r := range s.rooms {
		for range some {
			x, full := r.oldest(), s.size >= maxSynthetic || r.full()
			if x == nil || !r.short() && s.size <= maxSynthetic/4*3 {
				break
			}
			switch idle := now.Sub(x.used); {
			case idle >= heldFor, full && !x.reached && idle >= askedFor:
				r.takeBack(x, i, now)
				if x.places[0] == nil && x.places[1] == nil {
					delete(s.names, x.name)
					s.size -= standSize + nameSize(x.name)
				}
			case full && x.reached:
				r.stands.MoveToFront(x.places[i]) // it is none of those: look at the next
			}
		}
	}
}

// stand is what an address is of; nil if it is of none. s.mu is held.
func (s *Synthetic) stand(a netip.Addr) *stand {
	if s.names == nil {
		return nil
	}
	if a.Is4() {
		return s.rooms[0].taken[a]
	}
	return s.rooms[1].taken[a]
}

// Name is the name that the address stands for; who asks uses it. ours tells that the
// address is of those that are given out here, whether this one was or not.
func (s *Synthetic) Name(a netip.Addr) (name policy.Name, ours bool) {
	if v4, v6 := s.prefixes(); !v4.Contains(a) && !v6.Contains(a) {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.stand(a)
	if x == nil {
		return "", true
	}
	x.reached = true
	s.use(x, s.now())
	return x.name, true
}
