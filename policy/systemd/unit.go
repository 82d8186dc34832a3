package systemd

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"appfw/policy"
)

// File is a file of a unit: itself, or a drop-in.
type File struct {
	Name    string // as errors and comments are to call it
	Content []byte
}

// Unit is what the files of a unit say about the network, as systemd reads them
// (systemd.syntax(7)): a mistake that systemd would warn of and skip is an error,
// as what then holds is not what its author thinks.
type Unit struct {
	section     string // that it has such settings in: Service, Socket, ...
	started     bool   // there was some section
	allow, deny []prefix
	env         map[string]value
	unset       []value
	others      []value // settings of the network that are not imported
}

// value is something that was written in a unit.
type value struct {
	text string // as one would write it: IPAddressAllow=localhost
	pos  policy.Pos
}

// String is one line, whatever is in the unit.
func (v value) String() string { return policy.Printable(v.text+" ("+v.pos.String()+")", 0) }

// resourceSections have systemd.resource-control(5) settings.
var resourceSections = []string{"Service", "Socket", "Mount", "Swap", "Slice", "Scope"}

// otherSettings keep a unit from the network as well. A policy has nothing for them.
var otherSettings = []string{
	"PrivateNetwork", "NetworkNamespacePath", "RestrictAddressFamilies", "RestrictNetworkInterfaces", "IPIngressFilterPath",
	"IPEgressFilterPath", "BPFProgram", "SocketBindAllow", "SocketBindDeny", "EnvironmentFile", "PassEnvironment",
}

// Read reads the files of a unit, in the order in which systemd does: itself, then
// its drop-ins by their names. A mistake in them is a [*policy.SyntaxError].
func Read(files []File) (*Unit, error) {
	if len(files) == 0 {
		return nil, errors.New("a unit has at least one file")
	}
	u := &Unit{env: make(map[string]value)}
	for _, f := range files {
		if err := u.read(f); err != nil {
			return nil, err
		}
	}
	if !u.started {
		return nil, fmt.Errorf("%s: no section in it: it is no unit, or a masked one", files[0].Name)
	}
	return u, nil
}

func (u *Unit) read(f File) error {
	section := ""
	for l := range logicalLines(f.Name, string(bytes.TrimPrefix(f.Content, []byte("\ufeff")))) {
		if err := u.line(&l, &section); err != nil {
			return err
		}
	}
	return nil
}

// line takes in a line.
func (u *Unit) line(l *line, section *string) error {
	start := len(l.text) - len(strings.TrimLeft(l.text, blanks))
	text := strings.Trim(l.text, blanks)
	if text == "" {
		return nil
	}
	for i, r := range l.text {
		if _, n := utf8.DecodeRuneInString(l.text[i:]); r == utf8.RuneError && n == 1 || r == 0 {
			return l.error(i, "", "not a text in UTF-8")
		}
	}
	if text[0] == '[' {
		if text[len(text)-1] != ']' {
			return l.error(start, text, "a section is written [NAME]")
		}
		*section, u.started = text[1:len(text)-1], true
		return nil
	}
	key, _, assigns := strings.Cut(text, "=")
	if *section == "" {
		return l.error(start, key, "this stands before any [Section]")
	}
	if !slices.Contains(resourceSections, *section) {
		return nil
	}
	if !assigns || key == "" {
		return l.error(start, text, "not KEY=VALUE")
	}
	at := start + len(key) + 1
	key = strings.TrimRight(key, blanks)
	taken, err := u.setting(l, key, start, at)
	if !taken {
		return nil
	}
	if u.section == "" {
		u.section = *section
	}
	if err == nil && u.section != *section {
		err = l.error(start, key, fmt.Sprintf("this is in [%s], and others are in [%s]: give the files of one unit", *section, u.section))
	}
	return err
}

// setting takes in a setting that begins at start, with its value from the offset
// at on; false if it is none of the network.
func (u *Unit) setting(l *line, key string, start, at int) (taken bool, err error) {
	switch {
	case key == "IPAddressAllow":
		return true, addresses(l, key, at, &u.allow)
	case key == "IPAddressDeny":
		return true, addresses(l, key, at, &u.deny)
	case key == "Environment" || key == "UnsetEnvironment":
		return true, u.environment(l, key, at)
	case slices.Contains(otherSettings, key):
		u.others = append(u.others, value{fmt.Sprintf("%s=%.80s", key, strings.Trim(l.text[at:], blanks)), l.pos(start)})
		return true, nil
	}
	return false, nil
}

// environment takes in the variables that stand from the offset on; nothing resets
// the list.
func (u *Unit) environment(l *line, key string, at int) error {
	empty := true
	for {
		word, start, next, err := l.word(at)
		switch {
		case err != nil:
			return err
		case next < 0 && empty && key == "Environment":
			u.env = make(map[string]value)
			return nil
		case next < 0 && empty:
			u.unset = nil
			return nil
		case next < 0:
			return nil
		}
		name, text, assigns := strings.Cut(word, "=")
		switch {
		case key == "UnsetEnvironment":
			u.unset = append(u.unset, value{word, l.pos(start)})
		case !assigns || name == "":
			return l.error(start, word, "not VARIABLE=VALUE")
		default:
			u.env[name] = value{text, l.pos(start)}
		}
		at, empty = next, false
	}
}

// variable is what the unit's environment has for a name; false if it is not set.
func (u *Unit) variable(name string) (value, bool) {
	v, ok := u.env[name]
	unset := slices.ContainsFunc(u.unset, func(w value) bool { return w.text == name || w.text == name+"="+v.text })
	return v, ok && v.text != "" && !unset
}
