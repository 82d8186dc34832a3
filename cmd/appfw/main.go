// Command appfw runs programs so that they reach only what a policy allows.
// Its README says how.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"appfw/cmd/cli"
	"appfw/cmd/manual"
	"appfw/cmd/version"
	"appfw/netns"
	"appfw/netns/supervise"
)

// Exit codes of appfw's own failures, as env(1) and timeout(1) have them.
const (
	exitFailed        = 125 // appfw failed; nothing was run
	exitNotExecutable = 126
	exitNotFound      = 127
)

// exitError ends the process with a code. Its text, if there is one, goes to
// stderr before.
type exitError struct {
	code int
	err  error // may be nil
}

func (e *exitError) Error() string { return fmt.Sprint(e.err) }
func (e *exitError) Unwrap() error { return e.err }

// endError ends the process as another one ended. Its text, if there is one, goes to
// stderr before.
type endError struct {
	supervise.Ending
	err error // may be nil
}

func (e *endError) Error() string { return fmt.Sprint(e.err) }
func (e *endError) Unwrap() error { return e.err }

func main() {
	if why := netns.Scarce(); why != "" && (len(os.Args) < 2 || os.Args[1] != gatewayCommand) {
		fmt.Fprintln(os.Stderr, "appfw: "+why) // at once: without descriptors, Go's runtime cannot wait
		os.Exit(exitFailed)
	}
	root := &cobra.Command{
		Use:           "appfw",
		Short:         "Run a program so that it reaches only what a policy allows",
		Version:       version.Short(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(newRun(), newServe(), newNetns(), newAttach(), newSystemd(), newGateway(), newWhy(), newSuggest(), newDoctor(), newVersion(), newProbe())
	root.Args = cli.KnownCommand
	root.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	root.SetFlagErrorFunc(cli.UnknownFlag)
	manual.Register(root)
	cli.Complete(root)
	ending(root.Execute()).Exit()
}

// ending reports an error and says how to end.
func ending(err error) (e supervise.Ending) {
	if err == nil {
		return e
	}
	e.Code = exitFailed
	if exit, ok := errors.AsType[*exitError](err); ok {
		e.Code, err = exit.code, exit.err
	} else if end, ok := errors.AsType[*endError](err); ok {
		e, err = end.Ending, end.err
	}
	if err != nil {
		var text strings.Builder
		for i, line := range strings.Split(err.Error(), "\n") {
			prefix := "appfw: "
			if i > 0 {
				prefix = "  "
			}
			text.WriteString(prefix + printable(line) + "\n")
		}
		lastWords(text.String())
	}
	return e
}
