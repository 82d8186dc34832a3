package manual

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"appfw/policy"
)

// pages are all pages.
func pages(root *cobra.Command) (list []page, err error) {
	topics, err := Topics()
	if err != nil {
		return nil, err
	}
	top := commandPage(root)
	for _, t := range topics {
		p := t.page()
		list = append(list, p)
		top.also = append(top.also, fmt.Sprintf("%s(%d)", p.name, p.section))
	}
	list = append(list, top)
	var add func(*cobra.Command)
	add = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() && sub.Name() != "help" && sub.Name() != "completion" {
				list = append(list, commandPage(sub))
				add(sub)
			}
		}
	}
	add(root)
	return list, nil
}

// commandPage is the page of a command.
func commandPage(c *cobra.Command) page {
	p := page{name: strings.ReplaceAll(c.CommandPath(), " ", "-"), section: 1, title: strings.ToLower(c.Short[:1]) + c.Short[1:]}
	p.blocks = append(p.blocks, block{kind: heading, text: "Synopsis"}, block{text: "`" + c.UseLine() + "`"})
	for _, a := range c.Aliases {
		p.aliases = append(p.aliases, strings.ReplaceAll(c.Parent().CommandPath()+" "+a, " ", "-"))
		p.blocks = append(p.blocks, block{text: "`" + c.Parent().CommandPath() + " " + a + "` is the same."})
	}
	p.blocks = append(p.blocks, block{kind: heading, text: "Description"})
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	for part := range strings.SplitSeq(text, "\n\n") {
		p.blocks = append(p.blocks, block{text: strings.Join(strings.Fields(part), " ")})
	}
	if subs := subcommands(c); len(subs) > 0 {
		p.blocks = append(append(p.blocks, block{kind: heading, text: "Commands"}), subs...)
	}
	if flags := options(c.LocalFlags()); len(flags) > 0 {
		p.blocks = append(append(p.blocks, block{kind: heading, text: "Options"}), flags...)
	}
	if c.Example != "" {
		lines := strings.Split(c.Example, "\n")
		for i := range lines {
			lines[i] = strings.TrimPrefix(lines[i], "  ")
		}
		p.blocks = append(p.blocks, block{kind: heading, text: "Examples"}, block{kind: code, text: strings.Join(lines, "\n") + "\n"})
	}
	if c.HasParent() {
		p.also = []string{strings.ReplaceAll(c.Parent().CommandPath(), " ", "-") + "(1)", "appfw.policy(5)"}
	}
	return p
}

// subcommands are rows of a table.
func subcommands(c *cobra.Command) (list []block) {
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			list = append(list, block{kind: columns, cells: [2]string{"`" + sub.CommandPath() + "`", sub.Short + "."}})
		}
	}
	return list
}

// options are rows of a table.
func options(flags *pflag.FlagSet) (list []block) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		arg, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if arg != "" {
			name += " " + arg
		}
		list = append(list, block{kind: columns, cells: [2]string{"`" + name + "`", usage + "."}})
	})
	return list
}

// words are those of policies, as a table under a heading.
func words() []block {
	list := []block{{kind: heading, text: "Words"}}
	for _, w := range policy.Words() {
		list = append(list, block{kind: columns, cells: [2]string{"`" + w.Name + " " + w.Arg + "`", w.Usage + "."}})
	}
	return list
}
