// Command appfw runs programs so that they reach only what a policy allows.
// Its README says how.
package main

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"appfw/netns/supervise"
	"appfw/policy"
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
	root := &cobra.Command{
		Use:           "appfw",
		Short:         "Run a program so that it reaches only what a policy allows",
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(newRun(), newServe(), newNetns(), newAttach(), newSystemd(), newGateway(), newWhy(), newSuggest(), newDoctor(), newProbe())
	root.Args = knownCommand
	root.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	root.SetFlagErrorFunc(unknownFlag)
	ending(root.Execute()).Exit()
}

// version is that of the module or of the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version + " " + info.GoVersion + ", public suffixes of " + policy.SuffixDate()
}

// knownCommand refuses what is no command.
func knownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(append(names, sub.Name()), sub.Aliases...)
		}
	}
	if hint := policy.Nearest(args[0], names); hint != "" {
		return fmt.Errorf("%.80q is no command (did you mean %s?)", args[0], hint)
	}
	return fmt.Errorf("%.80q is no command (appfw --help lists them)", args[0])
}

// unknownFlag adds to an error the flag that was probably meant.
func unknownFlag(c *cobra.Command, err error) error {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok {
		return err
	}
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if hint := policy.Nearest(unknown.GetSpecifiedName(), names); hint != "" {
		return fmt.Errorf("%w (did you mean --%s?)", err, hint)
	}
	return fmt.Errorf("%w (%s --help lists them)", err, c.CommandPath())
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
