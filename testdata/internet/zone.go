package internet

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// Zone is what the internet's DNS resolver knows, and a record of what it was asked. Names may be given in any
// case and without the final dot. It is safe for concurrent use.
type Zone struct {
	t testing.TB

	mu       sync.Mutex
	records  map[string][]dns.RR
	handlers map[string]dns.HandlerFunc
	queries  []dns.Question
}

func newZone(t testing.TB) *Zone {
	return &Zone{t: t, records: map[string][]dns.RR{}, handlers: map[string]dns.HandlerFunc{}}
}

// Set adds records in master-file text, like "example.com. 60 IN A 11.22.0.1"; the TTL is 3600 s if not given.
// The name may be a wildcard.
func (z *Zone) Set(rrs ...string) {
	z.t.Helper()
	for _, text := range rrs {
		rr, err := dns.NewRR(text)
		if err != nil || rr == nil {
			z.t.Fatalf("internet: record %q: %v", text, err)
		}
		name := dns.CanonicalName(rr.Header().Name)
		z.mu.Lock()
		z.records[name] = append(z.records[name], rr)
		z.mu.Unlock()
	}
}

// Clear forgets the name's records and its handler.
func (z *Zone) Clear(name string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	delete(z.records, dns.CanonicalName(name))
	delete(z.handlers, dns.CanonicalName(name))
}

// Handle lets fn answer the queries for exactly this name. They are recorded as others are.
func (z *Zone) Handle(name string, fn dns.HandlerFunc) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.handlers[dns.CanonicalName(name)] = fn
}

// Queries returns what was asked, in that order, like "example.com. A", in lower case.
func (z *Zone) Queries() []string {
	z.mu.Lock()
	defer z.mu.Unlock()
	var list []string
	for _, q := range z.queries {
		list = append(list, dns.CanonicalName(q.Name)+" "+dns.Type(q.Qtype).String())
	}
	return list
}

// Asked reports whether there was a query for name, of any type.
func (z *Zone) Asked(name string) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return slices.ContainsFunc(z.queries, func(q dns.Question) bool {
		return dns.CanonicalName(q.Name) == dns.CanonicalName(name)
	})
}

// lookup returns the records of a canonical name, perhaps from a wildcard, and whether it exists.
func (z *Zone) lookup(name string) (rrs []dns.RR, exists bool) {
	if z.exists(name) {
		return z.records[name], true
	}
	for name != "." {
		_, parent, _ := strings.Cut(name, ".")
		name = dns.Fqdn(parent)
		if rrs, ok := z.records[dns.Fqdn("*."+strings.TrimSuffix(name, "."))]; ok {
			return rrs, true
		}
		if z.exists(name) {
			break
		}
	}
	return nil, false
}

// exists reports whether there are records at or below the canonical name.
func (z *Zone) exists(name string) bool {
	for owner := range z.records {
		if dns.IsSubDomain(name, owner) {
			return true
		}
	}
	return false
}

// authorityOf is the SOA for a name without records, that of its top-level domain.
func authorityOf(name string) dns.RR {
	labels := dns.SplitDomainName(name)
	top := "."
	if len(labels) > 1 {
		top = labels[len(labels)-1] + "."
	}
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: top, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60},
		Ns:  "ns.internet.", Mbox: "hostmaster.internet.", Serial: 1, Refresh: 60, Retry: 60, Expire: 60, Minttl: 60,
	}
}
