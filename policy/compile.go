package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
)

// Config is what a policy is compiled from.
type Config struct {
	Lines []Line
	// Open opens the files that "policy" and "@FILE" name. Nil: none can be named.
	Open func(name string) (io.ReadCloser, error)
}

// Compile compiles a policy. Mistakes are [*SyntaxError]s, the first of them joined.
func Compile(c Config) (*Policy, error) {
	p := newPolicy()
	p.from = newPolicy()
	p.from.ingress = true
	p.settings = &Settings{Upstreams: make(map[string][]Line)}
	b := builder{policy: p, settings: p.settings, words: Words(), open: c.Open, from: &builder{policy: p.from, open: c.Open}}
	b.all(c.Lines)
	if len(b.wrong) == 0 {
		b.checkVias()
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

func newPolicy() *Policy { return &Policy{names: make(map[Name]*nameRules), way: Direct} }

// builder makes a policy of lines.
type builder struct {
	policy   *Policy
	settings *Settings
	words    wordTable
	open     func(name string) (io.ReadCloser, error)
	from     *builder // of Policy.from; nil in itself, as are the settings and words there

	allows     bool     // there is an allow rule
	vias       []Line   // what rules have after via=
	defaultPos *Pos     // of the default; nil: none was set
	depth      int      // of files that include the one that is read
	files      int      // that were included
	wrong      mistakes // of all lines
}

// all takes in lines, and gathers what is wrong with them.
func (b *builder) all(lines []Line) {
	for _, line := range lines {
		if !b.wrong.add(b.line(line)) {
			return
		}
	}
}

func (b *builder) line(l Line) error {
	pos := l.Pos
	pos.Column = l.Start
	word, err := b.words.find(l.Word, pos)
	if err != nil {
		return err
	}
	return word.apply(b, l)
}

// setDefault takes in what becomes of flows that no rule matches.
func (b *builder) setDefault(l Line) error {
	choices := []string{Allow.String(), Deny.String()}
	if !slices.Contains(choices, l.Arg) {
		return &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: "the default is allow or deny", Hint: Nearest(l.Arg, choices)}
	}
	allow := l.Arg == Allow.String()
	if b.defaultPos != nil && b.policy.fallback != allow {
		return &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: fmt.Sprintf("the default was set otherwise before (%s)", b.defaultPos)}
	}
	b.policy.fallback = allow
	b.policy.fallbackText = fmt.Sprintf("default %s (%s)", l.Arg, l.Pos)
	b.defaultPos = &l.Pos
	return nil
}

// torName is the upstream that need not be defined: the Tor of this host.
const torName = "tor"

// checkVias sees that the upstreams exist that rules name, and has the policy know
// which there are.
func (b *builder) checkVias() {
	upstreams := b.settings.Upstreams
	for _, via := range b.vias {
		name := via.Arg
		switch {
		case name == Direct || upstreams[name] != nil:
		case name == torName:
			upstreams[torName] = []Line{{Word: "upstream", Arg: torName, Pos: via.Pos}}
		default:
			names := append(slices.Sorted(maps.Keys(upstreams)), Direct, torName)
			b.wrong.add(&SyntaxError{Pos: via.Pos, Word: name, Msg: "there is no upstream of this name", Hint: Nearest(name, names)})
		}
	}
	b.policy.chained = len(upstreams) > 0
	if upstreams[Default] != nil {
		b.policy.way = Default
	}
}

// maxDepth bounds how deep policy files may include others, maxFiles how many.
const (
	maxDepth = 8
	maxFiles = 1000
)

// include takes in the lines of a file.
func (b *builder) include(l Line) error {
	if b.depth == maxDepth {
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
		b.depth++
		b.all(lines)
		b.depth--
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
