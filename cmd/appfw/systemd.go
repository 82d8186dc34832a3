package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"appfw/netns/named"
	"appfw/netns/units"
	"appfw/proxy/publish"
)

func newSystemd() *cobra.Command {
	c := &cobra.Command{
		Use:   "systemd",
		Short: "Put services behind appfw; turn policies into settings of units, and back",
		Example: `  appfw systemd proxy backup.service --policy /etc/appfw/backup.policy
  appfw systemd netns nginx.service --policy /etc/appfw/nginx.policy
  appfw systemd import nginx.service > nginx.policy
  appfw systemd export --policy build.policy > /etc/systemd/system/build.service.d/net.conf`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newSystemdProxy(), newSystemdNetns(), newSystemdExport(), newSystemdImport(), newSystemdProbe())
	return c
}

func newSystemdProxy() *cobra.Command {
	var flags unitFlags
	var proxy units.Proxy
	c := &cobra.Command{
		Use:   "proxy UNIT --policy FILE",
		Short: "Let a service reach only a proxy of appfw's",
		Long: `Have systemd let UNIT reach nothing but the loopback address of a proxy that
appfw serves under the policy (IPAddressDeny=any), and tell UNIT of it by the
usual variables (ALL_PROXY and others). It writes a drop-in for UNIT, and
appfw-serve@UNIT.socket and .service, which systemd starts when UNIT connects.
UNIT itself is not restarted.`,
		Example: `  appfw systemd proxy backup.service --policy /etc/appfw/backup.policy
  appfw systemd proxy backup.service --remove`,
		Args:                  oneUnit,
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			return flags.run(c, args[0], func(ctx context.Context, config units.Config) (*units.Change, error) {
				return config.Proxy(ctx, args[0], proxy)
			})
		},
	}
	flags.register(c, &proxy.Policy)
	c.Flags().StringVar(&proxy.Listen, "listen", "", "where the proxy listens, an `ADDRESS:PORT` of the loopback (without: 127.100.x.y:1080, by the name of UNIT)")
	return c
}

func newSystemdNetns() *cobra.Command {
	var flags unitFlags
	var namespace units.Namespace
	c := &cobra.Command{
		Use:   "netns UNIT --policy FILE",
		Short: "Let a service run in a network namespace of appfw's",
		Long: `Have UNIT run in a network namespace that appfw serves under the policy; it need
not know. It writes a drop-in for UNIT, and appfw-netns@NAME.service with a target
that starts it again. Several units may share a namespace (--name). UNIT itself is
not restarted.`,
		Example: `  appfw systemd netns nginx.service --policy /etc/appfw/nginx.policy --publish 0.0.0.0:80:80
  appfw systemd netns nginx.service --remove`,
		Args:                  oneUnit,
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			return flags.run(c, args[0], func(ctx context.Context, config units.Config) (*units.Change, error) {
				if err := checkPublished(namespace.Publish); err != nil {
					return nil, err
				}
				return config.Namespace(ctx, args[0], namespace)
			})
		},
	}
	flags.register(c, &namespace.Policy)
	c.Flags().StringVar(&namespace.Name, "name", "", "the `NAME` of the namespace (without: that of UNIT)")
	c.Flags().StringArrayVar(&namespace.Publish, "publish", nil, "let clients of the host's `PORT` come to the namespace: [ADDR:]HOSTPORT:PORT[/udp]")
	return c
}

// newSystemdProbe is the command by which units tries what systemd keeps.
func newSystemdProbe() *cobra.Command {
	return &cobra.Command{Use: units.ProbeCommand, Hidden: true, Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return units.Probe() }}
}

func oneUnit(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("give one unit: %s nginx.service --policy /etc/appfw/nginx.policy", c.CommandPath())
	}
	return nil
}

// unitFlags are the flags that both ways of putting a unit behind appfw have.
type unitFlags struct {
	directory, program string
	dryRun, remove     bool
}

func (f *unitFlags) register(c *cobra.Command, policy *string) {
	c.Flags().StringVar(policy, "policy", "", "the policy, a `FILE`")
	c.Flags().StringVar(&f.directory, "directory", units.Directory, "where units are written, a `DIR`")
	c.Flags().StringVar(&f.program, "program", "", "what units start as appfw, a `PATH` (without: this program)")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print what would be written, and write nothing")
	c.Flags().BoolVar(&f.remove, "remove", false, "undo it: remove what was written for UNIT")
}

// run does what the flags say, or shows it.
func (f *unitFlags) run(c *cobra.Command, unit string, behind func(context.Context, units.Config) (*units.Change, error)) error {
	config := units.Config{
		Directory: f.directory, Program: f.program, Load: policyFiles,
		FilesDir: named.FilesDir,
	}
	var change *units.Change
	var err error
	if f.remove {
		change, err = config.Undo(unit)
	} else {
		change, err = behind(c.Context(), config)
	}
	if err != nil {
		return inFlags(err)
	}
	out, notes := c.OutOrStdout(), c.ErrOrStderr()
	if f.dryRun {
		show(out, notes, change)
		return nil
	}
	done, err := change.Apply(c.Context())
	for _, path := range done.Wrote {
		fmt.Fprintf(out, "wrote %s\n", path)
	}
	for _, path := range done.Removed {
		fmt.Fprintf(out, "removed %s\n", path)
	}
	for _, n := range done.Notes {
		fmt.Fprintln(notes, "appfw: "+printable(n))
	}
	if err == nil && len(done.Wrote) > 0 {
		fmt.Fprintf(out, "%s is behind appfw from its next start on: systemctl restart %[1]s\n", change.Service)
	}
	return inFlags(err)
}

// show prints what a change would do.
func show(out, notes io.Writer, change *units.Change) {
	for _, n := range change.Notes {
		fmt.Fprintln(notes, "appfw: note: "+printable(n))
	}
	for _, f := range change.Write {
		fmt.Fprintf(out, "# %s\n%s\n", f.Path, f.Text)
	}
	if len(change.Write) == 0 {
		for _, path := range change.Remove {
			fmt.Fprintf(out, "would remove %s\n", path)
		}
	}
}

// policyFiles are the files that a policy is made of, which is read.
func policyFiles(policy string) ([]string, error) {
	host, err := readHost()
	if err != nil {
		return nil, err
	}
	var flags policyFlags
	flags.add("policy", policy)
	l, err := flags.load(host.rules())
	if err != nil {
		return nil, err
	}
	return l.Files(), nil
}

// checkPublished refuses ports that a unit cannot publish.
func checkPublished(flags []string) error {
	published, err := publish.Parse(flags)
	if err != nil {
		return err
	}
	for _, p := range published {
		if p.Name != "" {
			return fmt.Errorf("--publish %s: a socket is not passed to this unit; give a port", p.Text)
		}
	}
	return nil
}

// inFlags adds to an error the flags that are about it.
func inFlags(err error) error {
	_, isOption := errors.AsType[*units.OptionError](err)
	_, isUnseen := errors.AsType[*units.UnseenError](err)
	switch {
	case isOption:
		return fmt.Errorf("--%w", err)
	case isUnseen:
		return fmt.Errorf("%w; install it (sudo make install) or say what they are to start (--program)", err)
	case errors.Is(err, units.ErrNoPolicy):
		return fmt.Errorf("%w (--policy FILE)", err)
	case errors.Is(err, units.ErrName):
		return fmt.Errorf("%w (--name)", err)
	case errors.Is(err, units.ErrServed):
		return fmt.Errorf("%w: to join it, say neither --policy nor --publish", err)
	}
	return err
}
