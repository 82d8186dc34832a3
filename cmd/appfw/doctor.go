package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/netns/doctor"
	"appfw/proxy/inforce"
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

// say prints the line of one thing that was tried.
func say(w io.Writer, f doctor.Finding) {
	switch {
	case f.Note != "":
		fmt.Fprintf(w, "note  %s: %s\n", f.What, printable(f.Note))
	case f.Err == nil:
		fmt.Fprintf(w, "ok    %s\n", f.What)
	default:
		fmt.Fprintf(w, "FAIL  %s: %s\n", f.What, printable(f.Err.Error()))
		if f.Fix != "" {
			fmt.Fprintf(w, "      %s\n", f.Fix)
		}
	}
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
	say(w, doctor.Finding{What: "user namespace", Err: err, Fix: netns.ExplainUserNamespace(err)})
	if err != nil || cmd.Wait() != nil {
		return &exitError{code: 1}
	}
	return nil
}

// probe tries the rest.
func probe(ctx context.Context, w io.Writer) error {
	sound := doctor.Probe(ctx, func() (doctor.View, error) {
		host, err := inforce.ReadHostFiles()
		if err != nil {
			return nil, err
		}
		return guardOf(host, "/", nil), nil
	}, func(f doctor.Finding) { say(w, f) })
	if !sound {
		return &exitError{code: 1}
	}
	return nil
}
