package dnsguard

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/publicsuffix"

	"appfw/policy"
)

const (
	// defaultBudget is how many new names below one registrable domain may be
	// asked for in budgetTime: more than any page or build needs.
	defaultBudget = 1000
	budgetTime    = time.Hour
	// bytesAName is what the labels of a name may have on average. Longer ones
	// use the budget up sooner.
	bytesAName = 32
	// maxSpenders bounds the domains that are counted at a time.
	maxSpenders = 1024
)

// budget bounds what the app can tell the servers of a domain by names that it
// makes up. Where rules have wildcards, every label is a message to them.
type budget struct {
	seed maphash.Seed

	mu       sync.Mutex
	spenders map[string]*spending // by registrable domain
}

// spending is what was asked for below one domain since a time.
type spending struct {
	since time.Time
	seen  map[uint64]struct{} // hashes of names
	bytes int                 // of their labels below the domain
}

func newBudget() *budget {
	return &budget{seed: maphash.MakeSeed(), spenders: make(map[string]*spending)}
}

// commonTypes are those between which a program has no choice that would tell
// much; any other counts like another name.
var commonTypes = map[uint16]bool{
	dns.TypeA: true, dns.TypeAAAA: true, dns.TypeHTTPS: true, dns.TypeSVCB: true, dns.TypeCNAME: true,
	dns.TypeTXT: true, dns.TypeMX: true, dns.TypeSRV: true, dns.TypeNS: true, dns.TypeSOA: true,
	dns.TypeCAA: true, dns.TypeDS: true, dns.TypeDNSKEY: true, dns.TypeTLSA: true, dns.TypeNAPTR: true,
}

// overBudget is why a name is not asked for.
type overBudget struct{ domain string }

func (e *overBudget) Error() string {
	return "so many new names below it were asked for that they may carry data out (--dns-budget raises the limit)"
}

// spend is an [*overBudget] if the question may not be asked for that. A name
// that a rule has in full costs nothing: the policy's author made it up.
func (g *Guard) spend(rules *policy.Policy, v policy.Verdict, k key) error {
	limit := defaultBudget
	if budget := rules.Settings().Budget; budget != nil {
		limit = *budget
	}
	if limit == 0 || !v.ByName || v.Exact && commonTypes[k.qtype] {
		return nil
	}
	rare := k.qtype
	if commonTypes[rare] {
		rare = 0
	}
	domain, err := publicsuffix.EffectiveTLDPlusOne(string(k.name))
	if err != nil {
		domain = string(k.name) // a public suffix itself
	}
	if !g.budget.spend(domain, k.name, rare, limit, g.Now()) {
		return &overBudget{domain}
	}
	return nil
}

func (b *budget) spend(domain string, name policy.Name, qtype uint16, limit int, now time.Time) bool {
	var h maphash.Hash
	h.SetSeed(b.seed)
	_, _ = h.WriteString(string(name))
	_, _ = h.Write([]byte{byte(qtype >> 8), byte(qtype)})
	id := h.Sum64()

	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.spenders[domain]
	if s == nil || now.Sub(s.since) >= budgetTime {
		if s == nil && len(b.spenders) >= maxSpenders {
			b.forget()
		}
		s = &spending{since: now, seen: make(map[uint64]struct{})}
		b.spenders[domain] = s
	}
	if _, known := s.seen[id]; known {
		return true
	}
	cost := len(name) - len(domain)
	if len(s.seen) >= limit || s.bytes+cost > limit*bytesAName {
		return false
	}
	s.seen[id] = struct{}{}
	s.bytes += cost
	return true
}

// forget makes room by forgetting the domain that spent least: one that used
// its budget up is not to get it anew by asking for others.
func (b *budget) forget() {
	least := ""
	for domain, s := range b.spenders {
		if least == "" || len(s.seen) < len(b.spenders[least].seen) {
			least = domain
		}
	}
	delete(b.spenders, least)
}
