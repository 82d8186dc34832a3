package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/cobra"

	"appfw/netns/route"
	"appfw/netns/supervise"
	"appfw/netns/units"
	"appfw/proxy/explicit"
	"appfw/proxy/tenants"
)

const serveExamples = `  appfw serve --listen 127.0.0.1:1080 --policy build.policy
  appfw serve --listen 127.0.0.1:1080 --upstream tor --allow any
  appfw serve --listen unix:/run/user/1000/appfw --allow .debian.org
  appfw serve --listen 192.0.2.7:1080 --users /etc/appfw/users`

func newServe() *cobra.Command {
	var flags serveFlags
	c := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Serve a proxy (SOCKS5, SOCKS4a, HTTP) under a policy",
		Long: `Serve a proxy under a policy: SOCKS5 and 4a, HTTP CONNECT and plain HTTP, told
apart by the first byte of a connection. SIGHUP has appfw read its files anew;
SIGTERM and SIGINT end it when its connections have ended, or after the time of
--grace.`,
		Example: serveExamples,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("serve runs no command: %q is too much (appfw run does)", args[0])
			}
			return nil
		},
		DisableFlagsInUseLine: true,
		RunE: func(*cobra.Command, []string) error {
			if flags.grace < 0 {
				return fmt.Errorf("--grace %v: it is less than nothing", flags.grace)
			}
			return serve(flags)
		},
	}
	flags.policy.register(c)
	c.Flags().StringArrayVar(&flags.listen, "listen", nil, "listen at `ADDRESS`: ADDR:PORT or unix:PATH; may be repeated")
	c.Flags().StringVar(&flags.users, "users", "", "let in only users of `FILE`: NAME PASSWORD [POLICY] a line; with POLICY, that file is all that holds for one")
	c.Flags().BoolVar(&flags.anyone, "anyone", false, "listen beyond this host without --users: whoever reaches the port may use it")
	c.Flags().DurationVar(&flags.grace, "grace", 10*time.Second, "how long connections may go on when it is told to end, a `TIME` as 5s or 1m")
	flags.output.register(c)
	return c
}

// serveFlags are the flags of serve.
type serveFlags struct {
	policy policyFlags
	listen []string
	users  string
	anyone bool
	grace  time.Duration
	output outputFlags
}

// open opens what clients connect to, or takes it from the service manager.
func (f *serveFlags) open() (explicit.Listeners, error) {
	passed, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take the sockets that were passed: %w", err)
	}
	if len(f.listen)+len(passed) == 0 {
		return nil, errors.New("where to listen is not said: appfw serve --listen 127.0.0.1:1080 --allow example.com")
	}
	listeners, err := explicit.ListenAll("--listen", f.listen, passed, f.users != "" || f.anyone)
	if errors.Is(err, explicit.ErrBeyond) {
		err = fmt.Errorf("%w; have them give a password (--users FILE), or say that anyone may (--anyone)", err)
	}
	return listeners, err
}

// serve serves until it is told to end.
func serve(flags serveFlags) (err error) {
	host, report, err := flags.output.startService(flags.policy.explain)
	if err != nil {
		return err
	}
	defer closeService(report, flags.output.log != "", &err)
	told := supervise.TakeOrders()
	listeners, err := flags.open()
	if err != nil {
		return err
	}
	defer listeners.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	routes := route.New()
	defer routes.Close()
	who := tenants.New(tenants.Config{
		Lines: flags.policy.lines, Users: flags.users, Option: "--users",
		Host: host.Host(), Journal: report, Own: listeners.Addrs(), Routes: routes,
	})
	all, err := who.Open(ctx)
	if err != nil {
		return err
	}
	c := explicit.Config{Proxy: all.Proxy, Explain: flags.policy.explain}
	if flags.users != "" {
		c.Admit = who.Admit
	}
	e := explicit.New(c)
	var serving, clients sync.WaitGroup
	serving.Go(func() { e.Run(ctx) })
	for _, l := range listeners {
		if !flags.output.quiet {
			report.Say("serving SOCKS and HTTP at " + explicit.ListenerName(l))
		}
		clients.Go(func() { e.ServeListener(ctx, l) })
	}
	serving.Go(func() { units.FeedWatchdog(ctx, all.Proxy.Alive) })
	units.Notify("READY=1\nSTATUS=Serving")
	told.Allow(flags.grace)
	for running := true; running; {
		select {
		case <-told.End:
			running = false
		case <-told.Reload:
			units.NotifyReloading()
			report.Reopen()
			who.Reload(ctx)
		}
	}
	units.Notify("STOPPING=1")
	listeners.Close()
	e.Finish()
	awaitClients(&clients, flags.grace, told)
	cancel()
	supervise.Within(servingTime, func() {
		clients.Wait()
		serving.Wait()
		who.Wait()
	})
	return nil
}

// awaitClients waits until all clients have left, for grace at most, or until it is told
// again to end.
func awaitClients(clients *sync.WaitGroup, grace time.Duration, told *supervise.Orders) {
	ended := make(chan struct{})
	go func() { clients.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(grace):
	case <-told.Now:
	}
}
