package dnsguard

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"

	"appfw/policy"
)

const (
	// patience is how long one resolver is waited for before the next is
	// asked as well; deadline is less than the 10 s after which the app's own
	// resolver gives up (resolv.conf(5), timeout and attempts). When that asks again
	// meanwhile, it waits for the same answer: some resolvers take 6 s.
	patience = 1 * time.Second
	deadline = 8500 * time.Millisecond
	// rounds is how often the list of resolvers is gone through.
	rounds = 2
	// grudge is how long a resolver that gave no answer is asked last.
	grudge = 10 * time.Second
)

// Resolvers asks resolvers elsewhere: for a name those of the longest zone that
// it lies in, or else those without a zone, or else the host's. It never falls
// from one of these lists to another: the names of a zone are no business of
// other resolvers.
type Resolvers struct {
	Servers []*Server
	// Host are the host's own, asked if none of Servers is without a zone. Nil
	// is the same as none. It is called for each question.
	Host func() ResolvConf

	patience time.Duration // 0 is the constant; tests have less of it
	mu       sync.Mutex
	hostList []netip.AddrPort // what Host said last, guarded by mu
	host     []*Server        // made of it, guarded by mu
}

// Exchange implements [Exchanger]. The first answer that is no failure wins.
// Answers are whole, and to the question in q. That one is authentic counts if it is
// of a resolver of the host's, and the host trusts it (resolv.conf(5), trust-ad).
func (r *Resolvers) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	servers, trusted := r.serversFor(q.Question[0].Name)
	if len(servers) == 0 {
		return nil, errors.New("the host has no resolver")
	}
	if trusted {
		q = q.Copy()
		q.AuthenticatedData = true // it is to say so (RFC 6840, 5.7)
	}
	m, err := r.exchange(ctx, healthyFirst(servers), q)
	if err != nil {
		return nil, err
	}
	m.AuthenticatedData = m.AuthenticatedData && trusted
	return m, nil
}

// exchange asks some servers, in their order.
func (r *Resolvers) exchange(ctx context.Context, servers []*Server, q *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	type attempt struct {
		server *Server
		result
	}
	patience := patience
	if r.patience != 0 {
		patience = r.patience
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	attempts := make(chan attempt)
	var asked *Server // last, and did not answer yet
	next, left := 0, 0
	start := func() {
		server := servers[next%len(servers)]
		asked, next, left = server, next+1, left+1
		timer.Reset(patience)
		go func() {
			m, err := server.exchange(ctx, q)
			select {
			case attempts <- attempt{server, result{m, err}}:
			case <-ctx.Done():
			}
		}()
	}
	start()
	var last attempt
	for {
		select {
		case got := <-attempts:
			left--
			if got.err != nil && ctx.Err() != nil {
				continue // it was not the server that failed
			}
			if got.server == asked {
				asked = nil
			}
			got.server.answered(got.err == nil)
			if got.err == nil && got.m.Rcode != dns.RcodeServerFailure && got.m.Rcode != dns.RcodeRefused {
				return got.m, nil
			}
			if last.m == nil {
				last = got
			}
			if next < len(servers) {
				start()
			} else if left == 0 {
				return last.m, last.err
			}
		case <-timer.C:
			if asked != nil {
				asked.answered(false)
			}
			if next < rounds*len(servers) {
				start()
			}
		case <-ctx.Done():
			switch {
			case last.m != nil:
				return last.m, nil
			case errors.Is(ctx.Err(), context.Canceled):
				return nil, ctx.Err()
			}
			return nil, fmt.Errorf("%s: no answer in time", servers[0].spec)
		}
	}
}

// Zone tells whether some server is for a zone that the name lies in.
func (r *Resolvers) Zone(name policy.Name) bool {
	return r.zoneOf(dns.Fqdn(string(name))) != ""
}

// zoneOf is the longest zone with servers that the name lies in, "" if there is
// none. The name is compared label by label: one that came in an answer may
// have dots within labels.
func (r *Resolvers) zoneOf(name string) (longest policy.Name) {
	for _, s := range r.Servers {
		if len(s.Zone) > len(longest) && dns.IsSubDomain(dns.Fqdn(string(s.Zone)), name) {
			longest = s.Zone
		}
	}
	return longest
}

// serversFor are those that may be asked for the name, in the order given; trusted
// tells that they are the host's, which trusts them to say what is authentic.
func (r *Resolvers) serversFor(name string) (servers []*Server, trusted bool) {
	zone := r.zoneOf(name)
	for _, s := range r.Servers {
		if s.Zone == zone {
			servers = append(servers, s)
		}
	}
	if len(servers) == 0 && r.Host != nil {
		host := r.Host()
		return r.hostServers(host.Servers), host.TrustAD
	}
	return servers, false
}

// hostServers are kept while the list stays as it is, with what is known of them.
func (r *Resolvers) hostServers(list []netip.AddrPort) []*Server {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(list, r.hostList) {
		r.hostList, r.host = slices.Clone(list), nil
		for _, a := range list {
			r.host = append(r.host, plainServer(a))
		}
	}
	return r.host
}

// healthyFirst moves those that failed lately to the end.
func healthyFirst(servers []*Server) []*Server {
	var healthy, failed []*Server
	for _, s := range servers {
		if s.failedLately() {
			failed = append(failed, s)
		} else {
			healthy = append(healthy, s)
		}
	}
	return append(healthy, failed...)
}
