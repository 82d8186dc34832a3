package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"appfw/dnsguard"
	"appfw/policy"
)

func newSuggest() *cobra.Command {
	return &cobra.Command{
		Use:   "suggest LOG...",
		Short: "Write a policy for what a log shows",
		Long: `Write a policy that allows what logs of --log show as allowed: a rule for each name
and port that was reached, and for each address that had no name. What was denied,
or looked up and not reached, is in it as comments. Read it before you use it: it
has what the program did, good or bad. LOG - is stdin.`,
		Example: `  appfw run --default allow --log npm.json -- npm ci
  appfw suggest npm.json > npm.policy
  appfw run --policy npm.policy -- npm ci`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("give a log that --log wrote: appfw suggest npm.json")
			}
			return nil
		},
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			l := newLearned()
			for _, name := range args {
				if err := l.readFile(name); err != nil {
					return err
				}
			}
			if len(l.flows) == 0 && len(l.asked) == 0 {
				return fmt.Errorf("%s: no flow or name is in it", strings.Join(args, ", "))
			}
			text, err := l.suggest()
			if err == nil {
				_, err = io.WriteString(c.OutOrStdout(), text)
			}
			return err
		},
	}
}

// learned is what logs show, and how often.
type learned struct {
	flows map[shownFlow]int
	asked map[question]int
	given map[netip.Addr][]policy.Name // the names that an address was given out for
}

// shownFlow is a flow, and what was decided on it.
type shownFlow struct {
	policy.Target // its name may be empty, and its address invalid
	allowed       bool
}

type question struct {
	name    policy.Name
	allowed bool
}

func newLearned() *learned {
	return &learned{flows: make(map[shownFlow]int), asked: make(map[question]int), given: make(map[netip.Addr][]policy.Name)}
}

func (l *learned) readFile(name string) error {
	if name == "-" {
		return l.read("stdin", os.Stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return l.read(name, f)
}

// maxRecord bounds a line of a log. The reasons are short, and so are names.
const maxRecord = 1 << 20

func (l *learned) read(name string, r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxRecord)
	number := 0
	for lines.Scan() {
		number++
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var rec record
		if err := json.Unmarshal(lines.Bytes(), &rec); err != nil {
			pos := policy.Pos{File: name, Line: number, Column: 1}
			if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
				pos.Column = int(max(syntax.Offset, 1))
			}
			return &policy.SyntaxError{Pos: pos, Msg: fmt.Sprintf("--log wrote no such line: %v", err)}
		}
		l.add(rec)
	}
	if err := lines.Err(); err != nil {
		return &policy.SyntaxError{Pos: policy.Pos{File: name, Line: number + 1, Column: 1}, Msg: err.Error()}
	}
	return nil
}

// add takes in a line. Nothing in it is trusted: programs choose names.
func (l *learned) add(rec record) {
	name, err := policy.ParseName(rec.Name)
	if err != nil {
		name = ""
	}
	allowed := rec.Verdict == "allow"
	switch {
	case rec.Direction != "out":
	case rec.Event == "dns" && name != "" && rec.Type != "PTR":
		l.asked[question{name, allowed}]++
		for text := range strings.SplitSeq(rec.Addr, ",") {
			if a, err := netip.ParseAddr(text); err == nil && !slices.Contains(l.given[a], name) {
				l.given[a] = append(l.given[a], name)
			}
		}
	case rec.Event == "decision":
		f := shownFlow{allowed: allowed}
		f.Name, f.Port = name, rec.Port
		f.Addr, _ = netip.ParseAddr(rec.Addr)
		f.Proto, err = policy.ParseProto(rec.Proto)
		if err == nil && (name != "" || f.Addr.IsValid()) && (f.Port == 0) == (f.Proto == policy.ICMP) {
			l.flows[f]++
		}
	}
}

// suggest writes the policy.
func (l *learned) suggest() (string, error) {
	allow, denied, looked := make(rules), make(rules), make(rules)
	reached := make(map[policy.Name]bool)
	for f, n := range l.flows {
		for _, d := range l.destinations(f) {
			reached[d.Name] = true
			if f.allowed {
				allow[rule(d)] += n
			}
		}
	}
	made, err := allow.compile()
	if err != nil {
		return "", err
	}
	for f, n := range l.flows {
		if f.allowed && slices.ContainsFunc(l.destinations(f), func(d policy.Target) bool { return !opens(made, d) }) {
			allow[address(f)] += n // which no name opens
		}
	}
	if made, err = allow.compile(); err != nil {
		return "", err
	}
	for f, n := range l.flows {
		for _, d := range l.destinations(f) {
			if !f.allowed && !opens(made, d) {
				denied[rule(d)] += n
				if policy.Special(d.Addr) != "" {
					denied[address(f)] += n
				}
			}
		}
	}
	for q, n := range l.asked {
		switch {
		case !q.allowed && !made.DecideName(q.name).Allow:
			denied[policy.Target{Name: q.name}] += n
		case q.allowed && !reached[q.name]:
			looked[policy.Target{Name: q.name}] += n
		}
	}
	var b strings.Builder
	b.WriteString("# Made by appfw suggest of what a program did, good or bad. Read it before you use it.\n")
	if len(allow) == 0 {
		b.WriteString("default  deny\n")
	}
	allow.write(&b, "allow  ", "")
	looked.write(&b, "# allow  ", ", looked up and not reached")
	denied.write(&b, "# allow  ", ", denied")
	return b.String(), nil
}

// destinations are what a flow was to: its name, and all that its address was given
// out for, as the log does not tell which of them it was; its address, if it has none.
func (l *learned) destinations(f shownFlow) []policy.Target {
	names := slices.Clone(l.given[f.Addr])
	if f.Name != "" && !slices.Contains(names, f.Name) || len(names) == 0 {
		names = append(names, f.Name)
	}
	var list []policy.Target
	for _, f.Name = range names {
		list = append(list, f.Target)
	}
	return list
}

// opens tells whether a policy allows a destination to a program that was given its
// address for its name, if it has one.
func opens(p *policy.Policy, to policy.Target) bool {
	if to.Name != "" && standsForName(to.Addr) {
		to.Addr = netip.Addr{}
	}
	return p.Decide(policy.Flow{Proto: to.Proto, Addr: to.Addr, Port: to.Port, Name: to.Name, Pinned: to.Name != ""}).Allow
}

// standsForName tells whether an address is one that stands for a name, unless a
// policy took others for that.
func standsForName(a netip.Addr) bool {
	return dnsguard.SyntheticV4.Contains(a) || dnsguard.SyntheticV6.Contains(a)
}

// rule is what a rule for a destination names: its name, or else its address.
func rule(to policy.Target) policy.Target {
	if to.Name != "" {
		to.Addr = netip.Addr{}
	}
	to.Addr = policy.Embedded(to.Addr)
	return to
}

// address is what a rule for a flow's address names.
func address(f shownFlow) policy.Target {
	f.Name = ""
	return rule(f.Target)
}

// rules are destinations, and how often they were met.
type rules map[policy.Target]int

func (r rules) compile() (*policy.Policy, error) {
	lines := []policy.Line{{Word: "default", Arg: "deny"}}
	for t := range r {
		lines = append(lines, policy.Line{Word: "allow", Arg: t.String()})
	}
	return policy.Compile(policy.Config{Lines: lines})
}

// write writes a line for each. A rule for TCP is for UDP as well.
func (r rules) write(b *strings.Builder, before, after string) {
	var lines []policy.Target
	for t := range r {
		tcp := t
		tcp.Proto = policy.TCP
		if _, twice := r[tcp]; t.Proto == policy.UDP && twice {
			r[tcp] += r[t]
		} else {
			lines = append(lines, t)
		}
	}
	slices.SortFunc(lines, func(x, y policy.Target) int {
		return cmp.Or(cmp.Compare(x.Name, y.Name), x.Addr.Compare(y.Addr), cmp.Compare(x.Port, y.Port), cmp.Compare(x.Proto, y.Proto))
	})
	for _, t := range lines {
		fmt.Fprintf(b, "%-47s # %s%s\n", before+t.String(), times(r[t]), after)
	}
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
