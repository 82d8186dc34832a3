package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"appfw/netns/named"
	"appfw/netns/supervise"
)

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
	owner, err := named.OwnerOf(file)
	if err != nil {
		return false, fmt.Errorf("%s: only root can attach to it: it is not in a user namespace of yours (%w)", path, err)
	}
	defer owner.Close()
	if owner.IsOurs() {
		return false, nil
	}
	cmd := owner.Command(os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	ended, err := supervise.Follow(cmd, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	if err != nil {
		return true, fmt.Errorf("enter the user namespace of %s: %w", path, err)
	}
	return true, &endError{Ending: ended}
}

// noNamespace explains why a namespace cannot be had.
func noNamespace(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH):
		hint := ""
		if at, nerr := named.Path(path); nerr == nil && named.IsNamespace(at) {
			hint = fmt.Sprintf(" (did you mean --netns %s?)", at)
		}
		return fmt.Errorf("there is no namespace at %s%s", path, hint)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%s is not a network namespace", path)
	case os.Geteuid() != 0 && (errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EPERM)):
		return fmt.Errorf("%s belongs to somebody else: %w (sudo appfw attach); without root, it has to be in a user namespace of yours", path, err)
	}
	return fmt.Errorf("%s: %w", path, err)
}
