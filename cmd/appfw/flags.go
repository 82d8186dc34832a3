package main

import (
	"github.com/spf13/cobra"

	"appfw/policy"
)

// policyFlags are the flags that are lines of a policy. They may be repeated,
// and their order does not matter.
type policyFlags struct{ lines []policy.Line }

func (p *policyFlags) register(c *cobra.Command) {
	for _, f := range []struct{ word, arg, usage string }{
		{"allow", "DEST", "allow a destination: HOST[:PORTS][/PROTO], or @FILE, a list of them; and then via=UPSTREAM"},
		{"allow-suffix", "DEST", "allow that lets a wildcard be over a public suffix: *.com, *.github.io"},
		{"deny", "DEST", "deny a destination; an allow that is narrower than a deny overrides it"},
		{"default", "allow|deny", "what no rule matches (without it: denied, if anything is allowed)"},
		{"policy", "FILE", "read rules from FILE, a line for each: allow DEST, deny DEST and the others of these flags that make a policy, without dashes"},
		{"hosts", "FILE", "answer the names in FILE (hosts(5)) by the addresses there, before asking anybody"},
		{"dns", "RESOLVER", "ask RESOLVER, not the host's: [ZONE=] and ADDR[:PORT], tls://HOST[:PORT][#NAME] or https://HOST/PATH"},
		{"upstream", "UPSTREAM", "go out through it: socks5h://HOST:PORT, http://…, https://… or tor; several make a chain; NAME= before it is for via=NAME"},
		{"isolate", "WHAT", "what shares circuits of an upstream Tor: a run, a destination, or a process"},
		{"synthetic", "PREFIX", "where addresses are from that stand for names resolved by an upstream (198.18.0.0/15)"},
		{"dns-budget", "N", "how many new names an hour may be asked for below a domain by wildcard rules (1000; 0: any number)"},
		{"allow-from", "CLIENT", "who may come to published ports, and nobody else: ADDRESS or PREFIX[:HOSTPORTS][/PROTO], or @FILE"},
		{"deny-from", "CLIENT", "who may not come to published ports"},
		{"allow-unix", "PATH", "let the app see a socket that is hidden from it otherwise"},
	} {
		c.Flags().Var(&lineFlag{p, f.word, f.arg}, f.word, f.usage)
	}
}

// lineFlag is one of them for package pflag.
type lineFlag struct {
	flags     *policyFlags
	word, arg string
}

func (f *lineFlag) String() string       { return "" }
func (f *lineFlag) Type() string         { return f.arg }
func (f *lineFlag) Set(arg string) error { f.flags.add(f.word, arg); return nil }

// add adds a line, as a flag does.
func (p *policyFlags) add(word, arg string) {
	p.lines = append(p.lines, policy.Line{Word: word, Arg: arg, Pos: policy.Pos{File: "--" + word, Column: 1}})
}
