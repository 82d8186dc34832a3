package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/cobra"

	"appfw/netns"
	"appfw/netns/supervise"
	"appfw/netns/view"
	"appfw/proxy/journal"
	"appfw/proxy/publish"
)

const runExamples = `  appfw proxy-run --allow example.com -- curl https://example.com
  appfw run --allow '*.debian.org:80' --allow localhost:5432 -- make test
  appfw run --policy build.policy --log build.json -- npm ci
  appfw run --share display,sound --deny private --deny @blocklist.txt -- ./game
  appfw run --share display,sound --allow .example.com -- firefox --no-remote
  appfw run --share ssh-agent --allow github.com:22 -- git fetch
  sudo appfw run --user nobody --allow 10.0.0.0/24 -- nc 10.0.0.7 80`

func newRun() *cobra.Command {
	var flags runFlags
	c := &cobra.Command{
		Use:     "proxy-run [flags] -- CMD [ARG]...",
		Aliases: []string{"run"},
		Short:   "Run a program under a policy",
		Long: `Run CMD in a network namespace of its own, from which it reaches only what the
policy allows: by domain name, by address, or both. Without rules it reaches
nothing. The exit code is CMD's, and appfw ends by the signal by which CMD did;
125 if appfw failed and CMD was not run, 126 if CMD cannot be executed, 127 if
there is none. Signals that appfw gets are passed on to CMD, but for SIGHUP, which
has appfw read its files anew.`,
		Example:               runExamples,
		Args:                  needCommand,
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			if flags.user == "" && c.Flags().Changed("user") {
				return errors.New("--user: the user is empty") // of an unset variable; and not root
			}
			return run(flags, args)
		},
	}
	flags.register(c)
	return c
}

// runFlags are the flags of proxy-run.
type runFlags struct {
	policy policyFlags
	output outputFlags
	user   string
	// proxyEnv has the program told of the explicit proxy.
	proxyEnv bool
	publish  []string
	share    []string
}

func (f *runFlags) register(c *cobra.Command) {
	c.Flags().SetInterspersed(false) // what follows CMD is CMD's
	f.policy.register(c)
	f.output.register(c)
	c.Flags().StringArrayVar(&f.publish, "publish", nil, "let clients of the host's `PORT` come to CMD: [ADDR:]HOSTPORT:PORT[/udp] (or fd:NAME:PORT, a socket that is passed); without ADDR, this host's alone")
	c.Flags().BoolVar(&f.proxyEnv, "proxy-env", false, "set ALL_PROXY, HTTP_PROXY, HTTPS_PROXY and NO_PROXY for CMD, to appfw's own proxy")
	c.Flags().StringSliceVar(&f.share, "share", nil, "show CMD `WHAT` of the desktop, as a comma-separated list: "+strings.Join(view.Share, ", "))
	c.Flags().StringVar(&f.user, "user", "", "as root: run CMD as `USER`, a name or uid (without it: who called sudo)")
}

func needCommand(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("no command to run; it follows the flags: appfw proxy-run --allow example.com -- curl https://example.com")
	}
	return nil
}

// run starts the gateway, which starts the app, and stands for the app before whoever
// called. Of the rights it was started with, it uses those to choose the user, to open
// the log and the published ports.
func run(flags runFlags, args []string) error {
	ports, err := publish.Parse(flags.publish)
	if err != nil {
		return err
	}
	if err := mayShare(flags.share); err != nil {
		return err
	}
	listening := activation.Files(true)
	user, err := appUser(flags.user)
	if err != nil {
		return err
	}
	var passed supervise.Passed
	if flags.output.log != "" && flags.output.log != "-" {
		log, err := openLog(flags.output.log, user) // which may wait for a FIFO, and ends by a signal then
		if err != nil {
			return fmt.Errorf("--log: %w", err)
		}
		passed.Add(supervise.Log, log)
	}
	supervisor, err := supervise.NewSupervisor()
	if err != nil {
		return err
	}
	published, err := publish.Open(ports, listening, nil)
	if err != nil {
		return err
	}
	for _, f := range published {
		passed.Add(supervise.Port, f)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{os.Args[0], gatewayCommand}, os.Args[2:]...)
	cmd.Env = view.OfUser(os.Environ(), user)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	netns.InUserNamespace(cmd, user)
	if err := supervisor.Start(cmd, passed); err != nil {
		return cannotIsolate(err, netns.ExplainUserNamespace(err))
	}
	ended, err := supervisor.Wait()
	if killed, ok := errors.AsType[*supervise.KilledError](err); ok {
		return &endError{ended, fmt.Errorf("%w, and %s with it", killed, printable(args[0]))}
	}
	if err != nil {
		return err
	}
	return &endError{Ending: ended}
}

// openLog opens the log of a program of a user's; nil is this process's.
func openLog(name string, user *netns.User) (*os.File, error) {
	if user == nil {
		return journal.OpenLog(name)
	}
	return journal.OpenLogOf(name, func(fn func() error) error { return netns.As(user, fn) })
}

// cannotIsolate says why the program was not run, and what to do about it, if that is known.
func cannotIsolate(err error, hint string) error {
	if hint != "" {
		return fmt.Errorf("cannot isolate the command, so it was not run: %w\n%s\n(appfw doctor tells more)", err, hint)
	}
	return fmt.Errorf("cannot isolate the command, so it was not run: %w (appfw doctor tells more)", err)
}
