package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"appfw/netns"
	"appfw/netns/doctor"
	"appfw/netns/supervise"
	"appfw/policy"
	"appfw/policy/source"
	"appfw/proxy"
	"appfw/proxy/gateway"
	"appfw/proxy/inforce"
	"appfw/proxy/publish"
)

// gatewayCommand is proxy-run within its user namespace.
const gatewayCommand = "gateway"

func newGateway() *cobra.Command {
	var flags runFlags
	c := &cobra.Command{
		Use:    gatewayCommand,
		Hidden: true,
		Args:   needCommand,
		RunE: func(_ *cobra.Command, args []string) error {
			process, err := supervise.Inherit()
			if errors.Is(err, supervise.ErrNoSupervisor) {
				return errors.New("this command is for appfw itself; use appfw proxy-run")
			}
			if err != nil {
				return err
			}
			go func() {
				<-process.Orphaned // nobody would hear how it ends
				os.Exit(exitFailed)
			}()
			return serveApp(flags, args, process)
		},
	}
	flags.register(c)
	return c
}

// serveApp makes the namespaces, starts the app, and serves its network until
// it exits.
func serveApp(flags runFlags, args []string, process *supervise.Gateway) error {
	openFiles, err := netns.OpenFilesLimit()
	if err != nil {
		return err
	}
	ports, err := passedPorts(flags.publish, process)
	if err != nil {
		return err
	}
	host, err := inforce.ReadHostFiles()
	if err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("find the working directory: %w", err)
	}
	guard := guardOf(host, dir, flags.share)
	log, err := flags.output.open(func(name string) (*os.File, error) { return process.File(supervise.Log, name), nil })
	if err != nil {
		return err
	}
	report := flags.output.journal(log, host, flags.policy.explain)
	defer report.Close() // the exit code is the app's
	rules, g, err := openApp(judgedBy{flags.policy, source.SameUser(), host, report, len(ports) > 0, true, 0})
	if err != nil {
		return err
	}
	flags.policy.listens = func(p policy.Proto, port uint16) bool { return g.App.Listens(p == policy.UDP, port) }
	guard.Show(rules.Current().Policy.Settings().Shown)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	serving, failed := g.Serve(ctx, rules.Proxy, ports, flags.policy.explain)
	supervise.KeepThreads()
	scope, err := netns.OpenScope()
	if err != nil {
		report.Note(doctor.Unscoped(err))
	}
	program, err := process.Start(func(begun func()) (supervise.Child, error) {
		child, err := g.App.Start(netns.Command{
			Args: args, Env: appEnv(flags.proxyEnv), Dir: dir,
			Files: [3]*os.File{os.Stdin, os.Stdout, os.Stderr},
			View:  guard, Kept: process.Kept(), Refused: func(what netns.Refused) { report.Note(refusals[what]) },
			Scope: scope, Ignored: process.Ignored(), OpenFiles: openFiles, Begun: begun,
		})
		if err != nil {
			return supervise.Child{}, err
		}
		return supervise.Child(*child), nil
	})
	if err != nil {
		return explainStart(err)
	}
	go func() {
		// A gateway that fails is closed: the app has no network from here on.
		err := <-failed
		report.Say("the gateway failed, so the app has no network now: " + err.Error())
		cancel()
	}()
	// What the gateway does for one packet is short, and on few processors its
	// idle threads, which spin for work, take time from the app itself.
	runtime.GOMAXPROCS(max(1, runtime.GOMAXPROCS(0)/2))
	serving.Go(func() { rules.Watch(ctx, process.Reload) })
	serving.Go(func() { guard.Run(ctx, g.App, sharing(report, flags.output.quiet)) })
	ended, err := program.Wait()
	program.Finish(func(ctx context.Context) { g.Drain(ctx, rules.Proxy, program.Delivering) }, cancel, serving.Wait, func() { _ = report.Close() })
	if err != nil {
		return &exitError{code: exitFailed}
	}
	return &exitError{code: ended.ShellCode()} // the supervisor has been told, and ends as the app did
}

// passedPorts are the published ports, which the supervisor has opened.
func passedPorts(flags []string, process *supervise.Gateway) ([]*proxy.Published, error) {
	published, err := publish.Parse(flags)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, p := range published {
		files = append(files, process.File(supervise.Port, p.Text))
	}
	return publish.Intakes(published, files)
}

// openApp reads the policy, and meanwhile makes the namespaces.
func openApp(by judgedBy) (rules *inforce.Policy, g *gateway.Gateway, err error) {
	var app *netns.Namespace
	var isolation error
	err = netns.Parallel(
		func() (err error) { rules, err = judged(by, &app); return err },
		func() error { g, isolation = gateway.Open(netns.New); return nil },
	)
	switch {
	case err != nil: // before what the machine cannot do: that is of no use then
		return nil, nil, err
	case isolation != nil:
		return nil, nil, cannotIsolate(isolation, netns.Explain(isolation))
	}
	app = g.App
	return rules, g, nil
}

// explainStart says why the app could not be started.
func explainStart(err error) error {
	if exec, ok := errors.AsType[*netns.ExecError](err); ok {
		if errors.Is(err, os.ErrNotExist) {
			return &exitError{exitNotFound, exec}
		}
		return &exitError{exitNotExecutable, exec}
	}
	if dir, ok := errors.AsType[*netns.DirError](err); ok {
		return fmt.Errorf("the command was not run, as its user cannot %w; start appfw in another directory", dir)
	}
	return cannotIsolate(err, netns.Explain(err))
}
