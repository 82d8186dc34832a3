// Package inforce is the policy in force: the rules with what their lines name
// (resolvers, hosts files, chains of proxies) and the proxy that judges by them. It is read
// anew while programs run, when its files change or somebody asks; what was decided by
// the old one and is denied by the new one is cut.
//
//	p, err := inforce.Open(inforce.Config{Source: files, Host: host, Journal: j}, proxy.Config{Routes: routes})
//	go p.Watch(ctx, asked)
//	err = p.Proxy.Serve(ctx, intake)
package inforce

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"appfw/dnsguard"
	"appfw/netns/route"
	"appfw/policy"
	"appfw/policy/source"
	"appfw/proxy"
	"appfw/proxy/journal"
	"appfw/proxy/upstream"
)

// Config is what a Policy is made of.
type Config struct {
	Source  source.Source
	Host    Host                // the zero value: it has no resolvers, and no names
	Journal *journal.Journal    // needed
	Check   func(*Loaded) error // says what cannot be in force; nil: all can
	Clients bool                // there are some to be judged by allow-from
	Hides   bool                // there are sockets hidden, which allow-unix may show
	PinLife time.Duration       // [dnsguard.Pins].Life; 0: as long as there is room
}

// Policy is the policy in force. Make it with Open.
type Policy struct {
	Config
	Proxy *proxy.Proxy // that judges by it

	current atomic.Pointer[Loaded]
}

// Open reads the policy and makes the proxy that judges by it. c is what that is made of
// besides.
func Open(config Config, c proxy.Config) (*Policy, error) {
	l := &Policy{Config: config}
	first, err := l.load()
	if err != nil {
		return nil, err
	}
	l.current.Store(first)
	c.Pins = &dnsguard.Pins{Life: config.PinLife}
	c.Guard = dnsguard.New(dnsguard.Config{
		Policy: l.policy, Upstream: l, Pins: c.Pins, Hosts: l.hosts, Zone: l.zone, Now: time.Now, Log: l.Journal.Question,
		Synthetic: first.Synthetic(), Reaches: reaches(c.Routes),
	})
	c.Policy, c.Chain, c.Now, c.Log = l.policy, l.chain, time.Now, l.record
	l.Proxy = proxy.New(c)
	c.Pins.Living, c.Guard.Synthetic.Living = l.Proxy.Living, l.Proxy.Living
	l.note(first.Policy)
	return l, nil
}

// reaches tells whether the host's routes lead to an address; what they do not tell, they do.
func reaches(routes proxy.Routes) func(netip.Addr) bool {
	if routes == nil {
		return nil
	}
	return func(a netip.Addr) bool { return routes.Kind(a) != route.Unreachable }
}

// note tells of lines that do nothing here.
func (l *Policy) note(rules *policy.Policy) {
	var notes []string
	settings := rules.Settings()
	if !l.Clients && len(rules.ClientRules()) > 0 {
		notes = append(notes, "allow-from and deny-from do nothing, as no port is published (--publish)")
	}
	if !l.Hides && len(settings.Shown) > 0 {
		notes = append(notes, "allow-unix does nothing: only appfw run hides sockets")
	}
	if settings.Isolate != "" && len(settings.Upstreams) == 0 {
		notes = append(notes, "isolate does nothing without an upstream")
	}
	for _, name := range slices.Sorted(maps.Keys(settings.Upstreams)) {
		if name != policy.Default && !slices.ContainsFunc(rules.Rules(), func(r *policy.Rule) bool { return r.Via() == name }) {
			notes = append(notes, fmt.Sprintf("nothing goes out by the upstream %s, as no allow says via=%[1]s", name))
		}
	}
	for _, text := range notes {
		l.Journal.Note(text)
	}
}

func (l *Policy) load() (*Loaded, error) {
	next, err := Load(l.Source, l.Host)
	if err == nil && l.Check != nil {
		err = l.Check(next)
	}
	return next, err
}

// Current is what is in force now.
func (l *Policy) Current() *Loaded { return l.current.Load() }

func (l *Policy) policy() *policy.Policy              { return l.current.Load().Policy }
func (l *Policy) hosts() map[policy.Name][]netip.Addr { return l.current.Load().Hosts }
func (l *Policy) zone(n policy.Name) bool             { return l.current.Load().Resolvers.Zone(n) }

func (l *Policy) chain(name string) *upstream.Chain { return l.current.Load().Chains[name] }

// record records what happened to a flow, with the upstream that has no name.
func (l *Policy) record(e journal.Event) {
	if v := e.Verdict; v.Allowed() && v.Via == policy.Default {
		if chain := l.chain(policy.Default); chain != nil {
			e.Upstream = chain.String()
		}
	}
	l.Journal.Flow(e)
}

// Exchange implements [dnsguard.Exchanger].
func (l *Policy) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	return l.current.Load().Resolvers.Exchange(ctx, q)
}

// Watch reads the policy anew whenever one of its files has changed, and when
// asked, until ctx ends.
func (l *Policy) Watch(ctx context.Context, asked <-chan struct{}) {
	l.Source.Watch(ctx, l.current.Load().Loaded, asked, func() *source.Loaded {
		l.reload()
		return l.current.Load().Loaded
	}, l.Journal.Reloaded)
}

// reload reads the policy anew. With a mistake in it, the old one stays.
func (l *Policy) reload() {
	old := l.current.Load()
	next, err := l.load()
	if err == nil {
		err = source.CheckReload(old.Policy, next.Policy)
	}
	if err != nil {
		l.Journal.Reloaded("the policy stays as it was: " + FirstMistake(err))
		return
	}
	next.keep(old)
	l.current.Store(next)
	l.Proxy.Guard.Forget()
	l.Proxy.Recheck()
	l.Journal.Reloaded("the policy was read anew")
	l.note(next.Policy)
}

// FirstMistake is an error in one line.
func FirstMistake(err error) string {
	first, _, more := strings.Cut(err.Error(), "\n")
	if more {
		first += " (and others)"
	}
	return first
}
