package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"

	"appfw/dnsguard"
	"appfw/policy"
	"appfw/proxy"
)

// Exit codes of why.
const (
	exitDenied   = 1
	exitBadInput = 2
)

func newWhy() *cobra.Command {
	var flags policyFlags
	c := &cobra.Command{
		Use:   "why [flags] DEST",
		Short: "Tell which rule decides on a destination, and why",
		Long: `Tell whether a policy allows DEST, which rule decides, and why. DEST is
HOST:PORT[/PROTO] or HOST/icmp. A name that may be resolved is resolved, as for
a program that is run. Exits with 0 if DEST is allowed, 1 if it is denied (or
has no address), and 2 if something is wrong with the input.`,
		Example: `  appfw why --allow '*.example.com:443' www.example.com:443
  appfw why --policy build.policy 10.0.0.7:53/udp
  appfw why --allow any --deny private 192.168.1.1/icmp`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return &exitError{exitBadInput, fmt.Errorf("give one destination: appfw why --allow example.com example.com:443")}
			}
			return nil
		},
		DisableFlagsInUseLine: true,
		RunE:                  func(c *cobra.Command, args []string) error { return explain(c, flags, args[0]) },
	}
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return &exitError{exitBadInput, unknownFlag(c, err)} })
	flags.register(c)
	return c
}

// explain prints the verdict for each address of the destination.
func explain(c *cobra.Command, flags policyFlags, dest string) error {
	host, err := readHost()
	if err != nil {
		return &exitError{exitBadInput, err}
	}
	policies, err := flags.load(host)
	if err != nil {
		return &exitError{exitBadInput, err}
	}
	rules := policies.rules
	target, err := policy.ParseTarget(dest)
	if err != nil {
		return &exitError{exitBadInput, err}
	}
	current := func() *policy.Policy { return rules }
	pins := new(dnsguard.Pins)
	var unanswered *policy.Verdict // why the name has no address for the app
	guard := dnsguard.New(dnsguard.Config{
		Policy: current, Upstream: policies.resolvers, Pins: pins, Now: time.Now, Zone: policies.resolvers.Zone,
		Hosts: func() map[policy.Name][]netip.Addr { return policies.hosts }, Synthetic: policies.synthetic(),
		Log: func(q dnsguard.Question) {
			if !q.Verdict.Allow {
				unanswered = &q.Verdict
			}
		},
	})
	p := proxy.New(proxy.Config{Policy: current, Pins: pins, Guard: guard, Now: time.Now})

	addrs := []netip.Addr{target.Addr}
	if target.Name != "" {
		v := rules.DecideName(target.Name)
		if !v.Allow {
			v.Hint = policy.Destination(policy.Flow{Proto: target.Proto, Name: target.Name, Port: target.Port})
			return verdict(c, "dns "+string(target.Name), v)
		}
		addrs, err = lookUp(c.Context(), guard, target.Name)
		if err != nil && unanswered != nil {
			return verdict(c, "dns "+string(target.Name), *unanswered)
		}
		if err != nil {
			fmt.Fprintf(c.OutOrStdout(), "%s: %s (%s)\n", target.Name, err, v.Reason)
			return &exitError{code: exitDenied}
		}
	}
	var denied error
	var said []string
	for _, a := range addrs {
		to := netip.AddrPortFrom(a, target.Port)
		v, name := p.Decide(rules, target.Proto, to)
		what := target.Proto.String() + " " + destination(string(name), to)
		if _, synthetic := guard.Synthetic.Name(a); name != "" && !synthetic {
			what += " (" + a.String() + ")"
		}
		if v.Allow && v.Via != policy.Direct {
			v.Reason += ", by " + policies.chains[v.Via].String()
		}
		if name != "" && slices.Contains(said, what) { // of both addresses that stand for it
			continue
		}
		said = append(said, what)
		if err := verdict(c, what, v); err != nil {
			denied = err
		}
	}
	return denied
}

// verdict prints one; it is an error if it denies.
func verdict(c *cobra.Command, what string, v policy.Verdict) error {
	if v.Allow {
		fmt.Fprintf(c.OutOrStdout(), "allow %s: %s\n", what, v.Reason)
		return nil
	}
	line := fmt.Sprintf("deny %s: %s", what, v.Reason)
	if v.Hint != "" {
		line += " (to allow: --allow " + v.Hint + ")"
	}
	fmt.Fprintln(c.OutOrStdout(), printable(line))
	return &exitError{code: exitDenied}
}

// lookUp resolves a name to all its addresses.
func lookUp(ctx context.Context, g *dnsguard.Guard, name policy.Name) (addrs []netip.Addr, err error) {
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		q := new(dns.Msg)
		q.SetQuestion(dns.Fqdn(string(name)), qtype)
		m := g.Answer(ctx, q)
		if m.Rcode != dns.RcodeSuccess && err == nil {
			err = fmt.Errorf("it does not resolve: %s", dns.RcodeToString[m.Rcode])
		}
		for _, rr := range m.Answer {
			switch rr := rr.(type) {
			case *dns.A:
				addrs = append(addrs, netip.AddrFrom4([4]byte(rr.A.To4())))
			case *dns.AAAA:
				addrs = append(addrs, netip.AddrFrom16([16]byte(rr.AAAA.To16())))
			}
		}
	}
	if len(addrs) > 0 {
		return addrs, nil
	}
	if err == nil {
		err = fmt.Errorf("it has no address")
	}
	return nil, err
}
