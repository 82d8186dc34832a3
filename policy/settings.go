package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Settings are what the lines of a policy say to others than its rules: to the
// resolver, to the proxy, to what starts the app. What they name is for those to make
// sense of. They do not change.
type Settings struct {
	Shown []string // the paths of sockets that allow-unix lines name
	DNS   []Line   // the resolvers of dns lines
	Hosts []Line   // the files of hosts lines
	// Budget is what the dns-budget line sets, in questions an hour for each wildcard; nil without one.
	Budget *int
	// Upstreams are the chains of proxies that upstream lines make, by name, in
	// the order of the lines. That of Default is where flows go without a via.
	Upstreams map[string][]Line
	// SyntheticV4 and SyntheticV6 are where addresses come from that stand for
	// names beyond a chain. Invalid: not said.
	SyntheticV4, SyntheticV6 netip.Prefix
	// Isolate says what shares circuits of a Tor that flows go out by. Empty is
	// IsolateRun.
	Isolate string
}

// What shares circuits: all of a run, what goes to one host, what one process
// sends.
const (
	IsolateRun         = "run"
	IsolateDestination = "destination"
	IsolateProcess     = "process"
)

// Settings are what the same lines say to others. Whoever judges by a policy finds
// here what goes with it, and never what another one says.
func (p *Policy) Settings() *Settings { return p.settings }

// show takes in the path of a socket.
func (s *Settings) show(l Line) error {
	if !strings.HasPrefix(l.Arg, "/") {
		return &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: "the path of a socket is absolute"}
	}
	s.Shown = append(s.Shown, l.Arg)
	return nil
}

// hosts takes in a file of names and addresses.
func (s *Settings) hosts(l Line) error {
	name, err := l.path(l.Arg)
	if err != nil {
		return err
	}
	l.Arg = name
	s.Hosts = append(s.Hosts, l)
	return nil
}

// budget sets how many names may be asked for.
func (s *Settings) budget(l Line) error {
	n, err := strconv.Atoi(l.Arg)
	if err != nil || n < 0 {
		return &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: "the budget is a number of questions an hour; 0 is no limit"}
	}
	s.Budget = &n
	return nil
}

// upstream takes in a proxy, [NAME=]URL, at the end of the chain of the name.
func (s *Settings) upstream(l Line) error {
	name, url, ok := strings.Cut(l.Arg, "=")
	if !ok || strings.ContainsAny(name, ":/") { // "=" may be in the URL
		name, url = Default, l.Arg
	} else if name == Direct || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" || name == "" {
		return &SyntaxError{Pos: l.Pos, Word: name, Msg: "the name of an upstream is lower-case letters and digits, and not direct"}
	}
	l.Arg = url
	s.Upstreams[name] = append(s.Upstreams[name], l)
	return nil
}

// isolate sets what shares circuits.
func (s *Settings) isolate(l Line) error {
	kinds := []string{IsolateRun, IsolateDestination, IsolateProcess}
	switch {
	case !slices.Contains(kinds, l.Arg):
		return &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: "connections are isolated by run, destination or process", Hint: Nearest(l.Arg, kinds)}
	case s.Isolate != "" && s.Isolate != l.Arg:
		return &SyntaxError{Pos: l.Pos, Word: l.Arg, Msg: fmt.Sprintf("isolate was set to %s before", s.Isolate)}
	}
	s.Isolate = l.Arg
	return nil
}

// synthetic sets the prefix of one family. It has room for a few hundred names at
// least, and is none in which addresses mean something on every host.
func (s *Settings) synthetic(l Line) error {
	prefix, err := netip.ParsePrefix(l.Arg)
	at := &s.SyntheticV4
	if prefix.Addr().Is6() {
		at = &s.SyntheticV6
	}
	msg := ""
	switch {
	case err != nil:
		msg = "addresses that stand for names are given as a prefix, such as 198.18.0.0/15"
	case prefix != prefix.Masked():
		msg = fmt.Sprintf("there are bits beyond the prefix; %v is meant?", prefix.Masked())
	case prefix.Addr().BitLen()-prefix.Bits() < 8:
		msg = "the prefix has room for fewer than 256 addresses"
	case meantEverywhere(prefix):
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
