package dnsguard

import (
	"context"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Some servers cannot do EDNS: they refuse questions with it, in one of several ways,
// or drop them (RFC 6891, 6.2.2 and 7; or a firewall before them does). What they do
// without it, counts, and is remembered of them.
//
//	unknown ──> speaks  (an answer to a question with EDNS, and it was no refusal)
//	   ├──────> plain   (a refusal, and then an answer without EDNS; or silence, twice)
//	speaks, plain ──> unknown  (after ednsMemory)
const (
	// ednsWait is how long a server of which nothing is known may be silent before it
	// is asked without EDNS as well: longer than most take, and so short that the
	// answer comes before another server is asked (patience).
	ednsWait = 500 * time.Millisecond
	// ednsMemory is for how long it is believed (unbound, infra-host-ttl).
	ednsMemory = 15 * time.Minute
	// ednsSilences is how often in turn a server is silent to EDNS, and answers without,
	// until it is said not to know it: one datagram may be lost.
	ednsSilences = 2
)

// edns is what is known of one server's EDNS.
type edns struct {
	mu       sync.Mutex
	spoke    time.Time // when it answered last to a question with EDNS
	plain    time.Time // when it was found not to; zero: it was not
	silences int       // in turn
}

func (e *edns) speaks() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.spoke, e.plain, e.silences = time.Now(), time.Time{}, 0
}

func (e *edns) refuses() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.spoke, e.plain, e.silences = time.Time{}, time.Now(), 0
}

func (e *edns) dropped() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.silences++; e.silences >= ednsSilences {
		e.spoke, e.plain, e.silences = time.Time{}, time.Now(), 0
	}
}

// known tells what is believed; neither is unknown.
func (e *edns) known() (speaks, plain bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.Since(e.spoke) < ednsMemory, time.Since(e.plain) < ednsMemory
}

// ask asks q, with EDNS and without, as the server can take it.
func (s *Server) ask(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	speaks, plain := s.edns.known()
	switch {
	case q.IsEdns0() == nil:
		return s.transport.exchange(ctx, q.Copy())
	case plain:
		return s.transport.exchange(ctx, withoutEDNS(q))
	case speaks:
		m, err := s.transport.exchange(ctx, q.Copy())
		if err != nil {
			return nil, err
		}
		if refusal(m) != refusesEDNS { // that it fails is no refusal of a server that knows EDNS
			if refusal(m) == noRefusal {
				s.edns.speaks()
			}
			return m, nil
		}
		return s.askPlain(ctx, q, m)
	}
	return s.askBoth(ctx, q)
}

// askPlain asks a server that has refused a question with EDNS.
func (s *Server) askPlain(ctx context.Context, q, refused *dns.Msg) (*dns.Msg, error) {
	m, err := s.transport.exchange(ctx, withoutEDNS(q))
	switch {
	case err == nil && refusal(m) == noRefusal:
		s.edns.refuses()
		return m, nil
	case refusal(refused) == mayRefuseEDNS:
		return refused, nil // it fails either way
	}
	return m, err
}

// askBoth asks a server of which nothing is known: with EDNS, and if that is not
// answered soon, without as well. The first answer counts.
func (s *Server) askBoth(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ask := func(q *dns.Msg) <-chan result {
		answer := make(chan result, 1)
		go func() {
			m, err := s.transport.exchange(ctx, q)
			answer <- result{m, err}
		}()
		return answer
	}
	with := ask(q.Copy())
	var without <-chan result // nil: it was not asked so, or failed
	wait := ednsWait
	if s.ednsWait != 0 {
		wait = s.ednsWait
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			if s.TLS == nil { // who speaks TLS is not as old
				without = ask(withoutEDNS(q))
			}
		case r := <-without:
			switch {
			case r.err != nil && with == nil:
				return nil, r.err
			case r.err != nil:
				without = nil
				continue // the other one may come still
			}
			if refusal(r.m) == noRefusal {
				s.edns.dropped()
			}
			return r.m, nil
		case r := <-with:
			switch {
			case r.err != nil && without != nil:
				with = nil
			case r.err != nil:
				return nil, r.err
			case refusal(r.m) == noRefusal:
				s.edns.speaks()
				return r.m, nil
			default:
				return s.askPlain(ctx, q, r.m)
			}
		}
	}
}

// refused is what an answer to a question with EDNS may mean.
type refused uint8

const (
	noRefusal     refused = iota
	mayRefuseEDNS         // it fails, for that reason or another
	refusesEDNS
)

// refusal tells what an answer says of EDNS.
func refusal(m *dns.Msg) refused {
	switch m.Rcode {
	case dns.RcodeFormatError, dns.RcodeNotImplemented, dns.RcodeBadVers:
		return refusesEDNS
	case dns.RcodeServerFailure, dns.RcodeRefused:
		return mayRefuseEDNS
	}
	if opt := m.IsEdns0(); opt != nil && opt.Version() != 0 {
		return refusesEDNS
	}
	return noRefusal
}

func withoutEDNS(q *dns.Msg) *dns.Msg {
	q = q.Copy()
	var extra []dns.RR
	for _, rr := range q.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			extra = append(extra, rr)
		}
	}
	q.Extra = extra
	return q
}
