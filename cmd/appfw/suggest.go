package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"appfw/dnsguard"
	"appfw/policy/suggest"
)

func newSuggest() *cobra.Command {
	return &cobra.Command{
		Use:   "suggest LOG...",
		Short: "Write a policy for what a log shows",
		Long: `Write a policy that allows what logs of --log show as allowed: the names and ports
that were reached, and addresses where no name was known. What was denied, could not
be connected to, or was only looked up, is in it as comments. Of names that share an
address, the log has the one that was looked up last, and none that connections show
otherwise than it was resolved (curl --connect-to); nor does it have the deny, dns,
hosts and upstream lines of then. It is to be run on the host of the log,
which knows its own addresses. Read the policy before you use it: it has what the
program did, good or bad, and a program can write to logs that its user can write to.
LOG - is stdin.`,
		Example: `  appfw run --default allow --log npm.json -- npm ci
  appfw suggest npm.json > npm.policy
  appfw run --policy npm.policy -- npm ci`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("give a log that --log wrote: appfw suggest npm.json")
			}
			return nil
		},
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			h := suggest.New(suggest.Host{
				Addrs: ownAddrs(), Loopback: dnsguard.Localhost,
				Synthetic: []netip.Prefix{dnsguard.SyntheticV4, dnsguard.SyntheticV6},
			})
			for _, name := range args {
				if err := takeIn(h, name); err != nil {
					return err
				}
			}
			left, first := h.LeftOut()
			if h.Empty() {
				return cmp.Or(first, fmt.Errorf("%s: no flow or name is in it", strings.Join(args, ", ")))
			}
			if first != nil {
				fmt.Fprintf(c.ErrOrStderr(), "appfw: left out %s, of which the first is %s\n", lines(left), printable(first.Error()))
			}
			_, err := io.WriteString(c.OutOrStdout(), h.Policy())
			return err
		},
	}
}

// ownAddrs are the addresses of this host.
func ownAddrs() (list []netip.Addr) {
	addrs, _ := net.InterfaceAddrs() // none: then their rules are missing
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			list = append(list, p.Addr())
		}
	}
	return list
}

// takeIn reads a log, of stdin if that is "-".
func takeIn(h *suggest.History, name string) error {
	if name == "-" {
		return h.Read("stdin", os.Stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return h.Read(name, f)
}

// lines says how many.
func lines(n int) string {
	if n == 1 {
		return "a line"
	}
	return fmt.Sprintf("%d lines", n)
}
