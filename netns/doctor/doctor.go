// Package doctor tries what appfw needs of a machine, one thing after another, each in
// the way in which it is used:
//
//	sound := doctor.Probe(ctx, look, func(f doctor.Finding) { fmt.Println(f.What, f.Err) })
package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/netns/view"
)

// Finding is what came of one thing that was tried.
type Finding struct {
	What string
	Err  error  // nil: it works
	Fix  string // what to do about Err; "" if that is not known
	// Note says what is otherwise where this does not work, and appfw does without it;
	// "" if it works, or appfw does not.
	Note string
}

// View is what a program sees of the host's files.
type View interface{ Mount() error }

// Probe tries what the network of a program is made of, and in the end has one refused a
// connection. It is for a process in a user namespace, and keeps the calling goroutine on
// its thread. look makes the view that a program would have. It returns whether all works
// that is needed; of what does not, the rest is not tried.
func Probe(ctx context.Context, look func() (View, error), say func(Finding)) (sound bool) {
	runtime.LockOSThread()
	works := func(what string, err error, fix string) bool {
		say(Finding{What: what, Err: err, Fix: fix})
		return err == nil
	}
	outer, err := netns.New()
	if !works("network namespace", err, "the kernel needs CONFIG_NET_NS; see /proc/sys/user/max_net_namespaces, too") {
		return false
	}
	app, err := netns.New()
	if err != nil {
		return works("second network namespace", err, "")
	}
	ipv6, err := netns.Connect(outer, app)
	if !works("veth, addresses and routes", err, "the kernel needs CONFIG_VETH: sudo modprobe veth") {
		return false
	}
	six := Finding{What: "IPv6"}
	if !ipv6 {
		six.Note = "this kernel has none; the app will have IPv4 only"
	}
	say(six)
	sound = true
	for _, f := range netns.Features(outer) {
		sound = works(f.Name, f.Err, f.Fix) && sound
	}
	if !sound {
		return false
	}
	gate, err := netns.OpenGateway(outer, ipv6)
	if !works("gate at the veth", err, "") {
		return false
	}
	_, err = netns.OpenLoopback(app, ipv6)
	if !works("gate at the app's loopback", err, "") {
		return false
	}
	_, _, err = netns.ListenDNS(outer, ipv6)
	if !works("resolver at port 53", err, "") {
		return false
	}
	seen, err := look()
	if !works("the host's resolvers", err, "") {
		return false
	}
	if !works("mounts, system call filter, no capabilities", startTrue(app, seen), "the kernel needs CONFIG_SECCOMP_FILTER and tmpfs in user namespaces (Linux 5.9 and later)") ||
		!works("a connection is held, judged and refused", netns.Refusal(ctx, app, gate), "") {
		return false
	}
	optional(say)
	return true
}

// optional tries what appfw does without where it is not there.
func optional(say func(Finding)) {
	sockets := Finding{What: "Unix sockets", Err: view.Distinguishable()}
	switch {
	case errors.Is(sockets.Err, unix.ENOENT):
		sockets.Note = "this kernel does not tell whose they are (CONFIG_UNIX_DIAG): those of the host that appear during a run are reached; sudo modprobe unix_diag"
	case sockets.Err != nil:
		sockets.Note = "whether those of the host that appear during a run can be covered is not to be told: " + sockets.Err.Error()
	default:
		sockets.What += " of the host are told from the program's"
	}
	say(sockets)
	signals := Finding{What: "signals"}
	if scope, err := netns.OpenScope(); err != nil {
		signals.Note = Unscoped(err)
	} else {
		scope.Close()
		signals.What += " stay within a run"
	}
	say(signals)
	ping := Finding{What: "ping"}
	if netns.MayPing() != nil {
		ping.Note = "this host lets users send none; let it: sudo sysctl net.ipv4.ping_group_range='0 2147483647'"
	}
	say(ping)
}

// Unscoped says what a program can do where [netns.OpenScope] fails.
func Unscoped(err error) string {
	return "the program can send signals to your other processes: " + err.Error()
}

// startTrue runs true(1), confined.
func startTrue(app *netns.Namespace, seen View) error {
	scope, _ := netns.OpenScope() // what is wrong with it is told besides
	limit, err := netns.OpenFilesLimit()
	if err != nil {
		return err
	}
	child, err := app.Start(netns.Command{
		Args: []string{"true"}, Dir: "/", View: seen, Scope: scope, OpenFiles: limit,
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
