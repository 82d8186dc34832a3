package dnsguard

import (
	"container/list"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"appfw/policy"
)

const (
	maxEntries = 4096
	maxTTL     = 24 * time.Hour
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

// entry is an answer: the chain from the question's name to its end.
type entry struct {
	rcode           int
	absent          bool // the chain ends in nothing
	records, ns     []dns.RR
	stored, expires time.Time
}

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
			switch rr := rr.(type) {
			case *dns.HTTPS:
				withoutECH(&rr.SVCB)
			case *dns.SVCB:
				withoutECH(rr)
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

// withoutECH removes the key of Encrypted ClientHello: the name in the clear is
// what flows are judged by.
func withoutECH(rr *dns.SVCB) {
	values := rr.Value[:0]
	for _, v := range rr.Value {
		if v.Key() != dns.SVCB_ECHCONFIG {
			values = append(values, v)
		}
	}
	rr.Value = values
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

// answer makes the answer to q out of the entry, TTLs less its age.
func (e *entry) answer(q *dns.Msg, now time.Time) *dns.Msg {
	m := reply(q)
	m.Rcode = e.rcode
	age := uint32(max(0, now.Sub(e.stored)/time.Second))
	aged := func(list []dns.RR) []dns.RR {
		out := make([]dns.RR, len(list))
		for i, rr := range list {
			out[i] = dns.Copy(rr)
			h := out[i].Header()
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

// cache keeps the entries used last.
type cache struct {
	mu      sync.Mutex
	entries map[key]*list.Element // of *cached
	used    *list.List            // the one used last in front
}

type cached struct {
	key   key
	entry *entry
}

func newCache() *cache { return &cache{entries: make(map[key]*list.Element), used: list.New()} }

// get returns the entry if it is there and fresh, else nil.
func (c *cache) get(k key, now time.Time) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.entries[k]
	if el == nil {
		return nil
	}
	e := el.Value.(*cached).entry
	if !now.Before(e.expires) {
		c.remove(el)
		return nil
	}
	c.used.MoveToFront(el)
	return e
}

func (c *cache) put(k key, e *entry) {
	if !e.stored.Before(e.expires) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if el := c.entries[k]; el != nil {
		c.remove(el)
	}
	c.entries[k] = c.used.PushFront(&cached{k, e})
	if c.used.Len() > maxEntries {
		c.remove(c.used.Back())
	}
}

func (c *cache) remove(el *list.Element) {
	delete(c.entries, el.Value.(*cached).key)
	c.used.Remove(el)
}
