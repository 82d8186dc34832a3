package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"

	"github.com/spf13/cobra"

	"appfw/netns/named"
	"appfw/netns/units"
	"appfw/policy"
	"appfw/proxy/inforce"
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
	c.AddCommand(newSystemdProxy(), newSystemdNetns(), newSystemdExport(), newSystemdImport(), newSystemdCheck(), newSystemdProbe(), newSystemdPolicy())
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
	flags.register(c, &proxy.Options)
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
	flags.register(c, &namespace.Options)
	c.Flags().StringVar(&namespace.Name, "name", "", "the `NAME` of the namespace (without: that of UNIT)")
	c.Flags().StringArrayVar(&namespace.Publish, "publish", nil, "let clients of the host's `PORT` come to the namespace: [ADDR:]HOSTPORT:PORT[/udp]")
	return c
}

// newSystemdCheck is the command that runs before each start of a service.
func newSystemdCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check UNIT",
		Short: "Tell whether what keeps a service behind appfw is in force",
		Long: `Ask systemd whether all that appfw has written for UNIT is in force: drop-ins that
are read later, slices and sockets may undo it. It runs before each start of UNIT,
which does not start if it fails.`,
		Example: "  appfw systemd check nginx.service",
		Args:    oneUnit,
		RunE: func(c *cobra.Command, args []string) error {
			return units.Config{}.Check(c.Context(), args[0])
		},
	}
}

// newSystemdProbe is the command by which units tries what systemd keeps.
func newSystemdProbe() *cobra.Command {
	return &cobra.Command{Use: units.ProbeCommand, Hidden: true, Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return units.Probe() }}
}

// newSystemdPolicy is the command by which units see whether policies can be taken.
func newSystemdPolicy() *cobra.Command {
	return &cobra.Command{Use: units.PolicyCommand, Hidden: true, Args: cobra.ArbitraryArgs, RunE: func(_ *cobra.Command, args []string) error {
		for _, policy := range args {
			if _, err := readPolicy(policy); err != nil {
				return err
			}
		}
		return nil
	}}
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

func (f *unitFlags) register(c *cobra.Command, o *units.Options) {
	c.Flags().StringVar(&o.Policy, "policy", "", "the policy, a `FILE`")
	c.Flags().StringSliceVar(&o.Keep, "keep", nil, "do not take from UNIT what `NAME` is: a capability, a setting, an address family, a system call, a path or a socket of the drop-in (--dry-run shows it), or setuid")
	c.Flags().StringVar(&o.Log, "log", "", "have appfw write one JSON object a decision to `FILE`")
	c.Flags().BoolVarP(&o.Quiet, "quiet", "q", false, "have appfw say nothing of denied destinations in the journal")
	c.Flags().StringVar(&f.directory, "directory", units.Directory, "where units are written, a `DIR`")
	c.Flags().StringVar(&f.program, "program", "", "what units start as appfw, a `PATH` (without: this program)")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print what would be written, and write nothing")
	c.Flags().BoolVar(&f.remove, "remove", false, "undo it: remove what was written for UNIT")
}

// run does what the flags say, or shows it.
func (f *unitFlags) run(c *cobra.Command, unit string, behind func(context.Context, units.Config) (*units.Change, error)) error {
	config := units.Config{
		Directory: f.directory, Program: f.program, Load: readPolicy,
		FilesDir: named.FilesDir, Forget: forgetNamed,
	}
	var change *units.Change
	var err error
	if f.remove {
		change, err = config.Undo(c.Context(), unit)
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
	if change.IsEmpty() {
		fmt.Fprintf(out, "nothing is written for %s\n", change.Service)
		return nil
	}
	for _, n := range change.Notes {
		fmt.Fprintln(notes, "appfw: note: "+printable(n))
	}
	done, err := change.Apply(c.Context())
	for _, path := range done.Wrote {
		fmt.Fprintf(out, "wrote %s\n", path)
	}
	for _, path := range done.Removed {
		fmt.Fprintf(out, "removed %s\n", path)
	}
	for _, unit := range done.Restarted {
		fmt.Fprintf(out, "restarted %s\n", unit)
	}
	for _, n := range done.Notes {
		fmt.Fprintln(notes, "appfw: "+printable(n))
	}
	restart := "systemctl restart " + units.ShellWords(done.Restart)
	switch {
	case err != nil || len(done.Restart) == 0:
	case len(done.Wrote) > 0:
		fmt.Fprintf(out, "%s is behind appfw from its next start on: %s\n", change.Service, restart)
	default:
		fmt.Fprintf(out, "%s runs as it was started, behind an appfw that has ended: %s\n", change.Service, restart)
	}
	return inFlags(err)
}

// forgetNamed deletes a namespace with what was written for it, if it is there.
func forgetNamed(name string) error {
	err := named.Delete(name)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, named.RemoveFiles(name))
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

// readPolicy reads a policy, and tells what units need to know of it.
func readPolicy(name string) (units.Policy, error) {
	host, err := inforce.ReadHostFiles()
	if err != nil {
		return units.Policy{}, err
	}
	var flags policyFlags
	flags.add("policy", name)
	l, err := flags.load(host.Host())
	if err != nil {
		return units.Policy{}, err
	}
	return units.Policy{
		Files: l.Files(),
		Admits: func(client netip.Addr, port uint16) bool {
			return l.Policy.DecideFrom(policy.TCP, client, port).Allowed()
		},
	}, nil
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
