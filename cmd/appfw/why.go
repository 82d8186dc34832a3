package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"appfw/cmd/cli"
	"appfw/dnsguard"
	"appfw/netns/route"
	"appfw/policy"
	"appfw/proxy/inforce"
	"appfw/proxy/journal"
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
		RunE:                  func(c *cobra.Command, args []string) error { return why(c, flags, args[0]) },
	}
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return &exitError{exitBadInput, cli.UnknownFlag(c, err)} })
	flags.register(c)
	return c
}

// why prints the verdict for each address of the destination.
func why(c *cobra.Command, flags policyFlags, dest string) error {
	host, err := inforce.ReadHostFiles()
	if err != nil {
		return &exitError{exitBadInput, err}
	}
	policies, err := flags.load(host.Host())
	if err != nil {
		return &exitError{exitBadInput, err}
	}
	rules := policies.Policy
	target, err := policy.ParseTarget(dest)
	if err != nil {
		return &exitError{exitBadInput, err}
	}
	p := policies.Judge(route.New())
	guard := p.Guard
	addrs := []netip.Addr{target.Addr}
	if target.Name != "" {
		v := rules.DecideName(target.Name)
		if !v.Allowed() {
			v.Lacks = policy.Target{Proto: target.Proto, Name: target.Name, Port: target.Port}
			return verdict(c, flags, "dns "+string(target.Name), v)
		}
		addrs, _, err = guard.Resolve(c.Context(), target.Name)
		if denied, ok := errors.AsType[*dnsguard.DeniedError](err); ok {
			return verdict(c, flags, "dns "+string(target.Name), denied.Verdict)
		}
		if err != nil {
			fmt.Fprintf(c.OutOrStdout(), "%s: %s (%s)\n", target.Name, err, v.Reason())
			return &exitError{code: exitDenied}
		}
	}
	var denied error
	var said []string
	for _, a := range addrs {
		to := netip.AddrPortFrom(a, target.Port)
		d := p.Decide(rules, target.Proto, to)
		v, name := d.Verdict, d.Name
		what := target.Proto.String() + " " + journal.Destination(string(name), to)
		if _, synthetic := guard.Synthetic.Name(a); name != "" && !synthetic {
			what += " (" + a.String() + ")"
		}
		if v.Allowed() && v.Via != policy.Direct {
			v = v.Because(v.Reason() + ", by " + policies.Chains[v.Via].String())
		}
		if name != "" && slices.Contains(said, what) { // of both addresses that stand for it
			continue
		}
		said = append(said, what)
		if err := verdict(c, flags, what, v); err != nil {
			denied = err
		}
	}
	return denied
}

// verdict prints one; it is an error if it denies.
func verdict(c *cobra.Command, flags policyFlags, what string, v policy.Verdict) error {
	if v.Allowed() {
		fmt.Fprintf(c.OutOrStdout(), "allow %s: %s\n", what, v.Reason())
		return nil
	}
	fmt.Fprintln(c.OutOrStdout(), printable(fmt.Sprintf("deny %s: %s", what, flags.explain(v))))
	return &exitError{code: exitDenied}
}
