package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/proxy"
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
			if _, err := unix.GetsockoptInt(controlFD, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
				return errors.New("this command is for appfw itself; use appfw proxy-run")
			}
			_ = unix.SetNonblock(controlFD, true) // to wait for it takes no processor
			control := os.NewFile(controlFD, "control")
			return serveApp(flags, args, control)
		},
	}
	flags.register(c)
	return c
}

// serveApp makes the namespaces, starts the app, and serves its network until
// it exits.
func serveApp(flags runFlags, args []string, control *os.File) error {
	runtime.LockOSThread() // keeps the main thread, of which /proc/self speaks, from other work
	unix.CloseOnExec(controlFD)
	unix.CloseOnExec(logFD)
	published, err := parsePublishes(flags.publish)
	if err != nil {
		return err
	}
	var files []*os.File
	for i, p := range published {
		unix.CloseOnExec(flags.portsFD() + i)
		files = append(files, os.NewFile(uintptr(flags.portsFD()+i), p.flag))
	}
	ports, err := asPorts(published, files)
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid others to look into the gateway: %w", err)
	}
	_ = os.WriteFile("/proc/thread-self/comm", []byte("appfw"), 0) // for ps(1); it says "exe" otherwise

	host, err := readHost()
	if err != nil {
		return err
	}
	log, err := openLog(flags.log, func() (*os.File, error) { return os.NewFile(logFD, flags.log), nil })
	if err != nil {
		return err
	}
	report := newReporter(log, flags.quiet, host.resolv)
	rules := &live{flags: flags.policy, host: host, report: report, theirs: sameUser, come: len(published) > 0, hidden: true}
	var app *netns.Namespace
	dir, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("find the working directory: %w", err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var first *loaded
	var g *gateway
	var isolation error
	err = parallel(
		func() (err error) {
			first, err = rules.open(proxy.Config{Owner: func(proto uint8, src, dst netip.AddrPort) string { return app.Owner(proto, src, dst) }})
			return err
		},
		func() error { g, isolation = openGateway(netns.New); return nil },
	)
	if err != nil {
		return err
	}
	if isolation != nil {
		return cannotIsolate(isolation)
	}
	app = g.app
	p := rules.proxy

	serving, failed := g.serve(ctx, p, ports)
	watch := newAppSignals()
	pid, err := g.app.Start(netns.Command{
		Args: args, Env: appEnv(flags.proxyEnv), Dir: dir,
		Files: [3]*os.File{os.Stdin, os.Stdout, os.Stderr},
		View:  appView(host, first.rules.Shown),
	})
	if exec, ok := errors.AsType[*netns.ExecError](err); ok {
		if errors.Is(err, os.ErrNotExist) {
			return &exitError{exitNotFound, exec}
		}
		return &exitError{exitNotExecutable, exec}
	}
	if dir, ok := errors.AsType[*netns.DirError](err); ok {
		return fmt.Errorf("the command was not run, as its user cannot %w; start appfw in another directory", dir)
	}
	if err != nil {
		return cannotIsolate(err)
	}
	go func() {
		// A gateway that fails is closed: the app has no network from here on.
		err := <-failed
		fmt.Fprintln(os.Stderr, "appfw: the gateway failed, so the app has no network now:", printable(err.Error()))
		cancel()
	}()
	// What the gateway does for one packet is short, and on few processors its
	// idle threads, which spin for work, take time from the app itself.
	runtime.GOMAXPROCS(max(1, runtime.GOMAXPROCS(0)/2))
	asked := make(chan struct{}, 1)
	go watch.pass(pid, control, asked)
	serving.Go(func() { rules.watch(ctx, asked) })
	status := await(pid, control)
	g.drain(p)
	cancel()
	serving.Wait()
	_ = report.close() // the exit code is the app's
	if status.Signaled() {
		return &exitError{code: 128 + int(status.Signal())}
	}
	return &exitError{code: status.ExitStatus()}
}

// gateway is what one app's network consists of.
type gateway struct {
	app            *netns.Namespace
	gate, loopback *netns.Gate
	tcp53          []net.Listener
	udp53          []*net.UDPConn
}

// openGateway makes the gateway's namespace, has the app's made or opened, and
// opens all that takes in the app's flows. Nothing needs to be closed: it ends
// with the process.
func openGateway(app func() (*netns.Namespace, error)) (*gateway, error) {
	var outer *netns.Namespace
	g := new(gateway)
	err := parallel(
		func() (err error) { outer, err = netns.New(); return err },
		func() (err error) { g.app, err = app(); return err },
	)
	if err != nil {
		return nil, err
	}
	ipv6, err := netns.Connect(outer, g.app)
	if err != nil {
		return nil, err
	}
	err = parallel(
		func() (err error) { g.gate, err = netns.OpenGateway(outer, ipv6); return err },
		func() (err error) { g.loopback, err = netns.OpenLoopback(g.app, ipv6); return err },
	)
	if err != nil {
		return nil, err
	}
	g.tcp53, g.udp53, err = netns.ListenDNS(outer, ipv6)
	return g, err
}

// serve serves all that comes by the gateway until ctx ends, when the wait group
// is done. What fails before is sent to failed.
func (g *gateway) serve(ctx context.Context, p *proxy.Proxy, ports []proxy.Published) (serving *sync.WaitGroup, failed <-chan error) {
	serving = new(sync.WaitGroup)
	errs := make(chan error, 3+len(ports))
	serve := func(what string, run func() error) {
		serving.Go(func() {
			if err := run(); err != nil && ctx.Err() == nil {
				errs <- fmt.Errorf("%s: %w", what, err)
			}
		})
	}
	serve("resolver", func() error { return p.Guard.Serve(ctx, g.tcp53, g.udp53) })
	serve("gateway", func() error { return p.Serve(ctx, g.gate) })
	serve("loopback", func() error { return p.Serve(ctx, g.loopback) })
	for _, port := range ports {
		serve("publish", func() error { return p.Publish(ctx, port, proxy.Inward{Veth: g.gate, Loopback: g.loopback}) })
	}
	return serving, errs
}

// drain lets the last packets of an app that has exited be judged and recorded,
// and what it sent be delivered.
func (g *gateway) drain(p *proxy.Proxy) {
	judging, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	g.gate.Drain(judging, g.app)
	g.loopback.Drain(judging, g.app)
	delivering, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	p.Linger(delivering, func() map[netns.Connection]bool {
		closing, _ := g.app.Closing() // without, only what has come whole is waited for
		return closing
	})
}

// parallel runs the functions at the same time and joins their errors.
func parallel(fns ...func() error) error {
	errs := make([]error, len(fns))
	var all sync.WaitGroup
	for i, fn := range fns {
		all.Go(func() { errs[i] = fn() })
	}
	all.Wait()
	return errors.Join(errs...)
}

// await waits for the app, and tells the supervisor whenever it stops. It waits by
// signals: wait4(2) would keep a processor from the gateway, which may have only one, until the
// runtime notices, after up to 20 ms.
func await(pid int, control *os.File) syscall.WaitStatus {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGCHLD)
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(pid, &status, syscall.WUNTRACED|syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil: // cannot be: it is our child and nobody else waits
			return syscall.WaitStatus(exitFailed << 8)
		case got == 0:
			<-changed
		case status.Stopped():
			_, _ = control.Write([]byte{byte(status.StopSignal())})
		default:
			return status
		}
	}
}

// appSignals tells signals that a whole process group got, the app included,
// from those that only the supervisor got.
type appSignals struct{ last [65]atomic.Int64 }

// sameSignal is how long after this process got a signal itself the same one
// from the supervisor is taken for a copy.
const sameSignal = time.Second

// newAppSignals keeps signals that mean the app from ending this process.
func newAppSignals() *appSignals {
	w := new(appSignals)
	c := make(chan os.Signal, 64)
	for _, s := range forwarded {
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
	go func() {
		for s := range c {
			w.last[s.(syscall.Signal)].Store(time.Now().UnixNano())
		}
	}()
	return w
}

// pass sends the app the signals that the supervisor passes on, and asks for a
// reload when it does. If the supervisor is gone, so is the app's network.
func (w *appSignals) pass(pid int, control *os.File, asked chan<- struct{}) {
	var b [1]byte
	for {
		if n, err := control.Read(b[:]); n == 0 || err != nil {
			os.Exit(exitFailed)
		}
		sig := syscall.Signal(b[0])
		if b[0] == askReload {
			select {
			case asked <- struct{}{}:
			default: // it has been asked for
			}
			continue
		}
		if sig != unix.SIGCONT && time.Since(time.Unix(0, w.last[sig].Load())) < sameSignal {
			continue
		}
		_ = unix.Kill(pid, sig) // not reaped yet, so the pid is the app's
	}
}
