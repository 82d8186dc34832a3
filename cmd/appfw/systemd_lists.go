package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"appfw/netns/units"
	"appfw/netns/view"
	"appfw/policy/systemd"
	"appfw/proxy/inforce"
	"appfw/proxy/upstream"
)

func newSystemdExport() *cobra.Command {
	var flags policyFlags
	var anyPort bool
	c := &cobra.Command{
		Use:   "export [flags]",
		Short: "Write the part of a policy that needs no names as a drop-in for a systemd unit",
		Long: `Write IPAddressAllow= and IPAddressDeny= lines (systemd.resource-control(5)) that
allow what a policy allows by address, for a drop-in of a service. systemd knows
no names, ports or protocols, and filters both directions alike: what cannot be
said is named on stderr and in comments. An address is allowed only if the policy
allows every flow to it, directly, and no rule keeps clients from there; with
--any-port, if it allows some. A deny within an allow divides that into the
prefixes around it, as systemd's allow wins over its deny.`,
		Example: `  appfw systemd export --policy build.policy > /etc/systemd/system/build.service.d/net.conf
  appfw systemd export --allow 10.0.0.0/24 --deny 10.0.0.13 --allow localhost
  appfw systemd export --any-port --allow 10.0.0.0/24:443`,
		Args:                  cobra.NoArgs,
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := flags.load(inforce.Host{})
			if err != nil {
				return err
			}
			text, notes, err := systemd.DropIn(l.Policy, anyPort)
			if err == nil {
				printNoted(c, text, notes)
			}
			return err
		},
	}
	flags.register(c)
	c.Flags().BoolVar(&anyPort, "any-port", false, "open an address for all ports and protocols if the policy opens some there")
	return c
}

func newSystemdImport() *cobra.Command {
	return &cobra.Command{
		Use:   "import UNIT|FILE...",
		Short: "Write a policy that means what a systemd unit's IPAddressAllow= and IPAddressDeny= do",
		Long: `Write a policy that allows what IPAddressAllow= and IPAddressDeny= of a unit allow,
with the proxy of its Environment= as upstream. UNIT is asked of systemd
(systemctl cat); FILE is a unit file, a drop-in, or a directory of drop-ins
(UNIT.d), read in the order given. Lists of slices that the unit is in are not
followed; give their files to see them. What a policy says otherwise than systemd
is named on stderr and in comments.`,
		Example: `  appfw systemd import nginx.service > nginx.policy
  appfw systemd import ./game.service ./game.service.d
  appfw run --policy nginx.policy -- nginx -g 'daemon off;'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("give a unit, or its files: appfw systemd import nginx.service")
			}
			return nil
		},
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			files, err := unitFiles(c.Context(), args)
			if err != nil {
				return err
			}
			u, err := systemd.Read(files)
			if err != nil {
				return err
			}
			text, notes, err := u.Policy(func(url string) error { return upstream.New().Append(url) })
			if err == nil {
				printNoted(c, text, notes)
			}
			return err
		},
	}
}

// unitFiles reads the files that the arguments name.
func unitFiles(ctx context.Context, args []string) (files []systemd.File, err error) {
	for _, arg := range args {
		info, err := os.Stat(arg)
		switch {
		case err != nil && !strings.Contains(arg, "/"):
			if len(args) > 1 {
				return nil, fmt.Errorf("%s: there is no such file; a unit is given alone", printable(arg))
			}
			return catUnit(ctx, arg)
		case err != nil:
			return nil, err
		}
		names := []string{arg}
		if info.IsDir() {
			if names, err = units.DropIns(arg); err != nil {
				return nil, err
			}
			if len(names) == 0 {
				return nil, fmt.Errorf("%s: no drop-ins (*.conf) in it", printable(arg))
			}
		}
		for _, name := range names {
			content, err := view.ReadFile(name)
			if err != nil {
				return nil, err
			}
			files = append(files, systemd.File{Name: name, Content: content})
		}
	}
	return files, nil
}

// catUnit has systemd find the files of a unit.
func catUnit(ctx context.Context, unit string) ([]systemd.File, error) {
	out, err := units.Cat(ctx, unit)
	exit, isExit := errors.AsType[*exec.ExitError](err)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("%s: there is no such file, and no systemctl to ask for a unit of that name", printable(unit))
	case isExit:
		return nil, fmt.Errorf("%s: there is no such file, and no such unit: systemctl says: %s", printable(unit), strings.TrimSpace(string(exit.Stderr)))
	case err != nil:
		return nil, err
	}
	return systemd.SplitCat(unit, out), nil
}

// printNoted prints a text, and beside it what is to be known of it.
func printNoted(c *cobra.Command, text string, notes []string) {
	for _, n := range notes {
		fmt.Fprintln(c.ErrOrStderr(), "appfw: "+n)
	}
	fmt.Fprint(c.OutOrStdout(), text)
}
