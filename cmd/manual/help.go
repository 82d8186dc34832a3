package manual

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"appfw/policy"
)

// Register gives root a help command that knows topics besides commands, and names the
// topics in root's own help; and a hidden command that writes what make install puts beside the program.
func Register(root *cobra.Command) {
	cobra.AddTemplateFunc("topics", topicTable)
	root.SetUsageTemplate(root.UsageTemplate() + "{{if not .HasParent}}\nHelp topics (appfw help TOPIC):\n{{topics}}{{end}}")
	root.SetHelpCommand(&cobra.Command{
		Use:   "help [TOPIC|COMMAND]",
		Short: "Explain a topic or a command",
		Long:  "Explain a topic or a command. appfw --help lists both.",
		Example: `  appfw help policy
  appfw help run`,
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return known(c.Root()), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error { return explain(c, args) },
	})
	root.AddCommand(&cobra.Command{
		Use: "write-share DIR", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return Write(c.Root(), args[0]) },
	})
}

// explain prints what is to be said of args.
func explain(c *cobra.Command, args []string) error {
	root := c.Root()
	if len(args) == 0 {
		return root.Help()
	}
	if t, ok := Find(args[0]); ok && len(args) == 1 {
		_, err := io.WriteString(c.OutOrStdout(), t.Text())
		return err
	}
	found, rest, err := root.Find(args)
	if err == nil && len(rest) == 0 {
		found.InitDefaultHelpFlag()
		return found.Help()
	}
	if hint := policy.Nearest(args[0], known(root)); hint != "" {
		return fmt.Errorf("%.80q is no topic or command (did you mean %s?)", strings.Join(args, " "), hint)
	}
	return fmt.Errorf("%.80q is no topic or command (appfw --help lists them)", strings.Join(args, " "))
}

// known are the names of all topics and commands.
func known(root *cobra.Command) []string {
	list := append([]string(nil), names...)
	for _, sub := range root.Commands() {
		if sub.IsAvailableCommand() {
			list = append(append(list, sub.Name()), sub.Aliases...)
		}
	}
	return list
}

// topicTable are the topics in lines.
func topicTable() (string, error) {
	var b strings.Builder
	list, err := Topics()
	for _, t := range list {
		fmt.Fprintf(&b, "  %-16s %s\n", t.Name, t.Title)
	}
	return b.String(), err
}
