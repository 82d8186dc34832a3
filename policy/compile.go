package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/gaissmai/bart"
)

// Line is one line of a policy: a word, its argument and where it stands.
// "--allow X" of the command line is Line{Word: "allow", Arg: "X"}.
type Line struct {
	Word, Arg string
	Pos       Pos // of Arg
	Start     int // column of Word, from 1
}

// Config is what a policy is compiled from.
type Config struct {
	Lines []Line
	// Open opens the files that "policy" and "@FILE" name.
	Open func(name string) (io.ReadCloser, error)
}

// words are the lines there are.
var words = []string{"allow", "deny", "default", "policy", "allow-unix"}

// Compile compiles a policy. Mistakes are a [*SyntaxError].
func Compile(c Config) (*Policy, error) {
	p := &Policy{names: make(map[Name]*nameRules)}
	b := builder{Policy: p, open: c.Open}
	for _, line := range c.Lines {
		if err := b.line(line, 0); err != nil {
			return nil, err
		}
	}
	if b.defaultPos == nil {
		p.fallback = !b.allows && p.count > 0
	}
	return p, nil
}

type builder struct {
	*Policy
	open       func(name string) (io.ReadCloser, error)
	allows     bool // there is an allow rule
	defaultPos *Pos
}

// maxDepth bounds how deep policy files may include others.
const maxDepth = 8

func (b *builder) line(l Line, depth int) error {
	switch l.Word {
	case "allow", "deny":
		return b.destination(l)
	case "default":
		return b.setDefault(l)
	case "policy":
		return b.include(l, depth)
	case "allow-unix":
		if !strings.HasPrefix(l.Arg, "/") {
			return &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: "the path of a socket is absolute"}
		}
		b.Shown = append(b.Shown, l.Arg)
		return nil
	}
	pos := l.Pos
	pos.Column = l.Start
	return &SyntaxError{Pos: pos, Word: l.Word, Msg: "unknown word", Hint: Nearest(l.Word, words)}
}

func (b *builder) setDefault(l Line) error {
	allow := l.Arg == "allow"
	if !allow && l.Arg != "deny" {
		return &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: "the default is allow or deny", Hint: Nearest(l.Arg, []string{"allow", "deny"})}
	}
	if b.defaultPos != nil && b.fallback != allow {
		return &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: fmt.Sprintf("the default was set otherwise before (%s)", b.defaultPos)}
	}
	b.fallback = allow
	b.fallbackText = fmt.Sprintf("default %s (%s)", l.Arg, l.Pos)
	b.defaultPos = &l.Pos
	return nil
}

func (b *builder) include(l Line, depth int) error {
	if depth == maxDepth {
		return &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: fmt.Sprintf("policy files include each other more than %d deep", maxDepth)}
	}
	f, name, err := b.openFile(l, l.Arg)
	if err != nil {
		return err
	}
	defer f.Close()
	lines, err := ReadLines(name, f)
	if err != nil {
		return err
	}
	for _, line := range lines {
		if err := b.line(line, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// openFile opens a file named in a line: relative to that line's file, or to
// the working directory if it is of the command line.
func (b *builder) openFile(l Line, name string) (io.ReadCloser, string, error) {
	if name == "" {
		return nil, "", &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: "empty file name"}
	}
	if l.Pos.Line > 0 && !strings.HasPrefix(name, "/") {
		if i := strings.LastIndexByte(l.Pos.File, '/'); i >= 0 {
			name = l.Pos.File[:i+1] + name
		}
	}
	if b.open == nil {
		return nil, "", &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: "files cannot be named here"}
	}
	f, err := b.open(name)
	if err != nil {
		var path *fs.PathError // says the name as it is, which may hold any bytes
		if errors.As(err, &path) {
			err = path.Err
		}
		return nil, "", &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: fmt.Sprintf("cannot open %.80q: %v", name, err)}
	}
	return f, name, nil
}

func (b *builder) destination(l Line) error {
	b.count++
	b.allows = b.allows || l.Word == "allow"
	rule := &Rule{Allow: l.Word == "allow", Text: l.Word + " " + l.Arg, Pos: l.Pos}
	if l.Pos.Line == 0 {
		rule.Text = l.Pos.File + " " + l.Arg
		rule.Pos = Pos{File: "command line"}
	}
	rule.reason = rule.why()
	if file, ok := strings.CutPrefix(l.Arg, "@"); ok {
		rule.scope = scope{ports: [ICMP][]portRange{allPorts, allPorts}, icmp: true}
		return b.list(l, rule, file)
	}
	var err error
	if rule.host, rule.scope, rule.ports, err = parseDestination(l.Arg); err != nil {
		if w, ok := err.(*wordError); ok {
			return w.at(l.Pos, l.Arg)
		}
		return err
	}
	b.add(rule)
	return nil
}

func (b *builder) add(r *Rule) {
	switch h := r.host; h.kind {
	case anyHost:
		b.any = append(b.any, r)
	case addresses:
		for _, p := range h.prefixes {
			b.prefixes.Modify(p, func(rules []*Rule, _ bool) ([]*Rule, bool) { return append(rules, r), false })
		}
	default:
		b.denyNames = b.denyNames || !r.Allow
		rules := b.names[h.name]
		if rules == nil {
			rules = new(nameRules)
			b.names[h.name] = rules
		}
		if h.kind != belowName {
			rules.exact = append(rules.exact, r)
		}
		if h.kind != exactName {
			rules.below = append(rules.below, r)
		}
	}
}

// list is a file of names and prefixes that one rule speaks of.
type list struct {
	rule     *Rule
	name     string             // of the file
	names    [addresses]nameSet // by hostKind
	prefixes bart.Table[uint32] // with the line
}

// findName finds the narrowest entry that n lies within.
func (l *list) findName(n Name) (h host, line int, ok bool) {
	if line, ok = l.names[exactName].find(n); ok {
		return host{kind: exactName, name: n}, line, true
	}
	below, tree := &l.names[belowName], &l.names[treeName]
	if below.count+tree.count == 0 {
		return h, 0, false
	}
	if line, ok = tree.find(n); ok {
		return host{kind: treeName, name: n}, line, true
	}
	for up := n.parent(); up != ""; up = up.parent() {
		if line, ok = below.find(up); ok {
			return host{kind: belowName, name: up}, line, true
		}
		if line, ok = tree.find(up); ok {
			return host{kind: treeName, name: up}, line, true
		}
	}
	return h, 0, false
}

func (b *builder) list(l Line, rule *Rule, file string) error {
	f, name, err := b.openFile(l, file)
	if err != nil {
		return err
	}
	defer f.Close()
	set := &list{rule: rule, name: name}
	err = readList(name, f, func(h host, line int) bool {
		if h.kind != addresses {
			return set.names[h.kind].add(h.name, line)
		}
		for _, p := range h.prefixes {
			if _, known := set.prefixes.Get(p); !known {
				set.prefixes.Insert(p, uint32(line))
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	for i := range set.names {
		set.names[i].index()
		b.denyNames = b.denyNames || !rule.Allow && set.names[i].count > 0
	}
	b.lists = append(b.lists, set)
	return nil
}
