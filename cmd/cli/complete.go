package cli

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"appfw/netns/view"
)

// hosts are the words of destinations and clients that are no names.
var hosts = []string{"any", "localhost", "private", "link-local", "multicast", "@"}

// values are what an argument may begin with, by its name in help (policy.Word.Arg); those
// of others are files, or nothing that can be known before.
var values = map[string][]string{
	"DEST":       hosts,
	"CLIENT":     {"any", "localhost", "private", "@"},
	"allow|deny": {"allow", "deny"},
	"RESOLVER":   {"tls://", "https://"},
	"UPSTREAM":   {"tor", "socks5h://", "http://", "https://"},
	"WHAT":       {"run", "destination", "process"},
}

// Complete has shells complete the values of all flags of root's commands, and the names of
// units and namespaces.
func Complete(root *cobra.Command) {
	for _, c := range root.Commands() {
		Complete(c)
	}
	root.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if list := valuesOf(f); list != nil {
			_ = root.RegisterFlagCompletionFunc(f.Name, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
				return list, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
			})
		}
	})
	if root.ValidArgsFunction != nil {
		return
	}
	switch use := root.Use; {
	case strings.Contains(use, "UNIT"):
		root.ValidArgsFunction = first(serviceUnits, strings.Contains(use, "FILE"))
	case strings.Contains(use, "NAME"):
		root.ValidArgsFunction = first(namespaces, false)
	case strings.Contains(use, "DEST"):
		root.ValidArgsFunction = first(func(context.Context) []string { return nil }, false)
	}
}

// valuesOf are those of a flag; nil: files, or anything.
func valuesOf(f *pflag.Flag) []string {
	switch f.Name {
	case "share":
		return view.Share
	case "user":
		return users()
	}
	return values[f.Value.Type()]
}

// first completes the first argument by names, and by files as well if these are taken.
func first(names func(context.Context) []string, files bool) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if files {
			return names(c.Context()), cobra.ShellCompDirectiveDefault
		}
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names(c.Context()), cobra.ShellCompDirectiveNoFileComp
	}
}

// serviceUnits are the services that systemd has files of; none without systemd.
func serviceUnits(ctx context.Context) (list []string) {
	// Whoever has pressed the tab key waits no longer.
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, "systemctl", "list-unit-files", "--type=service", "--plain", "--no-legend", "--no-pager").Output()
	for line := range strings.Lines(string(out)) {
		if name, _, ok := strings.Cut(line, " "); ok {
			list = append(list, name)
		}
	}
	return list
}

// namespaces are those with a name, as ip-netns(8) keeps them.
func namespaces(context.Context) (list []string) {
	entries, _ := os.ReadDir("/run/netns")
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// users are those of the host's passwd(5).
func users() (list []string) {
	text, _ := os.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(text)) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			list = append(list, name)
		}
	}
	return list
}
