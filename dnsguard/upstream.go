package dnsguard

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"appfw/policy"
)

const (
	// patience is how long one resolver is waited for before the next is
	// asked as well; deadline is less than the 5 s after which the app's own
	// resolver would ask again (resolv.conf(5), timeout).
	patience = 1 * time.Second
	deadline = 4500 * time.Millisecond
	// rounds is how often the list of resolvers is gone through.
	rounds = 2
)

// Resolvers asks a list of resolvers over UDP, and over TCP what does not fit
// or does not look right.
type Resolvers struct {
	Servers []netip.AddrPort
}

// Exchange implements [Exchanger]. The first answer that is no failure wins.
func (r *Resolvers) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	if len(r.Servers) == 0 {
		return nil, errors.New("the host has no resolver")
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	type result struct {
		m   *dns.Msg
		err error
	}
	results := make(chan result)
	next, left := 0, 0
	start := func() {
		server := r.Servers[next%len(r.Servers)]
		next, left = next+1, left+1
		go func() {
			m, err := exchange(ctx, server, q.Copy())
			select {
			case results <- result{m, err}:
			case <-ctx.Done():
			}
		}()
	}
	start()
	var last result
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case got := <-results:
			left--
			if got.err == nil && got.m.Rcode != dns.RcodeServerFailure && got.m.Rcode != dns.RcodeRefused {
				return got.m, nil
			}
			if last.m == nil {
				last = got
			}
			if next < len(r.Servers) {
				start()
			} else if left == 0 {
				return last.m, last.err
			}
		case <-timer.C:
			if next < rounds*len(r.Servers) {
				start()
			}
			timer.Reset(patience)
		case <-ctx.Done():
			if last.m != nil {
				return last.m, nil
			}
			return nil, errors.New("no answer in time")
		}
	}
}

// exchange asks one server. Every question has an ID and a port of its own; an
// answer with another ID or question is not taken, but the question is repeated
// over TCP, where nobody off the path can answer.
func exchange(ctx context.Context, server netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	q.Id = dns.Id()
	udp := dns.Client{Net: "udp", UDPSize: udpSize, Timeout: deadline}
	m, _, err := udp.ExchangeContext(ctx, q, server.String())
	var network net.Error
	switch {
	case err == nil && !m.Truncated && answers(m, q):
		return m, nil
	case errors.As(err, &network):
		return nil, fmt.Errorf("%s: %w", server, plain(err))
	}
	q.Id = dns.Id()
	tcp := dns.Client{Net: "tcp", Timeout: deadline}
	m, _, err = tcp.ExchangeContext(ctx, q, server.String())
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", server, plain(err))
	case m.Truncated || !answers(m, q):
		return nil, fmt.Errorf("%s: answered another question", server)
	}
	return m, nil
}

// plain takes from a network error what the message around it says already.
func plain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// answers tells whether m is a response to q.
func answers(m, q *dns.Msg) bool {
	return m.Response && m.Id == q.Id && len(m.Question) == 1 &&
		strings.EqualFold(m.Question[0].Name, q.Question[0].Name) &&
		m.Question[0].Qtype == q.Question[0].Qtype && m.Question[0].Qclass == q.Question[0].Qclass
}

// ResolvConf is what of resolv.conf(5) matters here.
type ResolvConf struct {
	Servers []netip.AddrPort
	Lines   []string // "search", "domain" and "options", as they stand
}

// ReadResolvConf reads a resolv.conf. Without a nameserver line it is the one
// on this host, as resolv.conf(5) says.
func ReadResolvConf(r io.Reader) (ResolvConf, error) {
	var c ResolvConf
	s := bufio.NewScanner(r)
	for s.Scan() {
		fields := strings.Fields(s.Text())
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(fields[1]); err == nil {
				c.Servers = append(c.Servers, netip.AddrPortFrom(a, 53))
			}
		case "search", "domain", "options":
			c.Lines = append(c.Lines, strings.Join(fields, " "))
		}
	}
	if len(c.Servers) == 0 {
		c.Servers = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	}
	return c, s.Err()
}

// ReadHosts reads a hosts(5) file. Lines that are none are passed over, as
// resolvers do.
func ReadHosts(r io.Reader) (map[policy.Name][]netip.Addr, error) {
	hosts := make(map[policy.Name][]netip.Addr)
	s := bufio.NewScanner(r)
	for s.Scan() {
		text, _, _ := strings.Cut(s.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) < 2 {
			continue
		}
		a, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		for _, f := range fields[1:] {
			if n, err := policy.ParseName(f); err == nil {
				hosts[n] = append(hosts[n], a.WithZone(""))
			}
		}
	}
	return hosts, s.Err()
}
