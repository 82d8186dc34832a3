package policy

import (
	"errors"
	"strings"
)

// breadth is what the wildcards of a rule may be over.
type breadth bool

const (
	narrow breadth = false // names that have an owner
	broad  breadth = true  // public suffixes as well, where anybody can have a name
)

// rule takes in a line that allows or denies.
func (b *builder) rule(l Line, a Action, wide breadth) error {
	p := b.policy
	p.count++
	r := &Rule{Action: a, Text: l.Word + " " + l.Arg, Pos: l.Pos}
	b.allows = b.allows || r.Allows()
	if l.Pos.Line == 0 {
		r.Text = l.Pos.File + " " + l.Arg
		r.Pos = Pos{File: "command line"}
	}
	p.rules = append(p.rules, r)
	if err := b.takeVia(r, &l); err != nil {
		return err
	}
	if file, ok := strings.CutPrefix(l.Arg, "@"); ok {
		r.dest.scope = everyFlow
		return b.list(l, r, file, wide)
	}
	var err error
	r.dest, err = parseDestination(l.Arg)
	if err == nil && !wide {
		err = r.dest.host.checkSuffix()
	}
	if err == nil && p.ingress {
		err = r.dest.checkClient(l.Arg)
	}
	if err != nil {
		if w, ok := err.(*wordError); ok {
			return w.at(l.Pos, l.Arg)
		}
		return err
	}
	p.add(r)
	return nil
}

// takeVia takes the part via=NAME off the line of a rule for destinations.
func (b *builder) takeVia(r *Rule, l *Line) error {
	dest, via, ok := cutVia(l.Arg)
	if !ok || b.policy.ingress {
		return nil
	}
	pos := l.Pos
	pos.Column = max(pos.Column, 1) + strings.LastIndex(l.Arg, via)
	if !r.Allows() || via == "" {
		return &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: "via=NAME follows what is allowed"}
	}
	l.Arg, r.via = dest, via
	b.vias = append(b.vias, Line{Arg: via, Pos: pos})
	return nil
}

// cutVia divides a destination from the NAME of via=NAME behind it.
func cutVia(arg string) (dest, via string, ok bool) {
	dest, rest := cutField(arg)
	via, ok = strings.CutPrefix(strings.TrimRight(rest, " \t"), "via=")
	return dest, via, ok
}

var errClientName = errors.New("a client is known by its address alone")

// checkClient is an error for what no client can match. arg is how it was written.
func (d *destination) checkClient(arg string) error {
	switch {
	case d.host.kind.named():
		return &wordError{word: arg, msg: errClientName.Error()}
	case len(d.scope.ports[TCP])+len(d.scope.ports[UDP]) == 0:
		return &wordError{word: arg, msg: "only TCP and UDP ports are published"}
	}
	return nil
}

// list takes in a rule for what a file lists.
func (b *builder) list(l Line, r *Rule, file string, wide breadth) error {
	f, name, err := b.openFile(l, file)
	if err != nil {
		return err
	}
	defer f.Close()
	p := b.policy
	r.list = name
	set := &list{rule: r}
	err = readList(name, f, func(h host, line int) error {
		if !wide {
			if err := h.checkSuffix(); err != nil {
				return err
			}
		}
		if p.ingress && h.kind.named() {
			return errClientName
		}
		if r.Allows() {
			p.opened(h)
		}
		return set.add(h, uint32(line))
	})
	if err != nil {
		return err
	}
	set.fit()
	p.denyNames = p.denyNames || !r.Allows() && r.names > 0
	p.lists = append(p.lists, set)
	return nil
}

// add adds a rule that has no list.
func (p *Policy) add(r *Rule) {
	if r.Allows() {
		p.opened(r.dest.host)
	}
	switch h := r.dest.host; h.kind {
	case anyHost:
		p.any = append(p.any, r)
	case addresses:
		for _, prefix := range h.prefixes {
			p.prefixes.Modify(prefix, func(rules []*Rule, _ bool) ([]*Rule, bool) { return append(rules, r), false })
		}
	default:
		r.names = 1
		p.denyNames = p.denyNames || !r.Allows()
		rules := p.names[h.name]
		if rules == nil {
			rules = new(nameRules)
			p.names[h.name] = rules
		}
		if h.kind != belowName {
			rules.exact = append(rules.exact, r)
		}
		if h.kind != exactName {
			rules.below = append(rules.below, r)
		}
	}
}

// opened records that names of the host may be resolved.
func (p *Policy) opened(h host) {
	if !h.kind.named() {
		return
	}
	up := h.name
	if h.kind == exactName {
		up = up.parent()
	}
	for ; up != ""; up = up.parent() {
		if !p.ancestors.insert(up) {
			return // it is known, and so are those above
		}
	}
}
