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

// Proto is a transport protocol that rules can name.
type Proto uint8

const (
	TCP Proto = iota
	UDP
	ICMP
	protoCount
)

var protoNames = [protoCount]string{"tcp", "udp", "icmp"}

func (p Proto) String() string { return protoNames[p] }

// ParseProto parses "tcp", "udp" or "icmp".
func ParseProto(s string) (Proto, error) {
	if i := slices.Index(protoNames[:], s); i >= 0 {
		return Proto(i), nil
	}
	return 0, &wordError{word: s, msg: "unknown protocol", hint: Nearest(s, protoNames[:])}
}

// Rule is one line of a policy that allows or denies destinations.
type Rule struct {
	Action Action
	Text   string // as it was written: "allow example.com:443"
	Pos    Pos

	host  host
	scope scope
	ports bool   // the rule names ports
	names int    // how many names and wildcards it speaks of
	via   string // how what it allows goes out: Direct, Default, or a chain's name
	list  string // the file of its list; "" if it has none
}

// Allows tells whether what the rule matches may be.
func (r *Rule) Allows() bool { return r.Action == Allow }

func (r *Rule) String() string { return r.Text + " (" + r.Pos.String() + ")" }

// hostKind is what the HOST of a destination can be.
type hostKind uint8

const (
	anyHost   hostKind = iota
	exactName          // name
	belowName          // *.name: any depth below, not name itself
	treeName           // .name: both
	addresses          // prefixes
)

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
	if o.kind == anyHost || o.kind == addresses {
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

// covers tells whether p lies within q.
func covers(q, p netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }

// portRange is from lo to hi, both included.
type portRange struct{ lo, hi uint16 }

// scope is which flows to a host are meant.
type scope struct {
	ports [ICMP][]portRange // by protocol, sorted, neither overlapping nor adjacent
	icmp  bool
}

var allPorts = []portRange{{0, 65535}}

func (s *scope) matches(proto Proto, port uint16) bool {
	if proto == ICMP {
		return s.icmp
	}
	for _, r := range s.ports[proto] {
		if r.lo <= port && port <= r.hi {
			return true
		}
	}
	return false
}

func (s *scope) contains(o *scope) bool {
	if o.icmp && !s.icmp {
		return false
	}
	for proto := range s.ports {
		for _, r := range o.ports[proto] {
			if !slices.ContainsFunc(s.ports[proto], func(q portRange) bool { return q.lo <= r.lo && r.hi <= q.hi }) {
				return false
			}
		}
	}
	return true
}

// parseDestination parses HOST[:PORTS][/PROTO].
func parseDestination(s string) (h host, sc scope, ports bool, err error) {
	if s == "" {
		return h, sc, false, &wordError{word: s, msg: "empty destination; every destination is written any"}
	}
	if i := strings.Index(s, "://"); i >= 0 {
		hint, _, _ := strings.Cut(s[i+3:], "/")
		return h, sc, false, &wordError{word: s[:i+3], msg: "a destination has no scheme", hint: ifValid(hint)}
	}
	hostPart, portPart, protoPart, err := splitDestination(s)
	if err != nil {
		return h, sc, false, err
	}
	if h, err = parseHost(hostPart); err != nil {
		return h, sc, false, err
	}
	sc = scope{ports: [ICMP][]portRange{allPorts, allPorts}, icmp: true}
	if portPart != "" {
		list, err := parsePorts(portPart)
		if err != nil {
			return h, sc, false, err
		}
		sc = scope{ports: [ICMP][]portRange{list, list}}
	}
	if protoPart != "" {
		proto, err := ParseProto(protoPart)
		if err != nil {
			return h, sc, false, err
		}
		switch {
		case proto == ICMP && portPart != "":
			return h, sc, false, &wordError{word: portPart, msg: "ICMP has no ports"}
		case proto == ICMP:
			sc = scope{icmp: true}
		default:
			list := sc.ports[proto]
			sc = scope{}
			sc.ports[proto] = list
		}
	}
	return h, sc, portPart != "", nil
}

// ifValid is s if that is a destination, else "": a hint has to be good.
func ifValid(s string) string {
	if _, _, _, err := parseDestination(s); err != nil {
		return ""
	}
	return s
}

// splitDestination takes the parts of a destination apart. What follows the
// last slash is a protocol if it starts with a letter, else a prefix length.
func splitDestination(s string) (host, ports, proto string, err error) {
	rest := s
	if i := strings.LastIndexByte(s, '/'); i >= 0 {
		if proto, ports, ok := strings.Cut(s[i+1:], ":"); ok && slices.Contains(protoNames[:], proto) {
			hint := ifValid(s[:i] + ":" + ports + "/" + proto)
			return "", "", "", &wordError{word: s, msg: "ports come before the protocol", hint: hint}
		}
	}
	if i := strings.LastIndexByte(rest, '/'); i >= 0 && i+1 < len(rest) && !isDigit(rest[i+1]) && !strings.Contains(rest[i:], "]") && !strings.Contains(rest[i:], ":") {
		rest, proto = rest[:i], rest[i+1:]
	}
	if inner, ok := strings.CutPrefix(rest, "["); ok {
		end := strings.IndexByte(inner, ']')
		if end < 0 {
			return "", "", "", &wordError{word: rest, msg: "bracket is not closed"}
		}
		host, rest = inner[:end], inner[end+1:]
		if strings.HasPrefix(rest, "/") { // [2001:db8::]/32:443
			n := strings.IndexByte(rest, ':')
			if n < 0 {
				n = len(rest)
			}
			host, rest = host+rest[:n], rest[n:]
		}
		if !strings.Contains(host, ":") {
			return "", "", "", &wordError{word: "[" + host + "]", msg: "brackets are for IPv6 addresses"}
		}
		if rest != "" && rest[0] != ':' {
			return "", "", "", &wordError{word: rest, msg: "unexpected text after the bracket"}
		}
	} else if strings.Count(rest, ":") > 1 { // an IPv6 address without a port
		return rest, "", proto, nil
	} else {
		host, rest = rest, ""
		if i := strings.IndexByte(host, ':'); i >= 0 {
			host, rest = host[:i], host[i:]
		}
	}
	if rest == ":" {
		return "", "", "", &wordError{word: s, msg: "no port after the colon"}
	}
	return host, strings.TrimPrefix(rest, ":"), proto, nil
}

func parseHost(s string) (host, error) {
	switch {
	case s == "any":
		return host{kind: anyHost}, nil
	case s == "*":
		return host{}, &wordError{word: s, msg: "every host is written any"}
	case s == "":
		return host{}, &wordError{word: s, msg: "empty host; every host is written any"}
	case keywords[s] != nil:
		return host{kind: addresses, prefixes: keywords[s]}, nil
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
	var spelling *SpellingError
	if errors.As(err, &spelling) {
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
		return "any"
	case "loopback":
		return "localhost"
	}
	if strings.Contains(s, ".") {
		return ""
	}
	return Nearest(s, keywordList)
}

var keywordList = []string{"any", "link-local", "localhost", "multicast", "private"}

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

// parsePorts parses 443, 80,443 and 8000-8999.
func parsePorts(s string) ([]portRange, error) {
	var list []portRange
	for item := range strings.SplitSeq(s, ",") {
		lo, hi, isRange := strings.Cut(item, "-")
		r := portRange{}
		var err error
		if r.lo, err = parsePort(lo); err != nil {
			return nil, err
		}
		r.hi = r.lo
		if isRange {
			if r.hi, err = parsePort(hi); err != nil {
				return nil, err
			}
			if r.hi < r.lo {
				return nil, &wordError{word: item, msg: "port range goes backwards", hint: hi + "-" + lo}
			}
		}
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b portRange) int { return int(a.lo) - int(b.lo) })
	merged := list[:1]
	for _, r := range list[1:] {
		if last := &merged[len(merged)-1]; int(r.lo) <= int(last.hi)+1 {
			last.hi = max(last.hi, r.hi)
		} else {
			merged = append(merged, r)
		}
	}
	return merged, nil
}

// wellKnown are ports by names that are written for them (IANA's service names).
var wellKnown = map[string]string{
	"http": "80", "https": "443", "ssh": "22", "domain": "53", "dns": "53", "ntp": "123", "smtp": "25", "submission": "587",
	"imap": "143", "imaps": "993", "ftp": "21", "ldap": "389", "ldaps": "636", "mysql": "3306", "postgresql": "5432", "redis": "6379",
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '0' || s[0] == '+' {
		return 0, &wordError{word: s, msg: "port is not a number from 1 to 65535", hint: wellKnown[strings.ToLower(s)]}
	}
	return uint16(n), nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
