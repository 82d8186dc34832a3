package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"appfw/netns"
)

const runExamples = `  appfw proxy-run --allow example.com -- curl https://example.com
  appfw run --allow '*.debian.org:80' --allow localhost:5432 -- make test
  appfw run --policy build.policy --log build.json -- npm ci
  appfw run --deny any/udp --deny @blocklist.txt -- ./game
  sudo appfw run --user nobody --allow 10.0.0.0/24 -- nc 10.0.0.7 80`

func newRun() *cobra.Command {
	var flags runFlags
	c := &cobra.Command{
		Use:     "proxy-run [flags] -- CMD [ARG]...",
		Aliases: []string{"run"},
		Short:   "Run a program under a policy",
		Long: `Run CMD in a network namespace of its own, from which it reaches only what the
policy allows: by domain name, by address, or both. Without rules it reaches
nothing. The exit code is CMD's; 128+n if signal n ended it; 125 if appfw
failed and CMD was not run, 126 if CMD cannot be executed, 127 if there is none.
SIGHUP has appfw read its files anew.`,
		Example:               runExamples,
		Args:                  needCommand,
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			if flags.user == "" && c.Flags().Changed("user") {
				return errors.New("--user: the user is empty") // of an unset variable; and not root
			}
			return supervise(flags, args)
		},
	}
	flags.register(c)
	return c
}

// runFlags are the flags of proxy-run.
type runFlags struct {
	policy policyFlags
	log    string
	quiet  bool
	user   string
	// proxyEnv has the program told of the explicit proxy.
	proxyEnv bool
	publish  []string
}

func (f *runFlags) register(c *cobra.Command) {
	c.Flags().SetInterspersed(false) // what follows CMD is CMD's
	f.policy.register(c)
	c.Flags().StringVar(&f.log, "log", "", "write one JSON object a decision to `FILE`; - is stderr")
	c.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "print no line for denied destinations")
	c.Flags().StringArrayVar(&f.publish, "publish", nil, "let clients of the host's `PORT` come to CMD: [ADDR:]HOSTPORT:PORT[/udp] (or fd:NAME:PORT, a socket that is passed); without ADDR, this host's alone")
	c.Flags().BoolVar(&f.proxyEnv, "proxy-env", false, "set ALL_PROXY, HTTP_PROXY, HTTPS_PROXY and NO_PROXY for CMD, to appfw's own proxy")
	c.Flags().StringVar(&f.user, "user", "", "as root: run CMD as `USER`, a name or uid (without it: who called sudo)")
}

func needCommand(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("no command to run; it follows the flags: appfw proxy-run --allow example.com -- curl https://example.com")
	}
	return nil
}

// Descriptors that the gateway inherits.
const (
	// controlFD is its end of the socket between it and the supervisor. One
	// byte a message: from the supervisor, a signal for the app or askReload;
	// from the gateway, the signal that stopped it.
	controlFD = 3
	// askReload asks for the policy to be read anew. No signal has the number.
	askReload = 0
	logFD     = 4 // the file of --log, if there is one; the published ports follow
)

// portsFD is the first of the published ports.
func (f *runFlags) portsFD() int {
	if f.log == "" || f.log == "-" {
		return logFD
	}
	return logFD + 1
}

// supervise starts the gateway, which starts the app, and stands for the app
// before whoever called: it passes on signals, stops when the app stops, and
// exits as it did. Of the rights it was started with, it uses those to choose
// the user and to open the log.
func supervise(flags runFlags, args []string) error {
	runtime.LockOSThread() // the gateway ends with this thread (Pdeathsig)
	ports, err := parsePublishes(flags.publish)
	if err != nil {
		return err
	}
	passed := activation.Files(true)
	// What was inherited beyond stderr is not the app's.
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close inherited descriptors: %w", err)
	}
	for _, f := range []*os.File{os.Stdin, os.Stdout, os.Stderr} {
		if err := checkInherited(f); err != nil {
			return err
		}
	}
	user, err := appUser(flags.user)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 64)
	for _, s := range forwarded {
		if !signal.Ignored(s) { // as nohup(1) does it: the app inherits that
			signal.Notify(signals, s)
		}
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open control socket: %w", err)
	}
	control := os.NewFile(uintptr(pair[0]), "control")
	gateway := os.NewFile(uintptr(pair[1]), "control")

	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{os.Args[0], gatewayCommand}, os.Args[2:]...)
	cmd.Env = userEnv(os.Environ(), user)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{gateway}
	if flags.log != "" && flags.log != "-" {
		log, err := appendLog(flags.log)
		if err != nil {
			return fmt.Errorf("--log: %w", err)
		}
		defer log.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, log)
	}
	published, err := openPorts(ports, passed)
	if err != nil {
		return err
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, published...)
	netns.InUserNamespace(cmd, user)
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	if err := cmd.Start(); err != nil {
		return cannotIsolate(err)
	}
	gateway.Close()
	for _, f := range published {
		f.Close() // with the gateway, the ports are gone
	}

	go passSignals(signals, control)
	go mirrorStops(control)
	err = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return &exitError{exitFailed, fmt.Errorf("the gateway was ended by %v; %s has no network now", status.Signal(), printable(args[0]))}
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return &exitError{code: exit.ExitCode()}
	}
	return err
}

// checkInherited refuses descriptors that lead out of the app's network or view:
// a socket can be connected anew, and a directory shows the host's files. A
// connected AF_UNIX stream is no more than a pipe.
func checkInherited(f *os.File) error {
	fd := int(f.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil // closed, and the app gets it closed
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return fmt.Errorf("%s is a directory, by which the program would see files that are hidden from it; redirect it", f.Name())
	case unix.S_IFSOCK:
		domain, derr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		kind, kerr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		_, perr := unix.Getpeername(fd)
		if derr != nil || kerr != nil || perr != nil || domain != unix.AF_UNIX || kind != unix.SOCK_STREAM {
			return fmt.Errorf("%s is a socket, by which the program would reach the network; put a pipe before it: cat | appfw run … | cat", f.Name())
		}
	}
	return nil
}

// cannotIsolate explains why there is no user namespace.
func cannotIsolate(err error) error {
	if hint := netns.ExplainUserNamespace(err); hint != "" {
		return fmt.Errorf("cannot isolate the command, so it was not run: %w\n%s\n(appfw doctor tells more)", err, hint)
	}
	return fmt.Errorf("cannot isolate the command, so it was not run: %w (appfw doctor tells more)", err)
}

// forwarded are the signals that mean the app. Of those a terminal sends, the
// app has its own copy.
var forwarded = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2,
	unix.SIGALRM, unix.SIGVTALRM, unix.SIGTSTP, unix.SIGCONT, unix.SIGTTIN, unix.SIGTTOU, unix.SIGWINCH,
}

// passSignals passes the signals on that this process alone got.
func passSignals(signals <-chan os.Signal, control *os.File) {
	leads := leadsTerminal()
	for s := range signals {
		sig := s.(syscall.Signal)
		if ofTerminal[sig] && inForeground() {
			continue
		}
		message := byte(sig)
		if sig == unix.SIGHUP && !(leads && !hasTerminal()) {
			message = askReload // else the terminal hung up, and only its session's leader hears of it
		}
		if _, err := control.Write([]byte{message}); err != nil {
			return // the gateway has ended
		}
	}
}

// ofTerminal are the signals that a terminal sends to its foreground group, and
// so to the app.
var ofTerminal = map[syscall.Signal]bool{
	unix.SIGINT: true, unix.SIGQUIT: true, unix.SIGTSTP: true, unix.SIGWINCH: true,
	unix.SIGTTIN: true, unix.SIGTTOU: true,
}

// leadsTerminal tells whether this process leads the session of a terminal.
func leadsTerminal() bool {
	session, err := unix.Getsid(0)
	return err == nil && session == os.Getpid() && hasTerminal()
}

// hasTerminal tells whether there is a terminal that has not hung up.
func hasTerminal() bool {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
	if err == nil {
		tty.Close()
	}
	return err == nil
}

// inForeground tells whether the process group is the terminal's foreground one.
func inForeground() bool {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// mirrorStops stops this process whenever the app stopped, so that a shell sees
// its job stopped. SIGCONT continues both.
func mirrorStops(control *os.File) {
	var b [1]byte
	for {
		if n, err := control.Read(b[:]); n == 0 || err != nil {
			return
		}
		_ = unix.Kill(unix.Getpid(), unix.SIGSTOP)
	}
}
