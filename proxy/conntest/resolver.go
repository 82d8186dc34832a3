package conntest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// Resolver is a dnsguard.Exchanger that knows a few names. Make it with NewResolver.
type Resolver struct {
	// Hold delays answers until it is closed; nil: it does not.
	Hold chan struct{}

	mu    sync.Mutex
	addrs map[string]string
	asked []string
}

// NewResolver makes a Resolver. addrs has for a name with its dot what [Resolver.Set]
// is given. For broken.example., it fails.
func NewResolver(addrs map[string]string) *Resolver {
	return &Resolver{addrs: addrs}
}

// Set gives a name its IPv4 addresses, between blanks. An alias may stand before.
func (r *Resolver) Set(name, addrs string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addrs[name] = addrs
}

// Asked are the names of the questions so far.
func (r *Resolver) Asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

// Exchange implements dnsguard.Exchanger.
func (r *Resolver) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	name := q.Question[0].Name
	r.mu.Lock()
	r.asked = append(r.asked, name)
	addrs, known := r.addrs[name]
	r.mu.Unlock()
	if r.Hold != nil {
		select {
		case <-r.Hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	m := new(dns.Msg).SetReply(q)
	header := func(owner string, rrtype uint16) dns.RR_Header {
		return dns.RR_Header{Name: owner, Rrtype: rrtype, Class: dns.ClassINET, Ttl: 60}
	}
	switch {
	case name == "broken.example.":
		return nil, errors.New("broken")
	case !known:
		m.Rcode = dns.RcodeNameError
	case q.Question[0].Qtype == dns.TypeA:
		owner := name
		for _, s := range strings.Fields(addrs) {
			if _, err := netip.ParseAddr(s); err != nil {
				m.Answer = append(m.Answer, &dns.CNAME{Hdr: header(owner, dns.TypeCNAME), Target: dns.Fqdn(s)})
				owner = dns.Fqdn(s)
				continue
			}
			m.Answer = append(m.Answer, &dns.A{Hdr: header(owner, dns.TypeA), A: net.ParseIP(s)})
		}
	}
	return m, nil
}
