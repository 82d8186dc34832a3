package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"appfw/policy"
	"appfw/proxy"
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
	c.Flags().StringVar(&flags.log, "log", "", "write one JSON object a decision to `FILE`; - is stderr")
	c.Flags().BoolVarP(&flags.quiet, "quiet", "q", false, "print no line for denied destinations")
	return c
}

// serveFlags are the flags of serve.
type serveFlags struct {
	policy policyFlags
	listen []string
	users  string
	anyone bool
	grace  time.Duration
	log    string
	quiet  bool
}

// serve serves until it is told to end.
func serve(flags serveFlags) error {
	host, report, err := startService(flags.log, flags.quiet)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)

	listeners, err := listenAll(flags)
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := &service{host: host, report: report, flags: flags, ctx: ctx, tenants: make(map[string]*tenant)}
	for _, l := range listeners {
		if tcp, ok := l.Addr().(*net.TCPAddr); ok {
			at := tcp.AddrPort()
			s.own = append(s.own, netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
		}
	}
	all, err := s.tenant("")
	if err != nil {
		return err
	}
	var admit func(string, string) *proxy.Proxy
	if flags.users != "" {
		if err := s.readUsers(); err != nil {
			return err
		}
		admit = s.admit
	}
	e := proxy.NewExplicit(all.rules.proxy, admit)
	var serving, clients sync.WaitGroup
	serving.Go(func() { e.Run(ctx) })
	for _, l := range listeners {
		if !flags.quiet {
			fmt.Fprintf(os.Stderr, "appfw: serving SOCKS and HTTP at %s\n", printable(listenerName(l)))
		}
		clients.Go(func() { e.Serve(ctx, l) })
	}
	serving.Go(func() { feedWatchdog(ctx, all.rules.proxy.Alive) })
	notify("READY=1\nSTATUS=Serving")
	for sig := range signals {
		if sig != unix.SIGHUP {
			break
		}
		notifyReloading()
		report.reopen()
		s.reload()
	}
	notify("STOPPING=1")
	for _, l := range listeners {
		l.Close()
	}
	e.Finish()
	ended := make(chan struct{})
	go func() { clients.Wait(); close(ended) }()
	late := time.NewTimer(flags.grace)
	defer late.Stop()
wait:
	for {
		select {
		case <-ended:
			break wait
		case <-late.C:
			break wait
		case sig := <-signals:
			if sig != unix.SIGHUP {
				break wait
			}
		}
	}
	cancel()
	clients.Wait()
	serving.Wait()
	s.work.Wait()
	return report.close()
}

// listenAll opens the listeners, all or none.
func listenAll(flags serveFlags) (listeners []net.Listener, err error) {
	passed, err := activation.Listeners() // by the service manager
	if err != nil {
		return nil, fmt.Errorf("take the sockets that were passed: %w", err)
	}
	if len(flags.listen)+len(passed) == 0 {
		return nil, errors.New("where to listen is not said: appfw serve --listen 127.0.0.1:1080 --allow example.com")
	}
	beyond := flags.users != "" || flags.anyone
	defer func() {
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			listeners = nil
		}
	}()
	for _, l := range passed {
		if l == nil {
			return listeners, errors.New("a socket that was passed is not one that listens for connections (ListenStream=)")
		}
		listeners = append(listeners, l)
		if tcp, ok := l.Addr().(*net.TCPAddr); ok && !beyond && !tcp.IP.IsLoopback() {
			return listeners, fmt.Errorf("the socket %s was passed: %w", l.Addr(), errBeyond)
		}
	}
	for _, s := range flags.listen {
		var l net.Listener
		if path, ok := strings.CutPrefix(s, "unix:"); ok {
			l, err = listenUnix(path)
		} else {
			l, err = listenTCP(s, beyond)
		}
		if err != nil {
			return listeners, fmt.Errorf("--listen %s: %w", s, err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

var errBeyond = errors.New("others than this host could use it; have them give a password (--users FILE), or say that anyone may (--anyone)")

// listenTCP listens at ADDR:PORT, which is of the loopback if not all may come.
func listenTCP(s string, beyond bool) (net.Listener, error) {
	at, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, errors.New("it is neither ADDR:PORT, as 127.0.0.1:1080 or [::1]:1080, nor unix:PATH")
	}
	if !beyond && !at.Addr().Unmap().IsLoopback() {
		return nil, errBeyond
	}
	lc := net.ListenConfig{KeepAlive: time.Minute}
	lc.SetMultipathTCP(false)
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	network := "tcp6" // and not IPv4 besides, as of package net's "tcp" with either 0.0.0.0 or ::
	if at.Addr().Is4() {
		network = "tcp4"
	}
	return lc.Listen(context.Background(), network, at.String())
}

// listenUnix listens at a socket that only this user may connect to. One that
// was left there by a process that has ended is replaced.
func listenUnix(path string) (net.Listener, error) {
	if path == "" || strings.HasPrefix(path, "@") {
		return nil, errors.New("a socket needs a path, which says who may connect")
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
			return nil, errors.New("another process listens there")
		}
		if errors.Is(err, unix.ECONNREFUSED) {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		}
	}
	before := unix.Umask(0o177)
	defer unix.Umask(before)
	return net.Listen("unix", path)
}

func listenerName(l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return "unix:" + l.Addr().String()
	}
	return l.Addr().String()
}

// service is what serve serves.
type service struct {
	host    hostConfig
	report  *reporter
	flags   serveFlags
	own     []netip.AddrPort // where it listens
	ctx     context.Context
	work    sync.WaitGroup
	tenants map[string]*tenant // by policy file; that of the flags is ""
	users   atomic.Pointer[map[string]proxyUser]
}

// tenant is a policy with those who use it.
type tenant struct {
	rules *live
	asked chan struct{} // to read the policy anew
}

// tenant is the one of a policy file; it is made if there is none yet.
func (s *service) tenant(file string) (*tenant, error) {
	if t := s.tenants[file]; t != nil {
		return t, nil
	}
	flags := s.flags.policy
	if file != "" {
		flags = policyFlags{lines: []policy.Line{{Word: "policy", Arg: file, Pos: policy.Pos{File: s.flags.users}}}}
	}
	t := &tenant{asked: make(chan struct{}, 1), rules: &live{flags: flags, host: s.host, report: s.report, check: s.check, come: true}}
	if _, err := t.rules.open(proxy.Config{Own: s.own, Shared: true}); err != nil {
		return nil, err
	}
	s.tenants[file] = t
	s.work.Go(func() { t.rules.watch(s.ctx, t.asked) })
	return t, nil
}

// check refuses policies that cannot be served.
func (s *service) check(l *loaded) error {
	if l.rules.Isolate == policy.IsolateProcess {
		return errors.New("isolate process: a client's processes are not known to a proxy; by isolate destination hosts are kept apart, and clients by the credentials that they give")
	}
	for _, chain := range l.chains {
		for _, at := range chain.First() {
			if proxy.Among(s.own, at) {
				return fmt.Errorf("the upstream %s is where appfw itself listens", chain)
			}
		}
	}
	return nil
}

// reload reads all files anew.
func (s *service) reload() {
	if s.flags.users != "" {
		if err := s.readUsers(); err != nil {
			s.report.reloaded("the users stay as they were: " + firstMistake(err))
		} else {
			for _, t := range s.tenants {
				t.rules.proxy.Recheck() // cuts those of users who are gone
			}
			s.report.reloaded("the users were read anew")
		}
	}
	for _, t := range s.tenants {
		if s.flags.users != "" && len(t.rules.current.Load().files) == 0 {
			continue // it is all on the command line, and something has been said
		}
		select {
		case t.asked <- struct{}{}:
		default: // it has been asked
		}
	}
}
