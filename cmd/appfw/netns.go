package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"appfw/netns/named"
	"appfw/proxy/inforce"
)

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

// serveNamed serves a named namespace.
func serveNamed(flags namespaceFlags, name string) error {
	if err := mayName(name); err != nil {
		return err
	}
	unix.Umask(0o022) // what is written is for all users in the namespace
	path, err := named.Make(name)
	if err != nil {
		return err
	}
	host, err := inforce.ReadHostFiles()
	if err != nil {
		return err
	}
	if err := named.WriteFiles(name, viewed(host).NameFiles()); err != nil {
		return err
	}
	return serveNamespace(flags, path, 0)
}

// mayName refuses what is no name, and callers who may not give one.
func mayName(name string) error {
	if _, err := named.Path(name); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("namespaces with names are root's to make (sudo appfw netns); appfw run needs no root")
	}
	return nil
}

// deleteNamed deletes a namespace with what was written for it.
func deleteNamed(name string) error {
	if err := mayName(name); err != nil {
		return err
	}
	err := named.Delete(name)
	if served, ok := errors.AsType[*named.ServedError](err); ok {
		return fmt.Errorf("%w; end that first", served)
	}
	if err != nil {
		path, _ := named.Path(name)
		return noNamespace(path, err)
	}
	return named.RemoveFiles(name)
}
