package main

import (
	"os"

	"github.com/spf13/cobra"

	"appfw/policy"
	"appfw/policy/source"
	"appfw/proxy/inforce"
)

// policyFlags are the flags that are lines of a policy. They may be repeated,
// and their order does not matter.
type policyFlags struct {
	lines   []policy.Line
	listens func(policy.Proto, uint16) bool // the program, at a port; nil before it runs
}

func (p *policyFlags) register(c *cobra.Command) {
	for _, w := range policy.Words() {
		c.Flags().Var(&lineFlag{p, w}, w.Name, w.Usage)
	}
}

// lineFlag is one of them for package pflag.
type lineFlag struct {
	flags *policyFlags
	word  policy.Word
}

func (f *lineFlag) String() string       { return "" }
func (f *lineFlag) Type() string         { return f.word.Arg }
func (f *lineFlag) Set(arg string) error { f.flags.add(f.word.Name, arg); return nil }

// add adds a line, as a flag does.
func (p *policyFlags) add(word, arg string) {
	p.lines = append(p.lines, policy.Line{Word: word, Arg: arg, Pos: policy.Pos{File: "--" + word, Column: 1}})
}

// explain is the reason of a verdict, and what would make a denial another.
func (p *policyFlags) explain(v policy.Verdict) string {
	return policy.Explain(v, p.lines, os.Environ(), p.listens)
}

// load reads the policy that the flags make.
func (p *policyFlags) load(host inforce.Host) (*inforce.Loaded, error) {
	return inforce.Load(source.Source{Lines: p.lines}, host)
}
