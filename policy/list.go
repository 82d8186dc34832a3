package policy

import (
	"errors"
	"io"
	"net/netip"
	"strings"

	"github.com/gaissmai/bart"
)

// list is a file of names and prefixes that one rule speaks of.
type list struct {
	rule     *Rule
	names    [addresses]nameSet // by hostKind
	prefixes bart.Table[uint32] // with the line
}

// add adds what stands in a line, which is not before the last one's. fit must follow
// before findName.
func (l *list) add(h host, line uint32) error {
	if h.kind.named() {
		if !l.names[h.kind].add(h.name, line) {
			return errors.New("the list is too long")
		}
		l.rule.names++
		return nil
	}
	for _, p := range h.prefixes {
		if _, known := l.prefixes.Get(p); !known {
			l.prefixes.Insert(p, line)
		}
	}
	return nil
}

// fit makes the names ready to be found.
func (l *list) fit() {
	for i := range l.names {
		l.names[i].fit()
	}
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

// readList reads a hosts file (hosts(5): an address, then names that belong to
// the list) or a plain list of names, wildcards, addresses and prefixes.
func readList(name string, r io.Reader, add func(h host, line int) error) error {
	return eachLine(name, r, func(text string, number int) error {
		text, _, _ = strings.Cut(text, "#")
		word, rest := cutField(text)
		take := func(word string, parse func(string) (host, error)) error {
			h, err := parse(word)
			if err == nil {
				err = add(h, number)
			}
			if err != nil {
				return listError(name, number, text, word, err)
			}
			return nil
		}
		switch {
		case word == "":
			return nil
		case rest == "":
			return take(word, parseEntry)
		}
		if _, err := netip.ParseAddr(word); err != nil {
			return listError(name, number, text, rest, errors.New("only one entry a line, or an address and its names (hosts(5))"))
		}
		for rest != "" {
			word, rest = cutField(rest)
			if notMeant(word) {
				continue
			}
			if err := take(word, parseHostsName); err != nil {
				return err
			}
		}
		return nil
	})
}

// localNames stand in the head of every hosts file and are not meant.
var localNames = map[string]bool{
	"localhost": true, "localhost.localdomain": true, "local": true, "broadcasthost": true,
	"ip6-localhost": true, "ip6-loopback": true, "ip6-localnet": true, "ip6-mcastprefix": true,
	"ip6-allnodes": true, "ip6-allrouters": true, "ip6-allhosts": true,
}

// notMeant tells whether what stands for a name in a hosts file is there for other
// ends: names of the host itself, and "0.0.0.0 0.0.0.0", as many lists have it.
func notMeant(word string) bool {
	if localNames[strings.TrimSuffix(strings.ToLower(word), ".")] {
		return true
	}
	if !likeAddress(word) {
		return false
	}
	_, err := netip.ParseAddr(word)
	return err == nil
}

func listError(name string, line int, text, word string, err error) error {
	e := &SyntaxError{Pos: Pos{File: name, Line: line, Column: strings.LastIndex(text, word) + 1}, Word: word, Msg: err.Error()}
	var w *wordError
	if errors.As(err, &w) {
		e.Msg, e.Hint = w.msg, w.hint
	}
	return e
}

// parseEntry parses an entry of a list. There, internationalized names are
// taken in either spelling and keywords mean nothing.
func parseEntry(s string) (host, error) {
	if likeAddress(s) {
		if p, isAddress, err := parsePrefix(s); isAddress {
			return host{kind: addresses, prefixes: []netip.Prefix{p}}, err
		}
	}
	kind := exactName
	if r, ok := strings.CutPrefix(s, "*."); ok {
		kind, s = belowName, r
	} else if r, ok := strings.CutPrefix(s, "."); ok {
		kind, s = treeName, r
	}
	n, err := ParseName(s)
	if spelling, ok := errors.AsType[*SpellingError](err); ok {
		n, err = ParseName(spelling.Canonical)
	}
	return host{kind: kind, name: n}, err
}

// parseHostsName parses a name of a hosts file.
func parseHostsName(s string) (host, error) {
	h, err := parseEntry(s)
	if err == nil && h.kind != exactName {
		err = errors.New("not a name")
	}
	return h, err
}

// likeAddress tells whether s may be an address.
func likeAddress(s string) bool { return isDigit(s[0]) || strings.Count(s, ":") > 1 }
