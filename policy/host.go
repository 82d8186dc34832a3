package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// hostKind is what the HOST of a destination can be.
type hostKind uint8

const (
	anyHost   hostKind = iota
	exactName          // name
	belowName          // *.name: any depth below, not name itself
	treeName           // .name: both
	addresses          // prefixes
)

// named tells whether such hosts are known by name.
func (k hostKind) named() bool { return k == exactName || k == belowName || k == treeName }

// host is a set of hosts. A host known by name and one known by address are
// different things: neither kind contains the other, and any contains both.
type host struct {
	kind     hostKind
	name     Name
	prefixes []netip.Prefix
}

// contains tells whether every host of o is in h.
func (h host) contains(o host) bool {
	switch h.kind {
	case anyHost:
		return true
	case addresses:
		return o.kind == addresses && !slices.ContainsFunc(o.prefixes, func(p netip.Prefix) bool {
			return !slices.ContainsFunc(h.prefixes, func(q netip.Prefix) bool { return covers(q, p) })
		})
	}
	if !o.kind.named() {
		return false
	}
	if o.name.within(h.name) {
		return h.kind != exactName
	}
	return o.name == h.name && (h.kind == o.kind || h.kind == treeName)
}

// checkSuffix is an error for a wildcard over a public suffix (publicsuffix.org):
// anybody can have names there. A top-level domain that is on no list (".corp")
// is somebody's own, and ".onion" is all there is to allow for Tor.
func (h host) checkSuffix() error {
	if h.kind != belowName && h.kind != treeName {
		return nil
	}
	suffix, icann := publicsuffix.PublicSuffix(string(h.name))
	if suffix != string(h.name) || !icann && !strings.Contains(suffix, ".") || suffix == "onion" {
		return nil
	}
	return &wordError{word: string(h.name), msg: fmt.Sprintf("anybody can have a name below %s, a public suffix; if all of them are meant, write allow-suffix for allow", h.name)}
}

// SuffixDate is the day of the list of public suffixes that policies are checked by.
func SuffixDate() string {
	_, date, _ := strings.Cut(publicsuffix.List.String(), "(")
	date, _, _ = strings.Cut(date, "T")
	return date
}

// covers tells whether p lies within q.
func covers(q, p netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }

// parseHost parses the HOST of a destination.
func parseHost(s string) (host, error) {
	switch {
	case s == anyWord:
		return host{kind: anyHost}, nil
	case s == "*":
		return host{}, &wordError{word: s, msg: "every host is written any"}
	case s == "":
		return host{}, &wordError{word: s, msg: "empty host; every host is written any"}
	case slices.Contains(keywords, s):
		return host{kind: addresses, prefixes: Keyword(s)}, nil
	}
	if p, isAddress, err := parsePrefix(s); isAddress {
		return host{kind: addresses, prefixes: []netip.Prefix{p}}, err
	}
	kind, rest := exactName, s
	if r, ok := strings.CutPrefix(s, "*."); ok {
		kind, rest = belowName, r
	} else if r, ok := strings.CutPrefix(s, "."); ok {
		kind, rest = treeName, r
	}
	if kind == exactName {
		if hint := likeKeyword(s); hint != "" {
			return host{}, &wordError{word: s, msg: "unknown word", hint: fmt.Sprintf("%s; the host of that name is written %q", hint, s+".")}
		}
	}
	name, err := ParseName(rest)
	if spelling, ok := errors.AsType[*SpellingError](err); ok {
		hint := strings.TrimSuffix(s, rest) + spelling.Canonical
		return host{}, &wordError{word: s, msg: "an internationalized name is written in ASCII", hint: hint}
	}
	if err != nil {
		return host{}, &wordError{word: s, msg: notOne(s, err)}
	}
	return host{kind: kind, name: name}, nil
}

// notOne is what is wrong with a word that is no host: rather that it is several.
func notOne(s string, err error) string {
	from, to, ok := strings.Cut(s, "-")
	_, ferr := netip.ParseAddr(from)
	_, terr := netip.ParseAddr(to)
	switch {
	case ok && ferr == nil && terr == nil:
		return "ranges of addresses are written as prefixes, such as 10.0.0.0/24"
	case strings.Contains(s, ","):
		return "only one host stands in a destination; write one for each"
	}
	return err.Error()
}

// likeKeyword is the keyword that a single label was probably meant to be: one
// mistyped letter, or another firewall's word, must not turn it into a name.
func likeKeyword(s string) string {
	switch strings.ToLower(s) {
	case "all", "everything":
		return anyWord
	case "loopback":
		return "localhost"
	}
	if strings.Contains(s, ".") {
		return ""
	}
	return Nearest(s, keywords)
}

// parsePrefix parses an address or a CIDR prefix; isAddress tells whether s
// was meant as one.
func parsePrefix(s string) (p netip.Prefix, isAddress bool, err error) {
	addr, length, hasLength := strings.Cut(s, "/")
	a, aerr := netip.ParseAddr(addr)
	if aerr != nil {
		if hasLength || strings.Contains(addr, ":") {
			return p, true, &wordError{word: s, msg: "not an address or prefix"}
		}
		return p, false, nil
	}
	if a.Zone() != "" {
		return p, true, &wordError{word: s, msg: "an address in a rule has no zone"}
	}
	bits := a.BitLen()
	if hasLength {
		bits, err = strconv.Atoi(length)
		if err != nil || bits < 0 || bits > a.BitLen() || length != strconv.Itoa(bits) {
			return p, true, &wordError{word: length, msg: fmt.Sprintf("prefix length is not a number from 0 to %d", a.BitLen())}
		}
	}
	if a.Is4In6() && bits >= 96 {
		a, bits = a.Unmap(), bits-96
	}
	p = netip.PrefixFrom(a, bits)
	if m := p.Masked(); m != p {
		return p, true, &wordError{word: s, msg: "prefix has host bits set", hint: fmt.Sprintf("%s or %s", m, a)}
	}
	return p, true, nil
}
