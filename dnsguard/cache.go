package dnsguard

import (
	"container/list"
	"fmt"
	"hash/maphash"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"appfw/policy"
)

const (
	// maxCache bounds what the entries take, in bytes, as [entry.size] counts it.
	maxCache = 16 << 20
	maxTTL   = 24 * time.Hour
	// leastTTL is how long any answer is kept, a failure as well (RFC 9520, 3.2, wants
	// a second at least): without it, a name with a TTL of 0 is a question upstream
	// whenever the program likes, and a channel as wide as it is fast. The TTL that the
	// program is told stays what it was. Who waits for another address to take over
	// loses nothing: programs try again after a second and later, and the shortest TTL
	// that large services change addresses by is 5 seconds.
	leastTTL = time.Second
	// maxNegativeTTL bounds how long an absence is believed (RFC 2308, 5).
	maxNegativeTTL = 10 * time.Minute
)

// key is a question as the cache knows it.
type key struct {
	name   policy.Name
	qtype  uint16
	dnssec bool
}

func (k key) String() string { return fmt.Sprintf("%s %d %t", k.name, k.qtype, k.dnssec) }

// entry is an answer: the chain from the question's name to its end. It does
// not change once it is in the cache.
type entry struct {
	rules           *policy.Policy // under which it was filtered
	rcode           int
	absent          bool // the chain ends in nothing
	records, ns     []dns.RR
	aliases         []policy.Name // that the name leads to (CNAME, SVCB)
	addrs           []netip.Addr  // that are given out
	denied          *denial       // nil if there is something for the app
	stored, expires time.Time
	staleEnd        time.Time // until when it may be given out if upstream fails
	keptEnd         time.Time // until when it may be if the budget is used up; not before staleEnd
	revived         bool      // it is out of date, and given out for that reason
	authentic       bool      // a resolver that the host trusts says that all of it is (RFC 4035, 3.2.3)
	failed          error     // there was no answer, and this is why; nil if there is one
}

// fresh tells whether the entry may be given out without asking.
func (e *entry) fresh(now time.Time) bool { return now.Before(e.expires) }

// take keeps of m the records that continue the chain at owner, and returns
// where to ask on: the end of an alias that m does not follow. seen are the
// owners passed so far; a loop ends the chain, and so do more aliases than
// maxChain.
func (e *entry) take(m *dns.Msg, owner string, qtype uint16, seen map[string]bool) (next string) {
	for start := owner; !seen[owner] && len(seen) <= maxChain+1; {
		seen[owner] = true
		alias, found := "", false
		for _, rr := range m.Answer {
			h := rr.Header()
			if !strings.EqualFold(h.Name, owner) || h.Class != dns.ClassINET {
				continue
			}
			switch rr := rr.(type) {
			case *dns.CNAME:
				if qtype != dns.TypeCNAME {
					alias = dns.CanonicalName(rr.Target)
				}
				found = found || qtype == dns.TypeCNAME
			case *dns.RRSIG:
				if rr.TypeCovered != qtype && rr.TypeCovered != dns.TypeCNAME && qtype != dns.TypeRRSIG {
					continue
				}
				found = found || qtype == dns.TypeRRSIG
			default:
				if h.Rrtype != qtype {
					continue
				}
				found = true
			}
			e.records = append(e.records, rr)
		}
		if found || alias == "" {
			e.rcode, e.absent = m.Rcode, !found
			if !found {
				e.takeNegative(m, owner)
				if owner != start && m.Rcode == dns.RcodeSuccess && len(e.ns) == 0 {
					delete(seen, owner)
					return owner // the alias was not followed: ask for its end
				}
			}
			return ""
		}
		owner = alias
		if n, err := policy.ParseName(alias); err == nil {
			e.aliases = append(e.aliases, n)
		}
	}
	e.absent = true
	return ""
}

// takeNegative keeps the SOA that says how long the absence lasts, and the
// proofs of it. The zone they are of must be one that owner is in.
func (e *entry) takeNegative(m *dns.Msg, owner string) {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok && soa.Hdr.Class == dns.ClassINET && dns.IsSubDomain(soa.Hdr.Name, owner) {
			e.ns = append(e.ns, soa)
			break
		}
	}
	if len(e.ns) == 0 {
		return
	}
	zone := e.ns[0].Header().Name
	for _, rr := range m.Ns {
		switch rr.(type) {
		case *dns.NSEC, *dns.NSEC3, *dns.RRSIG:
			if h := rr.Header(); h.Class == dns.ClassINET && dns.IsSubDomain(zone, h.Name) {
				e.ns = append(e.ns, rr)
			}
		}
	}
}

// ttl is how long the entry may be kept.
func (e *entry) ttl() time.Duration {
	least := uint32(maxTTL / time.Second)
	for _, rr := range e.records {
		least = min(least, rr.Header().Ttl)
	}
	if !e.absent && e.rcode == dns.RcodeSuccess {
		return time.Duration(least) * time.Second
	}
	kept := uint32(0) // without an SOA an absence is not cached (RFC 2308, 5)
	for _, rr := range e.ns {
		if soa, ok := rr.(*dns.SOA); ok {
			kept = min(soa.Hdr.Ttl, soa.Minttl, uint32(maxNegativeTTL/time.Second))
		}
	}
	return time.Duration(min(least, kept)) * time.Second
}

// keep sets how long the entry is kept, whose records may be used for life.
func (e *entry) keep(life time.Duration) {
	e.expires = e.stored.Add(max(life, leastTTL))
	e.staleEnd, e.keptEnd = e.expires.Add(staleLife), e.expires.Add(budgetTime)
}

// answer makes the answer to q out of the entry, TTLs less its age.
func (e *entry) answer(q *dns.Msg, now time.Time) *dns.Msg {
	m := reply(q)
	m.Rcode = e.rcode
	m.AuthenticatedData = e.authentic && wantsAD(q)
	age := uint32(max(0, now.Sub(e.stored)/time.Second))
	if opt := m.IsEdns0(); opt != nil && e.revived {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeStaleAnswer})
	}
	aged := func(list []dns.RR) []dns.RR {
		out := make([]dns.RR, len(list))
		for i, rr := range list {
			out[i] = dns.Copy(rr)
			h := out[i].Header()
			if e.revived {
				h.Ttl = staleTTL
			}
			h.Ttl -= min(age, h.Ttl)
			if strings.EqualFold(h.Name, q.Question[0].Name) {
				h.Name = q.Question[0].Name // the case the app asked in
			}
		}
		return out
	}
	m.Answer, m.Ns = aged(e.records), aged(e.ns)
	return m
}

// life is how long it is given out without asking.
func (e *entry) life() time.Duration { return e.expires.Sub(e.stored) }

// size is about how many bytes the entry takes.
func (e *entry) size() int {
	n := 512 + 24*len(e.addrs) + namesSize(e.aliases)
	for _, list := range [][]dns.RR{e.records, e.ns} {
		for _, rr := range list {
			n += 96 + 2*dns.Len(rr)
		}
	}
	return n
}

// namesSize is about how many bytes a list of names takes.
func namesSize(names []policy.Name) (n int) {
	for _, name := range names {
		n += 16 + nameSize(name)
	}
	return n
}

// nameSize is about how many bytes the letters of a name take.
func nameSize(name policy.Name) int { return (len(name) + 15) &^ 15 }

// cache keeps the entries used last. It is divided, so that questions for one name
// seldom wait for those for another.
type cache struct {
	seed   maphash.Seed
	shards [shards]shard
}

const shards = 16

// shard is a part of the cache, of some names.
type shard struct {
	mu      sync.Mutex
	entries map[key]*list.Element // of *cached
	used    *list.List            // the one used last in front
	size    int                   // bytes
}

type cached struct {
	key    key
	entry  *entry
	size   int
	packed [2]*packed // ready to be sent: to who speaks no EDNS, and to who does
	large  bool       // it cannot be
	hits   int
	hot    bool // it was asked for ahead of its end
}

func newCache() *cache {
	c := &cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].clear()
	}
	return c
}

func (s *shard) clear() {
	s.entries, s.used, s.size = make(map[key]*list.Element), list.New(), 0
}

// forget forgets all entries.
func (c *cache) forget() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.clear()
		s.mu.Unlock()
	}
}

// of is the shard of a name, locked.
func (c *cache) of(name policy.Name) *shard {
	s := &c.shards[maphash.String(c.seed, string(name))%shards]
	s.mu.Lock()
	return s
}

// get returns the entry if it is there; it may be out of date, but is none of a
// failure then. hot is true once for an entry that is to be asked for again before its
// end.
func (c *cache) get(k key, rules *policy.Policy, now time.Time) (e *entry, hot bool) {
	s := c.of(k.name)
	defer s.mu.Unlock()
	el := s.entries[k]
	if el == nil {
		return nil, false
	}
	x := el.Value.(*cached)
	if x.entry.rules != rules || !now.Before(x.entry.keptEnd) {
		s.remove(el)
		return nil, false
	}
	return x.entry, s.use(el, now)
}

// use records that an entry is asked for; true once for one that is to be asked
// for again before its end.
func (s *shard) use(el *list.Element, now time.Time) (hot bool) {
	s.used.MoveToFront(el)
	x := el.Value.(*cached)
	x.hits++
	if left := x.entry.expires.Sub(now); left > 0 && left < x.entry.life()/10 && x.entry.life()-left >= leastTTL && x.hits >= prefetchHits && !x.hot && !x.entry.revived {
		x.hot, hot = true, true
	}
	return hot
}

// put keeps an entry.
func (c *cache) put(k key, e *entry) {
	s := c.of(k.name)
	defer s.mu.Unlock()
	if el := s.entries[k]; el != nil {
		s.remove(el)
	}
	x := &cached{key: k, entry: e, size: e.size()}
	s.entries[k] = s.used.PushFront(x)
	s.size += x.size
	s.trim()
}

// trim forgets what was used longest ago while there is too much.
func (s *shard) trim() {
	for s.size > maxCache/shards {
		s.remove(s.used.Back())
	}
}

// revive makes an entry that is out of date one to be given out for a while.
func (c *cache) revive(k key, old *entry, now time.Time) *entry {
	e := *old
	e.stored, e.expires, e.revived, e.authentic = now, now.Add(staleTTL*time.Second), true, false
	s := c.of(k.name)
	defer s.mu.Unlock()
	if el := s.entries[k]; el != nil && el.Value.(*cached).entry == old {
		x := el.Value.(*cached)
		s.size += e.size() - x.size
		x.entry, x.packed, x.size = &e, [2]*packed{}, e.size()
	}
	return &e
}

func (s *shard) remove(el *list.Element) {
	x := el.Value.(*cached)
	s.size -= x.size
	delete(s.entries, x.key)
	s.used.Remove(el)
}
