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
	"appfw/policy/source"
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
	published, err := publish.Parse(flags.publish)
	if err != nil {
		return err
	}
	var files []*os.File
	for _, p := range published {
		files = append(files, process.File(supervise.Port, p.Text))
	}
	ports, err := publish.Intakes(published, files)
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
	report := flags.output.journal(log, host)
	defer report.Close() // the exit code is the app's
	var app *netns.Namespace

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var rules *inforce.Policy
	var g *gateway.Gateway
	var isolation error
	err = netns.Parallel(
		func() (err error) {
			rules, err = judged(judgedBy{flags.policy, source.SameUser(), host, report, len(published) > 0, true, 0}, &app)
			return err
		},
		func() error { g, isolation = gateway.Open(netns.New); return nil },
	)
	if err != nil {
		return err
	}
	if isolation != nil {
		return cannotIsolate(isolation)
	}
	app = g.App
	p := rules.Proxy

	guard.Show(rules.Current().Policy.Settings().Shown)
	scope, err := netns.OpenScope()
	if err != nil {
		report.Note(doctor.Unscoped(err))
	}
	serving, failed := g.Serve(ctx, p, ports, explain)
	supervise.KeepThreads()
	program, err := process.Start(func(begun func()) (supervise.Child, error) {
		child, err := g.App.Start(netns.Command{
			Args: args, Env: appEnv(flags.proxyEnv), Dir: dir,
			Files: [3]*os.File{os.Stdin, os.Stdout, os.Stderr},
			View:  guard,
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
	program.Finish(func(ctx context.Context) { g.Drain(ctx, p, program.Delivering) }, cancel, serving.Wait, func() { _ = report.Close() })
	if err != nil {
		return &exitError{code: exitFailed}
	}
	return &exitError{code: ended.ShellCode()} // the supervisor has been told, and ends as the app did
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
	return cannotIsolate(err)
}
