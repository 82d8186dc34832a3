package dnsguard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/dns"

	"appfw/policy"
)

const (
	// staleLife is how long after its end an answer is given out if the resolvers
	// fail, budgetTime if they may not be asked; staleTTL, in seconds, what it is then
	// given out with, and how long before they are asked again (RFC 8767, 4 and 5).
	staleLife = 10 * time.Minute
	staleTTL  = 30
	// prefetchHits makes a name a hot one: it is asked for again when a tenth
	// of its life is left, so that the app does not wait.
	prefetchHits = 3
)

// resolve answers from the cache or from upstream, for a name that v allows.
// Identical questions at the same time are asked once, and so are those within leastTTL.
func (g *Guard) resolve(ctx context.Context, rules *policy.Policy, v policy.Verdict, name policy.Name, q *dns.Msg) (*entry, error) {
	k := key{name, q.Question[0].Qtype, wantsDNSSEC(q)}
	e, hot := g.cache.get(k, rules, g.Now())
	if e != nil && e.fresh(g.Now()) {
		if hot {
			go g.prefetch(ctx, rules, k, e) // ends with ctx
		}
		return e, e.failed
	}
	fetched, err := g.fetch(ctx, rules, v, k, e)
	if err == nil || e == nil {
		return fetched, err
	}
	end := e.staleEnd
	if _, over := errors.AsType[*overBudget](err); over {
		end = e.keptEnd
	}
	if g.Now().Before(end) {
		return g.cache.revive(k, e, g.Now()), nil
	}
	return nil, err
}

// prefetch asks for what is in the cache again, if that may be.
func (g *Guard) prefetch(ctx context.Context, rules *policy.Policy, k key, e *entry) {
	_, _ = g.fetch(ctx, rules, rules.DecideName(k.name), k, e) // for whom the cache has it
}

// fetch asks upstream and keeps the answer. old is what the cache has; nil if
// it has nothing.
func (g *Guard) fetch(ctx context.Context, rules *policy.Policy, v policy.Verdict, k key, old *entry) (*entry, error) {
	for {
		got, err, _ := g.inFlight.Do(fmt.Sprintf("%s %p", k, rules), func() (any, error) {
			e, err := g.fetchNow(ctx, rules, v, k, old)
			if err != nil && ctx.Err() != nil {
				return nil, errAskerLeft
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
			return got.(*entry), nil
		}
	}
}

var errAskerLeft = errors.New("who asked has left")

// fetchNow is fetch for all who wait for the same answer.
func (g *Guard) fetchNow(ctx context.Context, rules *policy.Policy, v policy.Verdict, k key, old *entry) (*entry, error) {
	if e, _ := g.cache.get(k, rules, g.Now()); e != nil && e != old && e.fresh(g.Now()) {
		return e, e.failed // answered since it was looked for
	}
	if err := g.spend(ctx, rules, v, k, old != nil); err != nil {
		return nil, err
	}
	if err := g.enter(ctx); err != nil {
		return nil, err
	}
	defer func() { <-g.slots }()
	e, err := g.ask(ctx, rules, v, k)
	switch _, over := errors.AsType[*overBudget](err); {
	case over, ctx.Err() != nil, rules != g.Policy():
	case err == nil:
		g.cache.put(k, e)
	case old == nil || !g.Now().Before(old.staleEnd): // else that is given out
		failure := &entry{rules: rules, failed: err, stored: g.Now()}
		failure.expires = failure.stored.Add(leastTTL)
		failure.keptEnd = failure.expires
		g.cache.put(k, failure)
	}
	return e, err
}

// enter waits until one more question may be asked.
func (g *Guard) enter(ctx context.Context) error {
	select {
	case g.slots <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(deadline)
	defer timer.Stop()
	select {
	case g.slots <- struct{}{}:
		return nil
	case <-timer.C:
		return errBusy
	case <-ctx.Done():
		return ctx.Err()
	}
}

// maxChain bounds how many aliases a chain of CNAMEs may have: as many as other
// resolvers follow (BIND 9, max-query-restarts and its constant before).
const maxChain = 16

// ask asks upstream, with a question made afresh, and keeps of the answers what
// belongs to it and is for the app: the chain of aliases that starts at the
// name, and its end. An alias that the policy denies is not asked for.
//
// The first question is paid for; where an alias is asked for, that is one more.
func (g *Guard) ask(ctx context.Context, rules *policy.Policy, v policy.Verdict, k key) (*entry, error) {
	e := &entry{stored: g.Now(), rules: rules, authentic: true}
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
		e.authentic = e.authentic && m.AuthenticatedData
		life := e.ttl() // of all that was said, whatever is left of it
		e.filter(k.name)
		g.leaveOut(e)
		if next == "" || e.denied != nil {
			e.keep(life)
			return e, nil
		}
		owner = next
		if alias, err := policy.ParseName(owner); err != nil || !g.Zone(alias) && isLocal(alias) {
			return nil, errAlias
		}
		if err := g.spend(ctx, rules, v, key{name: v.Base, qtype: k.qtype}, false); err != nil {
			return nil, err // the name is the server's choice, and costs nothing
		}
	}
}
