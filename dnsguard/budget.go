package dnsguard

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/miekg/dns"

	"appfw/policy"
)

// Where a rule has a wildcard, each question that leaves by it is a message to the
// servers of the wildcard, in a name that the program makes up, and in which of those
// it made up, of what type, and when. So every question counts that leaves, and not
// only new names; and they count for the wildcard by which they are allowed, not for a
// domain: a public suffix list does not know where the names of one owner end. A
// question that a rule has in full says no more than that it was asked: it does not
// count, and is asked once in leastTTL.
const (
	// defaultBudget is how many questions may leave by one wildcard in budgetTime:
	// more than any page or build needs.
	defaultBudget = 1000
	budgetTime    = time.Hour
	// bytesAQuestion is what the labels below the wildcard may have on average. Longer
	// ones use the budget up sooner. A byte of a name carries some five bits, so that
	// the default lets out 20 KB an hour.
	bytesAQuestion = 32
	// Of its budget, a wildcard may use a fourth in a second, but at least leastBurst.
	// What is more waits for its time: a page asks for some names at once, and a
	// program that floods is no louder for it.
	burstShare = 4
	leastBurst = 20
	// maxSpenders bounds the wildcards that are counted by themselves at a time. Those
	// beyond it share one budget.
	maxSpenders = 4096
)

// budget counts the questions by what allows them.
type budget struct {
	mu       sync.Mutex
	began    time.Time            // of the first minute
	swept    int                  // the minute in which those were forgotten that spent nothing
	spenders map[string]*spending // by the base of the wildcard
}

// budgetMinutes are as many as no hour lies outside of.
const budgetMinutes = int(budgetTime/time.Minute) + 1

// spending is what left by one wildcard in the last hour.
type spending struct {
	minutes   [budgetMinutes]cost // the last of them at minute%budgetMinutes
	minute    int                 // since the budget began
	cost                          // of all minutes
	asked     time.Time           // when the last question left, or will leave
	exhausted time.Time           // when a second's share would be used up, if no more came
}

type cost struct{ questions, bytes int }

func newBudget() *budget { return &budget{spenders: make(map[string]*spending)} }

// commonTypes are those between which a program has no choice that would tell
// much. Of a name that a rule has in full, others count as by a wildcard.
var commonTypes = map[uint16]bool{
	dns.TypeA: true, dns.TypeAAAA: true, dns.TypeHTTPS: true, dns.TypeSVCB: true, dns.TypeCNAME: true,
	dns.TypeTXT: true, dns.TypeMX: true, dns.TypeSRV: true, dns.TypeNS: true, dns.TypeSOA: true,
	dns.TypeCAA: true, dns.TypeDS: true, dns.TypeDNSKEY: true, dns.TypeTLSA: true, dns.TypeNAPTR: true,
}

// overBudget is why a name is not asked for.
type overBudget struct{ names string } // what was asked for too often: "*.example.com"

func (e *overBudget) Error() string {
	return "so many questions were asked for it that they may carry data out (--dns-budget raises the limit)"
}

// spend is an [*overBudget] if one more question may not leave for a name, which v
// allows; else it returns when it may. cost is how many bytes of it the program chose.
// again tells that there is an answer that is out of date.
func (g *Guard) spend(ctx context.Context, rules *policy.Policy, v policy.Verdict, k key, again bool) error {
	limit := defaultBudget
	if budget := rules.Settings().Budget; budget != nil {
		limit = *budget
	}
	if limit == 0 || !v.ByName || v.Exact && commonTypes[k.qtype] {
		return nil
	}
	base, names := string(v.Base), "*."+string(v.Base)
	if v.Exact {
		base, names = string(k.name), string(k.name)
	}
	wait, ok := g.budget.spend(base, max(0, len(k.name)-len(base)), limit, again, g.Now())
	if !ok {
		return &overBudget{names}
	}
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait to ask for %s: %w", k.name, ctx.Err())
	}
}

// spend counts a question; wait is how long it has to wait before it may leave. again
// tells that there is an answer that is out of date: once a fourth of the budget is used,
// such questions leave at a pace at which they use another fourth in an hour. So what is
// asked for ever again stays known, and leaves half of the budget to new names.
func (b *budget) spend(base string, bytes, limit int, again bool, now time.Time) (wait time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.began.IsZero() {
		b.began = now
	}
	s := b.spender(base, now)
	fourth := max(1, limit/4)
	switch {
	case s.questions >= limit || s.bytes+bytes > limit*bytesAQuestion:
		return 0, false
	case again && s.questions >= fourth && now.Sub(s.asked) < budgetTime/time.Duration(fourth):
		return 0, false
	}
	s.add(cost{1, bytes})
	share := max(limit/burstShare, leastBurst)
	if s.exhausted.Before(now) {
		s.exhausted = now
	}
	s.exhausted = s.exhausted.Add(time.Second / time.Duration(share))
	wait = max(0, s.exhausted.Sub(now)-time.Second)
	s.asked = now.Add(wait)
	return wait, true
}

// spender is what was spent for a base until now. b.mu is held.
func (b *budget) spender(base string, now time.Time) *spending {
	minute := int(now.Sub(b.began) / time.Minute)
	s := b.spenders[base]
	if s == nil && len(b.spenders) >= maxSpenders {
		if minute != b.swept { // once in each
			b.swept = minute
			for old, s := range b.spenders {
				if s.advance(minute); s.questions == 0 {
					delete(b.spenders, old)
				}
			}
		}
		if len(b.spenders) >= maxSpenders {
			base = "" // of the others; nobody's budget is forgotten before its time
			s = b.spenders[base]
		}
	}
	if s == nil {
		s = &spending{minute: minute}
		b.spenders[base] = s
	}
	s.advance(minute)
	return s
}

// advance forgets what was before the last hour. A clock that was set back forgets
// nothing.
func (s *spending) advance(minute int) {
	for range min(minute-s.minute, budgetMinutes) {
		s.minute++
		at := &s.minutes[s.minute%budgetMinutes]
		s.questions -= at.questions
		s.bytes -= at.bytes
		*at = cost{}
	}
	s.minute = max(s.minute, minute)
}

func (s *spending) add(c cost) {
	at := &s.minutes[s.minute%budgetMinutes]
	at.questions += c.questions
	at.bytes += c.bytes
	s.questions += c.questions
	s.bytes += c.bytes
}
