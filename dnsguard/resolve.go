package dnsguard

import (
	"context"
	"errors"
	"time"

	"github.com/miekg/dns"

	"appfw/policy"
)

const (
	// staleLife is how long after its end an answer is kept for the case that
	// the resolvers fail; staleTTL, in seconds, what it is then given out with,
	// and how long before they are asked again (RFC 8767, 4 and 5).
	staleLife = 10 * time.Minute
	staleTTL  = 30
	// prefetchHits makes a name a hot one: it is asked for again when a tenth
	// of its life is left, so that the app does not wait.
	prefetchHits = 3
)

// resolve answers from the cache or from upstream, for a name that v allows.
// Identical questions at the same time are asked once.
func (g *Guard) resolve(ctx context.Context, rules *policy.Policy, v policy.Verdict, name policy.Name, q *dns.Msg) (*entry, error) {
	k := key{name, q.Question[0].Qtype, wantsDNSSEC(q)}
	e, hot := g.cache.get(k, rules, g.Now())
	if e != nil && e.fresh(g.Now()) {
		if hot {
			go func() { _, _ = g.fetch(ctx, rules, k, e) }() // ends with ctx
		}
		return e, nil
	}
	if err := g.spend(rules, v, k); err != nil {
		return nil, err
	}
	fetched, err := g.fetch(ctx, rules, k, e)
	if err != nil && e != nil {
		return g.cache.revive(k, e, g.Now()), nil
	}
	return fetched, err
}

// fetch asks upstream and keeps the answer. old is what the cache has; nil if
// it has nothing.
func (g *Guard) fetch(ctx context.Context, rules *policy.Policy, k key, old *entry) (*entry, error) {
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	default:
		return nil, errBusy
	}
	for {
		v, err, _ := g.inFlight.Do(k.String(), func() (any, error) {
			if e, _ := g.cache.get(k, rules, g.Now()); e != nil && e != old && e.fresh(g.Now()) {
				return e, nil // answered since it was looked for
			}
			e, err := g.ask(ctx, rules, k)
			switch {
			case err != nil && ctx.Err() != nil:
				return nil, errAskerLeft
			case err == nil && rules == g.Policy():
				g.cache.put(k, e)
			}
			return e, err
		})
		switch {
		case err == errAskerLeft && ctx.Err() != nil:
			return nil, ctx.Err()
		case err == errAskerLeft: // who asked for all that wait: another one does now
		case err != nil:
			return nil, err
		default:
			return v.(*entry), nil
		}
	}
}

var errAskerLeft = errors.New("who asked has left")

// maxChain bounds how many aliases a chain of CNAMEs may have.
const maxChain = 12

// ask asks upstream, with a question made afresh, and keeps of the answers what
// belongs to it and is for the app: the chain of aliases that starts at the
// name, and its end. An alias that the policy denies is not asked for.
func (g *Guard) ask(ctx context.Context, rules *policy.Policy, k key) (*entry, error) {
	e := &entry{stored: g.Now(), rules: rules}
	owner, seen := dns.Fqdn(string(k.name)), map[string]bool{}
	for {
		m, err := g.Upstream.Exchange(ctx, question(owner, k.qtype, k.dnssec))
		if err != nil {
			return nil, err
		}
		if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
			return nil, rcodeError(m.Rcode)
		}
		next := e.take(m, owner, k.qtype, seen)
		if len(seen) > maxChain+1 { // the name itself is one of them
			return nil, errChain
		}
		life := e.ttl() // of all that was said, whatever is left of it
		e.filter(k.name)
		if next == "" || e.denied != nil {
			e.expires = e.stored.Add(life)
			e.staleEnd = e.expires.Add(staleLife)
			return e, nil
		}
		owner = next
		if alias, err := policy.ParseName(owner); err != nil || !g.Zone(alias) && isLocal(alias) {
			return nil, errAlias
		}
	}
}
