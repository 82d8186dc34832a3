// Package cli is what the commands have in common on a command line: what is said of
// commands and flags that there are not.
//
//	root.Args = cli.KnownCommand
//	root.SetFlagErrorFunc(cli.UnknownFlag)
package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"appfw/policy"
)

// KnownCommand refuses what is no command of c's, and says which was probably meant.
func KnownCommand(c *cobra.Command, args []string) error {
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

// UnknownFlag adds to an error of c's flags the flag that was probably meant.
func UnknownFlag(c *cobra.Command, err error) error {
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
