package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/netns/view"
)

// probeCommand is doctor within its user namespace.
const probeCommand = "probe"

func newDoctor() *cobra.Command {
	return &cobra.Command{
		Use:     "doctor",
		Short:   "Tell whether this machine can run programs under appfw, and what to fix",
		Long:    "Try each thing that appfw needs of this machine, and print a line for each.\nExits with 0 only if appfw proxy-run works here.",
		Example: "  appfw doctor",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return examine(c.OutOrStdout()) },
	}
}

func newProbe() *cobra.Command {
	return &cobra.Command{
		Use: probeCommand, Hidden: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return probe(c.Context(), c.OutOrStdout()) },
	}
}

// say prints the line of one thing tried, and passes its error on.
func say(w io.Writer, what string, err error, fix string) error {
	if err == nil {
		fmt.Fprintf(w, "ok    %s\n", what)
		return nil
	}
	fmt.Fprintf(w, "FAIL  %s: %s\n", what, printable(err.Error()))
	if fix != "" {
		fmt.Fprintf(w, "      %s\n", fix)
	}
	return err
}

// examine tries a user namespace, and the rest in there.
func examine(w io.Writer) error {
	var release unix.Utsname
	_ = unix.Uname(&release)
	fmt.Fprintf(w, "      Linux %s, as uid %d\n", unix.ByteSliceToString(release.Release[:]), os.Getuid())
	cmd := exec.Command("/proc/self/exe", probeCommand)
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	netns.InUserNamespace(cmd, nil)
	err := cmd.Start()
	if say(w, "user namespace", err, netns.ExplainUserNamespace(err)) != nil {
		return &exitError{code: 1}
	}
	if cmd.Wait() != nil {
		return &exitError{code: 1}
	}
	return nil
}

// probe tries what an app's network is made of, one thing after another, and in
// the end runs a program that must be refused a connection.
func probe(ctx context.Context, w io.Writer) error {
	runtime.LockOSThread()
	failed := &exitError{code: 1}
	outer, err := netns.New()
	if say(w, "network namespace", err, "the kernel needs CONFIG_NET_NS; see /proc/sys/user/max_net_namespaces, too") != nil {
		return failed
	}
	app, err := netns.New()
	if err != nil {
		return say(w, "second network namespace", err, "")
	}
	ipv6, err := netns.Connect(outer, app)
	if say(w, "veth, addresses and routes", err, "the kernel needs CONFIG_VETH: sudo modprobe veth") != nil {
		return failed
	}
	if ipv6 {
		_ = say(w, "IPv6", nil, "")
	} else {
		fmt.Fprintln(w, "note  IPv6: this kernel has none; the app will have IPv4 only")
	}
	bad := false
	for _, f := range netns.Features(outer) {
		bad = say(w, f.Name, f.Err, f.Fix) != nil || bad
	}
	if bad {
		return failed
	}
	gate, err := netns.OpenGateway(outer, ipv6)
	if say(w, "gate at the veth", err, "") != nil {
		return failed
	}
	_, err = netns.OpenLoopback(app, ipv6)
	if say(w, "gate at the app's loopback", err, "") != nil {
		return failed
	}
	_, _, err = netns.ListenDNS(outer, ipv6)
	if say(w, "resolver at port 53", err, "") != nil {
		return failed
	}
	host, err := readHost()
	if say(w, "the host's resolvers", err, "") != nil {
		return failed
	}
	if say(w, "mounts, system call filter, no capabilities", startTrue(app, host), "the kernel needs CONFIG_SECCOMP_FILTER and tmpfs in user namespaces (Linux 5.9 and later)") != nil {
		return failed
	}
	if say(w, "a connection is held, judged and refused", netns.Refusal(ctx, app, gate), "") != nil {
		return failed
	}
	switch err := view.Distinguishable(); {
	case errors.Is(err, unix.ENOENT):
		fmt.Fprintln(w, "note  Unix sockets: this kernel does not tell whose they are (CONFIG_UNIX_DIAG): those of the host that appear during a run are reached; sudo modprobe unix_diag")
	case err != nil:
		fmt.Fprintln(w, "note  Unix sockets: whether those of the host that appear during a run can be covered is not to be told: "+printable(err.Error()))
	}
	if scope, err := netns.OpenScope(); err != nil {
		fmt.Fprintln(w, "note  signals: "+unscoped(err))
	} else {
		scope.Close()
		_ = say(w, "signals stay within a run", nil, "")
	}
	if err := netns.MayPing(); err != nil {
		fmt.Fprintln(w, "note  ping: this host lets users send none; let it: sudo sysctl net.ipv4.ping_group_range='0 2147483647'")
	}
	return nil
}

// startTrue runs true(1), confined.
func startTrue(app *netns.Namespace, host hostConfig) error {
	scope, _ := netns.OpenScope() // what is wrong with it is told besides
	limit, err := netns.OpenFilesLimit()
	if err != nil {
		return err
	}
	child, err := app.Start(netns.Command{
		Args: []string{"true"}, Dir: "/", View: host.watch("/", nil), Scope: scope, OpenFiles: limit,
		Files: [3]*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return err
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(child.PID, &status, 0, nil); err != nil {
		return err
	}
	if status != 0 {
		return fmt.Errorf("true ended with status %#x", int(status))
	}
	return nil
}
