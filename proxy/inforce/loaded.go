package inforce

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"appfw/dnsguard"
	"appfw/policy"
	"appfw/policy/source"
	"appfw/proxy"
	"appfw/proxy/upstream"
)

// Host is what is read of the host's own configuration.
type Host struct {
	Servers func() dnsguard.ResolvConf          // its resolvers by now; nil: it has none
	Hosts   func() map[policy.Name][]netip.Addr // of /etc/hosts by now (hosts(5)); nil: it has no names
}

// Loaded is a policy with all that its lines name. It does not change.
type Loaded struct {
	*source.Loaded
	Hosts     map[policy.Name][]netip.Addr
	Resolvers *dnsguard.Resolvers
	Chains    map[string]*upstream.Chain // by name
}

// Load reads a policy. What its lines say goes before the host's own configuration.
func Load(from source.Source, host Host) (*Loaded, error) {
	read, err := from.Load()
	if err != nil {
		return nil, err
	}
	l := &Loaded{Loaded: read}
	if l.Resolvers, err = resolversOf(l.Policy.Settings(), host); err != nil {
		return nil, err
	}
	if l.Chains, err = chainsOf(l.Policy.Settings()); err != nil {
		return nil, err
	}
	if l.Hosts, err = l.readHosts(host); err != nil {
		return nil, err
	}
	return l, nil
}

// resolversOf makes the resolvers that the settings name; those of the host are asked
// if there are none.
func resolversOf(s *policy.Settings, host Host) (*dnsguard.Resolvers, error) {
	r := &dnsguard.Resolvers{Host: host.Servers}
	for _, line := range s.DNS {
		server, err := dnsguard.ParseServer(line.Arg)
		if err != nil {
			return nil, &policy.SyntaxError{Pos: line.Pos, Msg: err.Error()}
		}
		r.Servers = append(r.Servers, server)
	}
	return r, nil
}

// chainsOf makes the chains of proxies that the settings name.
func chainsOf(s *policy.Settings) (map[string]*upstream.Chain, error) {
	chains := make(map[string]*upstream.Chain)
	for name, lines := range s.Upstreams {
		chain := upstream.New()
		chain.Isolates = s.Isolate != "" // who says so has a Tor there
		for _, line := range lines {
			if err := chain.Append(line.Arg); err != nil {
				return nil, &policy.SyntaxError{Pos: line.Pos, Msg: err.Error()}
			}
		}
		chains[name] = chain
	}
	return chains, nil
}

// readHosts reads the hosts files that the lines name. What they have goes before what
// the host's own has.
func (l *Loaded) readHosts(host Host) (map[policy.Name][]netip.Addr, error) {
	all := make(map[policy.Name][]netip.Addr)
	if host.Hosts != nil {
		maps.Copy(all, host.Hosts())
	}
	for _, line := range l.Policy.Settings().Hosts {
		f, err := l.Open(line.Arg)
		if err != nil {
			return nil, &policy.SyntaxError{Pos: line.Pos, Word: line.Arg, Msg: fmt.Sprintf("cannot open it: %v", err)}
		}
		hosts, err := dnsguard.ReadHosts(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", line.Arg, err)
		}
		maps.Copy(all, hosts)
	}
	return all, nil
}

// Synthetic makes the addresses that stand for names. They stay those of the first
// policy: the app has some.
func (l *Loaded) Synthetic() *dnsguard.Synthetic {
	s := l.Policy.Settings()
	return &dnsguard.Synthetic{V4: s.SyntheticV4, V6: s.SyntheticV6}
}

// Judge is what would judge the flows of a program under the policy as it is. Nothing goes
// by it.
func (l *Loaded) Judge(routes proxy.Routes) *proxy.Proxy {
	current := func() *policy.Policy { return l.Policy }
	pins := new(dnsguard.Pins)
	guard := dnsguard.New(dnsguard.Config{
		Policy: current, Upstream: l.Resolvers, Pins: pins, Zone: l.Resolvers.Zone,
		Hosts: func() map[policy.Name][]netip.Addr { return l.Hosts }, Synthetic: l.Synthetic(),
	})
	return proxy.New(proxy.Config{Policy: current, Pins: pins, Guard: guard, Routes: routes})
}

// keep takes over from the policy before what the lines still say.
func (l *Loaded) keep(old *Loaded) {
	same := func(a, b []policy.Line) bool {
		return slices.EqualFunc(a, b, func(a, b policy.Line) bool { return a.Arg == b.Arg })
	}
	was, is := old.Policy.Settings(), l.Policy.Settings()
	if same(is.DNS, was.DNS) {
		l.Resolvers = old.Resolvers // with their connections
	}
	for name, chain := range old.Chains {
		if same(is.Upstreams[name], was.Upstreams[name]) && (is.Isolate == "") == (was.Isolate == "") {
			l.Chains[name] = chain // with its credentials
		}
	}
}
