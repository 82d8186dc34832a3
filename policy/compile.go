package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strconv"
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
var words = []string{"allow", "allow-suffix", "deny", "default", "policy", "hosts", "dns", "dns-budget", "upstream", "isolate", "synthetic", "allow-unix", "allow-from", "deny-from"}

// Compile compiles a policy. Mistakes are [*SyntaxError]s, the first of them joined.
func Compile(c Config) (*Policy, error) {
	p := newPolicy()
	p.from = newPolicy()
	p.from.ingress = true
	b := builder{Policy: p, open: c.Open, from: &builder{Policy: p.from, open: c.Open}}
	b.all(c.Lines, 0)
	if err := b.wrong.err(); err != nil {
		return nil, err
	}
	for _, via := range b.vias {
		if name := via.Arg; name != Direct && p.Upstreams[name] == nil && name != torName {
			names := append(slices.Sorted(maps.Keys(p.Upstreams)), Direct, torName)
			b.wrong.add(&SyntaxError{Pos: via.Pos, Word: name, Msg: "there is no upstream of this name", Hint: Nearest(name, names)})
		} else if name == torName && p.Upstreams[name] == nil {
			p.Upstreams[torName] = []Line{{Word: "upstream", Arg: torName, Pos: via.Pos}}
		}
	}
	if err := b.wrong.err(); err != nil {
		return nil, err
	}
	p.ancestors.fit()
	if b.defaultPos == nil {
		p.fallback = !b.allows && p.count > 0
	}
	p.from.fallback = !b.from.allows
	return p, nil
}

func newPolicy() *Policy {
	return &Policy{names: make(map[Name]*nameRules), Upstreams: make(map[string][]Line)}
}

type builder struct {
	*Policy
	open       func(name string) (io.ReadCloser, error)
	from       *builder // of Policy.from
	allows     bool     // there is an allow rule
	vias       []Line   // what rules have after via=
	defaultPos *Pos
	files      int      // that were included
	wrong      mistakes // of all lines
}

// maxDepth bounds how deep policy files may include others, maxFiles how many.
const (
	maxDepth = 8
	maxFiles = 1000
)

// all takes in lines, and gathers what is wrong with them.
func (b *builder) all(lines []Line, depth int) {
	for _, line := range lines {
		if !b.wrong.add(b.line(line, depth)) {
			return
		}
	}
}

func (b *builder) line(l Line, depth int) error {
	switch l.Word {
	case "allow", "allow-suffix", "deny":
		return b.destination(l)
	case "allow-from", "deny-from":
		return b.from.destination(l)
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
	case "upstream":
		name, url, ok := strings.Cut(l.Arg, "=")
		if !ok || strings.ContainsAny(name, ":/") { // "=" may be in the URL
			name, url = Default, l.Arg
		} else if name == Direct || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" || name == "" {
			return &SyntaxError{Pos: l.Pos, Word: name, Msg: "the name of an upstream is lower-case letters and digits, and not direct"}
		}
		l.Arg = url
		b.Upstreams[name] = append(b.Upstreams[name], l)
		return nil
	case "isolate":
		kinds := []string{IsolateRun, IsolateDestination, IsolateProcess}
		switch {
		case !slices.Contains(kinds, l.Arg):
			return &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: "connections are isolated by run, destination or process", Hint: Nearest(l.Arg, kinds)}
		case b.Isolate != "" && b.Isolate != l.Arg:
			return &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: fmt.Sprintf("isolate was set to %s before", b.Isolate)}
		}
		b.Isolate = l.Arg
		return nil
	case "synthetic":
		return b.synthetic(l)
	case "dns":
		b.DNS = append(b.DNS, l)
		return nil
	case "dns-budget":
		n, err := strconv.Atoi(l.Arg)
		if err != nil || n < 0 {
			return &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: "the budget is a number of names an hour; 0 is no limit"}
		}
		b.Budget = &n
		return nil
	case "hosts":
		name, err := l.path(l.Arg)
		if err != nil {
			return err
		}
		l.Arg = name
		b.Hosts = append(b.Hosts, l)
		return nil
	}
	pos := l.Pos
	pos.Column = l.Start
	return unknownWord(pos, l.Word)
}

func unknownWord(pos Pos, word string) error {
	return &SyntaxError{Pos: pos, Word: word, Msg: "unknown word", Hint: Nearest(word, words)}
}

// synthetic sets the prefix of one family. It has room for a few hundred names at
// least, and is none in which addresses mean something on every host.
func (b *builder) synthetic(l Line) error {
	prefix, err := netip.ParsePrefix(l.Arg)
	at := &b.SyntheticV4
	if prefix.Addr().Is6() {
		at = &b.SyntheticV6
	}
	msg := ""
	switch {
	case err != nil:
		msg = "addresses that stand for names are given as a prefix, such as 198.18.0.0/15"
	case prefix != prefix.Masked():
		msg = fmt.Sprintf("there are bits beyond the prefix; %v is meant?", prefix.Masked())
	case prefix.Addr().BitLen()-prefix.Bits() < 8:
		msg = "the prefix has room for fewer than 256 addresses"
	case slices.ContainsFunc([]string{"127.0.0.0/8", "::1/128", "224.0.0.0/3", "ff00::/8", "169.254.0.0/16", "fe80::/10", "0.0.0.0/8", "192.0.0.0/24", "::ffff:0:0/96"}, func(s string) bool {
		return netip.MustParsePrefix(s).Overlaps(prefix)
	}):
		msg = "the prefix has addresses that mean something else on every host"
	case at.IsValid() && *at != prefix:
		msg = fmt.Sprintf("it was set to %v before", *at)
	}
	if msg != "" {
		return &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: msg}
	}
	*at = prefix
	return nil
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
	if b.files++; b.files > maxFiles {
		return &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: fmt.Sprintf("policy files are included more than %d times", maxFiles)}
	}
	f, name, err := b.openFile(l, l.Arg)
	if err != nil {
		return err
	}
	defer f.Close()
	lines, err := ReadLines(name, f)
	if b.wrong.add(err) {
		b.all(lines, depth+1)
	}
	return nil
}

// path is the path of a file named in the line: relative to that line's file,
// or to the working directory if it is of the command line.
func (l Line) path(name string) (string, error) {
	if name == "" {
		return "", &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: "empty file name"}
	}
	if l.Pos.Line > 0 && !strings.HasPrefix(name, "/") {
		if i := strings.LastIndexByte(l.Pos.File, '/'); i >= 0 {
			name = l.Pos.File[:i+1] + name
		}
	}
	return name, nil
}

// openFile opens a file named in a line.
func (b *builder) openFile(l Line, name string) (io.ReadCloser, string, error) {
	name, err := l.path(name)
	if err != nil {
		return nil, "", err
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
	rule := &Rule{Action: action(!strings.HasPrefix(l.Word, "deny")), Text: l.Word + " " + l.Arg, Pos: l.Pos}
	b.allows = b.allows || rule.Allows()
	if l.Pos.Line == 0 {
		rule.Text = l.Pos.File + " " + l.Arg
		rule.Pos = Pos{File: "command line"}
	}
	b.rules = append(b.rules, rule)
	if dest, via, ok := cutVia(l.Arg); ok && !b.ingress {
		pos := l.Pos
		pos.Column = max(pos.Column, 1) + strings.LastIndex(l.Arg, via)
		if !rule.Allows() || via == "" {
			return &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: "via=NAME follows what is allowed"}
		}
		l.Arg, rule.via = dest, via
		b.vias = append(b.vias, Line{Arg: via, Pos: pos})
	}
	if file, ok := strings.CutPrefix(l.Arg, "@"); ok {
		rule.scope = scope{ports: [ICMP][]portRange{allPorts, allPorts}, icmp: true}
		return b.list(l, rule, file)
	}
	var err error
	rule.host, rule.scope, rule.ports, err = parseDestination(l.Arg)
	if err == nil && l.Word == "allow" {
		err = rule.host.checkSuffix()
	}
	if err == nil && b.ingress {
		err = checkClient(rule.host, rule.scope, l.Arg)
	}
	if err != nil {
		if w, ok := err.(*wordError); ok {
			return w.at(l.Pos, l.Arg)
		}
		return err
	}
	b.add(rule)
	return nil
}

var errClientName = errors.New("a client is known by its address alone")

// checkClient is an error for rules that no client can match.
func checkClient(h host, sc scope, arg string) error {
	switch {
	case h.kind != anyHost && h.kind != addresses:
		return &wordError{word: arg, msg: errClientName.Error()}
	case len(sc.ports[TCP])+len(sc.ports[UDP]) == 0:
		return &wordError{word: arg, msg: "only TCP and UDP ports are published"}
	}
	return nil
}

// torName is the upstream that need not be defined: the Tor of this host.
const torName = "tor"

// cutVia takes the part via=NAME off a destination.
func cutVia(arg string) (dest, via string, ok bool) {
	dest, rest := cutField(arg)
	via, ok = strings.CutPrefix(strings.TrimRight(rest, " \t"), "via=")
	return dest, via, ok
}

// opened records that names of the host may be resolved.
func (b *builder) opened(h host) {
	if h.kind == anyHost || h.kind == addresses {
		return
	}
	up := h.name
	if h.kind == exactName {
		up = up.parent()
	}
	for ; up != ""; up = up.parent() {
		if !b.ancestors.insert(up) {
			return // it is known, and so are those above
		}
	}
}

func (b *builder) add(r *Rule) {
	if r.Allows() {
		b.opened(r.host)
	}
	switch h := r.host; h.kind {
	case anyHost:
		b.any = append(b.any, r)
	case addresses:
		for _, p := range h.prefixes {
			b.prefixes.Modify(p, func(rules []*Rule, _ bool) ([]*Rule, bool) { return append(rules, r), false })
		}
	default:
		r.names = 1
		b.denyNames = b.denyNames || !r.Allows()
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
	names    [addresses]nameSet // by hostKind
	prefixes bart.Table[uint32] // with the line
}

// findName finds the narrowest entry that n lies within.
func (l *list) findName(n Name) (h host, line uint32, ok bool) {
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
	rule.list = name
	set := &list{rule: rule}
	err = readList(name, f, func(h host, line int) error {
		if l.Word == "allow" {
			if err := h.checkSuffix(); err != nil {
				return err
			}
		}
		if rule.Allows() {
			b.opened(h)
		}
		if b.ingress && h.kind != addresses {
			return errClientName
		}
		if h.kind != addresses {
			if !set.names[h.kind].add(h.name, uint32(line)) {
				return errors.New("the list is too long")
			}
			rule.names++
			return nil
		}
		for _, p := range h.prefixes {
			if _, known := set.prefixes.Get(p); !known {
				set.prefixes.Insert(p, uint32(line))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range set.names {
		set.names[i].fit()
		b.denyNames = b.denyNames || !rule.Allows() && set.names[i].count > 0
	}
	b.lists = append(b.lists, set)
	return nil
}
