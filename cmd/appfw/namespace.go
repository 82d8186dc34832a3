package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/netns/supervise"
	"appfw/netns/units"
	"appfw/proxy"
	"appfw/proxy/gateway"
	"appfw/proxy/inforce"
	"appfw/proxy/journal"
	"appfw/proxy/publish"
)

// pinLife is how long an address stays open that a program was given for a name, in a
// namespace whose programs come and go, and that no program uses. Some resolve names
// when they start, and then run for months (nginx, JVMs): a week without a connection
// is rare for them. An address that was somebody else's for longer is closed.
const pinLife = 7 * 24 * time.Hour

// namespaceFlags are the flags of what serves a namespace that programs come to
// by themselves.
type namespaceFlags struct {
	policy  policyFlags
	publish []string
	output  outputFlags
	leaky   bool
}

func (f *namespaceFlags) register(c *cobra.Command) {
	f.policy.register(c)
	c.Flags().StringArrayVar(&f.publish, "publish", nil, "let clients of the host's `PORT` come to the namespace: [ADDR:]HOSTPORT:PORT[/udp]; without ADDR, this host's alone")
	f.output.register(c)
}

// serveNamespace serves a namespace until told to end, or until the process with the
// id has ended, if it is not 0.
func serveNamespace(flags namespaceFlags, path string, pid int) (err error) {
	published, err := publish.Parse(flags.publish)
	if err != nil {
		return err
	}
	host, report, err := flags.output.startService(flags.policy.explain) // which may wait for a FIFO, and ends by a signal then
	if err != nil {
		return err
	}
	defer closeService(report, flags.output.log != "", &err)
	told := supervise.TakeOrders()
	var process *supervise.Process
	if pid != 0 {
		if process, err = supervise.OpenProcess(pid); err != nil {
			return noNamespace(path, err)
		}
		defer process.Close()
	}
	var app *netns.Namespace
	rules, err := judged(judgedBy{flags.policy, inforce.WritersIn(path), host, report, len(published) > 0, false, pinLife}, &app)
	if err != nil {
		return err
	}
	files, err := publish.Open(published, activation.Files(true), func(p publish.Port) {
		report.Say("--publish " + p.Text + ": this host has no such address yet; clients come when it has")
	})
	if err != nil {
		return err
	}
	ports, err := publish.Intakes(published, files)
	if err != nil {
		return err
	}
	g, err := gateway.Open(func() (*netns.Namespace, error) { return takeNamespace(path, process, flags.leaky) })
	if err != nil {
		return err
	}
	app = g.App
	defer func() { err = errors.Join(err, g.App.Leave()) }()
	if process != nil {
		go func() {
			if process.Ended() {
				told.Stop()
			}
		}()
	}
	if err := netns.KeepCapabilities(); err != nil {
		return err
	}
	return flags.serve(g, rules, ports, path, report, told)
}

// serve serves what is open until told to end.
func (f *namespaceFlags) serve(g *gateway.Gateway, rules *inforce.Policy, ports []*proxy.Published, path string, report *journal.Journal, told *supervise.Orders) (err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	serving, failed := g.Serve(ctx, rules.Proxy, ports, f.policy.explain)
	asked := make(chan struct{}, 1)
	serving.Go(func() { rules.Watch(ctx, asked) })
	serving.Go(func() { units.FeedWatchdog(ctx, rules.Proxy.Alive) })
	if !f.output.quiet {
		report.Say("serving the namespace " + path)
	}
	units.Notify("READY=1\nSTATUS=Serving " + printable(path)) // a line is an assignment
	for running := true; running; {
		select {
		case <-told.End:
			running = false
		case <-told.Reload:
			units.NotifyReloading()
			report.Reopen()
			select {
			case asked <- struct{}{}:
			default: // it has been asked
			}
		case err = <-failed:
			running = false
			supervise.EndBy(unix.SIGTERM, supervise.EndTime)
		}
	}
	units.Notify("STOPPING=1")
	cancel()
	supervise.Within(servingTime, serving.Wait)
	return err
}

// takeNamespace opens a namespace that has no other way out. It is that of a process, if
// there is one, and not of another that has got its number.
func takeNamespace(path string, process *supervise.Process, leaky bool) (*netns.Namespace, error) {
	ns, err := netns.Open(path)
	if err == nil && process != nil && !process.Lives() {
		err = errors.Join(unix.ESRCH, ns.Close())
	}
	if err != nil {
		return nil, noNamespace(path, err)
	}
	others, err := ns.Take()
	if err == nil && len(others) > 0 && !leaky {
		err = fmt.Errorf("it has other devices than the loopback, by which programs would go past appfw: %s (--leaky if that is meant)", strings.Join(others, ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ns, nil
}
