package cli_test

import (
	"fmt"

	"github.com/spf13/cobra"

	"appfw/cmd/cli"
)

func ExampleKnownCommand() {
	root := &cobra.Command{Use: "appfw"}
	root.AddCommand(&cobra.Command{Use: "doctor", Run: func(*cobra.Command, []string) {}})
	fmt.Println(cli.KnownCommand(root, []string{"docter"}))
	// Output: "docter" is no command (did you mean doctor?)
}
