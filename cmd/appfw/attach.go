package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/proxy"
)

// namespaceFlags are the flags of what serves a namespace that programs come to
// by themselves.
type namespaceFlags struct {
	policy  policyFlags
	publish []string
	log     string
	quiet   bool
	leaky   bool
}

func (f *namespaceFlags) register(c *cobra.Command) {
	f.policy.register(c)
	c.Flags().StringArrayVar(&f.publish, "publish", nil, "let clients of the host's `PORT` come to the namespace: [ADDR:]HOSTPORT:PORT[/udp]; without ADDR, this host's alone")
	c.Flags().StringVar(&f.log, "log", "", "write one JSON object a decision to `FILE`; - is stderr")
	c.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "print no line for denied destinations")
}

func newNetns() *cobra.Command {
	var flags namespaceFlags
	var remove bool
	c := &cobra.Command{
		Use:   "netns [flags] NAME",
		Short: "Serve a named network namespace under a policy",
		Long: `Make the network namespace NAME (ip-netns(8)), if it is not there, and serve it
until told to end: programs in it reach only what the policy allows. When appfw
ends, the namespace stays, without a network; when it is started again, it goes
on. SIGHUP has appfw read its files anew. It needs root.`,
		Example: `  appfw netns web --policy /etc/appfw/web.policy
  ip netns exec web curl https://example.com
  appfw netns --delete web`,
		Args:                  oneName,
		DisableFlagsInUseLine: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if remove {
				return deleteNamed(args[0])
			}
			return serveNamed(flags, args[0])
		},
	}
	flags.register(c)
	c.Flags().BoolVar(&remove, "delete", false, "delete the namespace; programs in it stay there, without a network")
	return c
}

func oneName(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errors.New("give the name of one namespace: appfw netns web --allow example.com")
	}
	return nil
}

func newAttach() *cobra.Command {
	var flags namespaceFlags
	var path string
	var pid int
	c := &cobra.Command{
		Use:   "attach [flags] --netns PATH | --pid PID",
		Short: "Serve a network namespace that something else has made",
		Long: `Be the only way out of a network namespace that has none, until told to end:
of a container without a network, of "ip netns add", of "unshare --net". It has
to be empty but for its loopback. With --pid, appfw ends when that process does.
It needs root, or a process in a user namespace of the caller's (unshare -r,
rootless containers).`,
		Example: `  appfw attach --netns /run/netns/blue --allow example.com
  appfw attach --pid 4711 --policy build.policy
  appfw attach --pid "$(podman inspect -f '{{.State.Pid}}' box)" --allow .debian.org`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 0:
				return fmt.Errorf("attach runs no command: %q is too much (appfw run does)", args[0])
			case (path == "") == (pid == 0):
				return errors.New("say which namespace: --netns PATH or --pid PID, the one or the other")
			case pid < 0:
				return fmt.Errorf("%d is no process", pid)
			}
			return nil
		},
		DisableFlagsInUseLine: true,
		RunE: func(*cobra.Command, []string) error {
			if path == "" {
				path = fmt.Sprintf("/proc/%d/ns/net", pid)
			}
			if again, err := inOwner(path); again || err != nil {
				return err
			}
			return serveNamespace(flags, path, pid)
		},
	}
	flags.register(c)
	c.Flags().StringVar(&path, "netns", "", "the `PATH` of the namespace, as /run/netns/NAME")
	c.Flags().IntVar(&pid, "pid", 0, "the namespace of the process `PID`")
	c.Flags().BoolVar(&flags.leaky, "leaky", false, "attach though the namespace has devices by which programs can go past appfw")
	return c
}

// inOwner starts this command again in the user namespace that a network namespace
// belongs to, if that is another one and the caller is not root, who needs not.
// It is true if that was done, with how it ended.
func inOwner(path string) (again bool, err error) {
	if os.Geteuid() == 0 {
		return false, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return false, noNamespace(path, err)
	}
	defer file.Close()
	fd, err := unix.IoctlRetInt(int(file.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return false, fmt.Errorf("%s: only root can attach to it: it is not in a user namespace of yours (%w)", path, err)
	}
	owner := os.NewFile(uintptr(fd), "user namespace")
	defer owner.Close()
	var theirs, ours unix.Stat_t
	if unix.Fstat(fd, &theirs) == nil && unix.Stat("/proc/self/ns/user", &ours) == nil && theirs.Dev == ours.Dev && theirs.Ino == ours.Ino {
		return false, nil
	}
	// The process has several threads, and so cannot enter it by itself.
	cmd := exec.Command("nsenter", append([]string{"--user=/proc/self/fd/3", "--preserve-credentials", "/proc/self/exe"}, os.Args[1:]...)...)
	if self, err := os.Executable(); err == nil {
		cmd.Args[3] = self
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inOwnerEnv+"=1")
	cmd.ExtraFiles = []*os.File{owner}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGTERM}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("enter the user namespace of %s: %w", path, err)
	}
	go func() {
		for s := range signals {
			if !(ofTerminal[s.(syscall.Signal)] && inForeground()) { // else it has got a copy
				_ = cmd.Process.Signal(s)
			}
		}
	}()
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return true, &exitError{code: exit.ExitCode()}
	}
	return true, err
}

// inOwnerEnv tells a process that inOwner started it.
const inOwnerEnv = "APPFW_IN_OWNER"

// programsOf are the programs in a namespace, as far as is known whose they are.
func programsOf(path string) writers {
	if os.Getenv(inOwnerEnv) != "" {
		return sameNamespace
	}
	file, err := os.Open(path)
	if err != nil {
		return notRoot // nor can it be served
	}
	defer file.Close()
	fd, err := unix.IoctlRetInt(int(file.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return notRoot
	}
	defer unix.Close(fd)
	var theirs, ours unix.Stat_t
	if unix.Fstat(fd, &theirs) == nil && unix.Stat("/proc/self/ns/user", &ours) == nil && theirs.Dev == ours.Dev && theirs.Ino == ours.Ino {
		return writers{} // who put them there knows what they may write
	}
	return notRoot
}

// noNamespace explains why a namespace cannot be had.
func noNamespace(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH):
		hint := ""
		if named, nerr := netns.NamedPath(path); nerr == nil && isNamespace(named) {
			hint = fmt.Sprintf(" (did you mean --netns %s?)", named)
		}
		return fmt.Errorf("there is no namespace at %s%s", path, hint)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%s is not a network namespace", path)
	case os.Geteuid() != 0 && (errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EPERM)):
		return fmt.Errorf("%s belongs to somebody else: %w (sudo appfw attach); without root, it has to be in a user namespace of yours", path, err)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// configDir has the files that programs in a named namespace are to see, of
// which "ip netns exec" takes those in netnsConfig.
const (
	configDir   = "/run/appfw/netns"
	netnsConfig = "/etc/netns"
)

// serveNamed serves a named namespace.
func serveNamed(flags namespaceFlags, name string) error {
	path, err := netns.NamedPath(name)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errRootsNames
	}
	unix.Umask(0o022) // what is written is for all users in the namespace
	if info, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode().IsRegular() && !isNamespace(path) {
		if err == nil {
			_ = os.Remove(path) // its namespace has ended with the last boot
		}
		if err := netns.Make(name); err != nil {
			return err
		}
	}
	if err := writeView(name); err != nil {
		return err
	}
	return serveNamespace(flags, path, 0)
}

var errRootsNames = errors.New("namespaces with names are root's to make (sudo appfw netns); appfw run needs no root")

// isNamespace tells whether a file stands for a namespace.
func isNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// writeView writes the files by which programs in a namespace resolve names.
func writeView(name string) error {
	host, err := readHost()
	if err != nil {
		return err
	}
	dir := filepath.Join(configDir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	view := appView(host, nil)
	for _, file := range []string{"/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/hosts"} {
		if content, ok := view.Files[file]; ok {
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), content, 0o644); err != nil {
				return err
			}
		}
	}
	if err := os.MkdirAll(netnsConfig, 0o755); err != nil {
		return err
	}
	if err := os.Symlink(dir, filepath.Join(netnsConfig, name)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// deleteNamed deletes a namespace with what was written for it.
func deleteNamed(name string) error {
	path, err := netns.NamedPath(name)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errRootsNames
	}
	if ns, err := netns.Open(path); err == nil {
		if _, err = ns.Take(); err == nil {
			err = ns.Leave()
		}
		if err = errors.Join(err, ns.Close()); err != nil {
			return fmt.Errorf("%s: %w; end that first", path, err)
		}
	}
	if err := netns.Delete(name); err != nil {
		return noNamespace(path, err)
	}
	link := filepath.Join(netnsConfig, name)
	if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, configDir+"/") {
		_ = os.Remove(link)
	}
	err = os.RemoveAll(filepath.Join(configDir, name))
	for _, dir := range []string{configDir, filepath.Dir(configDir)} {
		_ = os.Remove(dir) // if it was the last
	}
	return err
}

// serveNamespace serves a namespace until told to end, or until the process with the
// id has ended, if it is not 0.
func serveNamespace(flags namespaceFlags, path string, pid int) (err error) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	if pid != 0 {
		pidfd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
		if err != nil {
			return noNamespace(path, err)
		}
		process := os.NewFile(uintptr(pidfd), "process")
		defer process.Close()
		go func() {
			if ended(process) {
				signals <- unix.SIGTERM
			}
		}()
	}
	published, err := parsePublishes(flags.publish)
	if err != nil {
		return err
	}
	host, report, err := startService(flags.log, flags.quiet)
	if err != nil {
		return err
	}
	rules := &live{flags: flags.policy, host: host, report: report, theirs: programsOf(path), come: len(published) > 0}
	var app *netns.Namespace
	if _, err := rules.open(proxy.Config{Owner: func(proto uint8, src, dst netip.AddrPort) string { return app.Owner(proto, src, dst) }}); err != nil {
		return err
	}
	files, err := openPorts(published, activation.Files(true))
	if err != nil {
		return err
	}
	ports, err := asPorts(published, files)
	if err != nil {
		return err
	}
	g, err := openGateway(func() (*netns.Namespace, error) { return takeNamespace(path, flags.leaky) })
	if err != nil {
		return err
	}
	app = g.app
	defer func() {
		failed := report.close()
		if err = errors.Join(err, g.app.Leave()); err == nil {
			err = failed
		}
	}()
	if err := netns.KeepCapabilities(); err != nil {
		return err
	}

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	serving, failed := g.serve(ctx, rules.proxy, ports)
	asked := make(chan struct{}, 1)
	serving.Go(func() { rules.watch(ctx, asked) })
	serving.Go(func() { feedWatchdog(ctx, rules.proxy.Alive) })
	if !flags.quiet {
		fmt.Fprintf(os.Stderr, "appfw: serving the namespace %s\n", printable(path))
	}
	notify("READY=1\nSTATUS=Serving " + printable(path)) // a line is an assignment
	for running := true; running; {
		select {
		case sig := <-signals:
			if running = sig == unix.SIGHUP; running {
				notifyReloading()
				report.reopen()
				select {
				case asked <- struct{}{}:
				default: // it has been asked
				}
			}
		case err = <-failed:
			running = false
		}
	}
	notify("STOPPING=1")
	cancel()
	serving.Wait()
	return err
}

// ended waits until the process of a pidfd has ended; false if the file is closed
// before.
func ended(pidfd *os.File) bool {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return false
	}
	return raw.Read(func(fd uintptr) bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0
	}) == nil
}

// takeNamespace opens a namespace that has no other way out.
func takeNamespace(path string, leaky bool) (*netns.Namespace, error) {
	ns, err := netns.Open(path)
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
