package main

import (
	"bytes"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/gaissmai/bart"

	"appfw/policy"
	"appfw/proxy"
)

// unitFile is a file of a unit: itself, or a drop-in.
type unitFile struct {
	name    string
	content []byte
}

// unit is what the files of a unit say about the network, as systemd reads them
// (systemd.syntax(7)): a mistake that systemd would warn of and skip is an error,
// as what then holds is not what its author thinks.
type unit struct {
	section     string // that it has such settings in: Service, Socket, ...
	started     bool   // there was some section
	allow, deny []unitPrefix
	env         map[string]unitValue
	unset       []unitValue
	others      []unitValue // settings of the network that are not imported
}

// unitPrefix is an entry of IPAddressAllow= or IPAddressDeny=.
type unitPrefix struct {
	netip.Prefix
	from unitValue
}

type unitValue struct {
	text string // as one would write it: IPAddressAllow=localhost
	pos  policy.Pos
}

func (v unitValue) String() string { return printable(v.text + " (" + v.pos.String() + ")") }

// resourceSections have systemd.resource-control(5) settings.
var resourceSections = []string{"Service", "Socket", "Mount", "Swap", "Slice", "Scope"}

// otherSettings keep a unit from the network as well. A policy has nothing for them.
var otherSettings = []string{
	"PrivateNetwork", "NetworkNamespacePath", "RestrictAddressFamilies", "RestrictNetworkInterfaces", "IPIngressFilterPath",
	"IPEgressFilterPath", "BPFProgram", "SocketBindAllow", "SocketBindDeny", "EnvironmentFile", "PassEnvironment",
}

// unitLine is a line of a unit file together with those that continue it.
type unitLine struct {
	file   string
	text   string
	pieces []unitPiece
}

// unitPiece is where a line of the file begins in the text.
type unitPiece struct{ offset, line int }

func (l *unitLine) add(text string, number int) {
	l.pieces = append(l.pieces, unitPiece{len(l.text), number})
	l.text += text
}

// pos is where the text at the offset was written.
func (l *unitLine) pos(offset int) policy.Pos {
	at := l.pieces[0]
	for _, p := range l.pieces {
		if p.offset <= offset {
			at = p
		}
	}
	return policy.Pos{File: l.file, Line: at.line, Column: offset - at.offset + 1}
}

func (l *unitLine) error(offset int, word, msg string) error {
	return &policy.SyntaxError{Pos: l.pos(offset), Word: word, Msg: msg}
}

const unitSpace = " \t\r\n"

// readUnit reads the files in their order.
func readUnit(files []unitFile) (*unit, error) {
	u := &unit{env: make(map[string]unitValue)}
	for _, f := range files {
		if err := u.read(f); err != nil {
			return nil, err
		}
	}
	if !u.started {
		return nil, fmt.Errorf("%s: no section in it: it is no unit, or a masked one", files[0].name)
	}
	return u, nil
}

func (u *unit) read(f unitFile) error {
	section := ""
	line := unitLine{file: f.name}
	content := bytes.TrimPrefix(f.content, []byte("\ufeff"))
	number := 0
	for text := range unitLines(string(content)) {
		number++
		if t := strings.TrimLeft(text, unitSpace); t != "" && (t[0] == '#' || t[0] == ';') {
			continue // also between lines of which one continues the other
		}
		line.add(text, number)
		// A backslash at the end, itself not escaped, stands for a space.
		if n := len(text) - len(strings.TrimRight(text, `\`)); n%2 == 1 {
			line.text = line.text[:len(line.text)-1] + " "
			continue
		}
		if err := u.line(&line, &section); err != nil {
			return err
		}
		line = unitLine{file: f.name}
	}
	if len(line.pieces) > 0 {
		return u.line(&line, &section)
	}
	return nil
}

// unitLines are the lines of text. CR, LF, and both together end one.
func unitLines(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for text != "" {
			line, next := text, len(text)
			if i := strings.IndexAny(text, "\r\n"); i >= 0 {
				line, next = text[:i], i+1
				if next < len(text) && text[next] != text[i] && strings.IndexByte("\r\n", text[next]) >= 0 {
					next++
				}
			}
			if !yield(line) {
				return
			}
			text = text[next:]
		}
	}
}

// line takes in a line.
func (u *unit) line(l *unitLine, section *string) error {
	start := len(l.text) - len(strings.TrimLeft(l.text, unitSpace))
	text := strings.Trim(l.text, unitSpace)
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
	value := start + len(key) + 1
	key = strings.TrimRight(key, unitSpace)
	var err error
	switch {
	case key == "IPAddressAllow":
		err = u.addresses(l, key, value, &u.allow)
	case key == "IPAddressDeny":
		err = u.addresses(l, key, value, &u.deny)
	case key == "Environment" || key == "UnsetEnvironment":
		err = u.environment(l, key, value)
	case slices.Contains(otherSettings, key):
		u.others = append(u.others, unitValue{fmt.Sprintf("%s=%.80s", key, strings.Trim(l.text[value:], unitSpace)), l.pos(start)})
	default:
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

// addresses adds what stands from the offset on to a list; nothing resets it.
func (u *unit) addresses(l *unitLine, key string, at int, list *[]unitPrefix) error {
	empty := true
	for at < len(l.text) {
		if strings.IndexByte(unitSpace, l.text[at]) >= 0 {
			at++
			continue
		}
		n := strings.IndexAny(l.text[at:], unitSpace)
		if n < 0 {
			n = len(l.text) - at
		}
		word := l.text[at : at+n]
		prefixes, err := unitPrefixes(word)
		if err != nil {
			return l.error(at, word, err.Error())
		}
		for _, p := range prefixes {
			*list = append(*list, unitPrefix{p, unitValue{key + "=" + word, l.pos(at)}})
		}
		at, empty = at+n, false
	}
	if empty {
		*list = nil
	}
	return nil
}

// unitPrefixes are those that a word of IPAddressAllow= means.
func unitPrefixes(word string) ([]netip.Prefix, error) {
	list := map[string][]string{
		"any":        {"0.0.0.0/0", "::/0"},
		"localhost":  {"127.0.0.0/8", "::1/128"},
		"link-local": {"169.254.0.0/16", "fe80::/64"},
		"multicast":  {"224.0.0.0/4", "ff00::/8"},
	}[word]
	// systemd takes whatever RFC 6761 calls localhost for it.
	if name := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(word), "."), ".localdomain"); name == "localhost" || strings.HasSuffix(name, ".localhost") {
		list = []string{"127.0.0.0/8", "::1/128"}
	}
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	if out != nil {
		return out, nil
	}
	addr, length, hasLength := strings.Cut(word, "/")
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Zone() != "" {
		return nil, fmt.Errorf("neither an address, a prefix, any, localhost, link-local nor multicast")
	}
	bits := a.BitLen()
	if hasLength {
		bits, err = strconv.Atoi(length)
		if err != nil || bits < 0 || bits > a.BitLen() || length != strconv.Itoa(bits) {
			return nil, fmt.Errorf("the prefix length is not a number from 0 to %d", a.BitLen())
		}
	}
	return []netip.Prefix{netip.PrefixFrom(a, bits).Masked()}, nil
}

// environment takes in the variables that stand from the offset on.
func (u *unit) environment(l *unitLine, key string, at int) error {
	empty := true
	for {
		word, start, next, err := unitWord(l, at)
		switch {
		case err != nil:
			return err
		case next < 0 && empty && key == "Environment":
			u.env = make(map[string]unitValue)
			return nil
		case next < 0 && empty:
			u.unset = nil
			return nil
		case next < 0:
			return nil
		}
		name, value, assigns := strings.Cut(word, "=")
		switch {
		case key == "UnsetEnvironment":
			u.unset = append(u.unset, unitValue{word, l.pos(start)})
		case !assigns || name == "":
			return l.error(start, word, "not VARIABLE=VALUE")
		default:
			u.env[name] = unitValue{value, l.pos(start)}
		}
		at, empty = next, false
	}
}

// unitWord is the word that begins at the offset or after: without its quotes and
// escapes, where it starts, and where what follows does; -1 if there is none.
func unitWord(l *unitLine, at int) (word string, start, next int, err error) {
	for at < len(l.text) && strings.IndexByte(unitSpace, l.text[at]) >= 0 {
		at++
	}
	if start = at; at == len(l.text) {
		return "", at, -1, nil
	}
	var b []byte
	for quote := byte(0); ; {
		if at == len(l.text) {
			if quote != 0 {
				return "", 0, 0, l.error(start, l.text[start:], "the quote is not closed")
			}
			return string(b), start, at, nil
		}
		c := l.text[at]
		switch {
		case c == '\\':
			r, n, ok := unescape(l.text[at:])
			if !ok {
				return "", 0, 0, l.error(at, l.text[at:min(at+2, len(l.text))], "unknown escape sequence")
			}
			b, at = append(b, r...), at+n
			continue
		case c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote == 0 && strings.IndexByte(unitSpace, c) >= 0:
			return string(b), start, at, nil
		default:
			b = append(b, c)
		}
		at++
	}
}

// unescape is what the escape sequence that s starts with stands for, and its
// length (systemd.syntax(7), "Quoting").
func unescape(s string) (text string, n int, ok bool) {
	if len(s) < 2 {
		return "", 0, false
	}
	if i := strings.IndexByte(`abfnrtvs\"'`, s[1]); i >= 0 {
		return "\a\b\f\n\r\t\v \\\"'"[i : i+1], 2, true
	}
	digits, base := 0, 16
	from := 2
	switch s[1] {
	case 'x':
		digits = 2
	case 'u':
		digits = 4
	case 'U':
		digits = 8
	default:
		digits, base, from = 3, 8, 1
	}
	if len(s) < from+digits {
		return "", 0, false
	}
	v, err := strconv.ParseUint(s[from:from+digits], base, 32)
	switch {
	case err != nil || v == 0 || digits <= 3 && v > 255 || v > utf8.MaxRune:
		return "", 0, false
	case digits <= 3:
		return string([]byte{byte(v)}), from + digits, true
	}
	return string(rune(v)), from + digits, true
}

// mapped are IPv6 addresses that are on no wire: packets to them are IPv4's.
var mapped = netip.MustParsePrefix("::ffff:0:0/96")

// reduced is the list without what another entry of it covers, and without what no
// packet has.
func reduced(list []unitPrefix) (out []unitPrefix, table *bart.Table[unitPrefix]) {
	table = new(bart.Table[unitPrefix])
	for _, p := range list {
		if _, known := table.Get(p.Prefix); !known && !(mapped.Bits() <= p.Bits() && mapped.Contains(p.Addr())) {
			table.Insert(p.Prefix, p)
			out = append(out, p)
		}
	}
	out = slices.DeleteFunc(out, func(p unitPrefix) bool {
		for q := range table.Supernets(p.Prefix) {
			if q != p.Prefix {
				return true
			}
		}
		return false
	})
	table = new(bart.Table[unitPrefix])
	for _, p := range out {
		table.Insert(p.Prefix, p)
	}
	return out, table
}

// policyText writes a policy that means the same, and what was left out.
//
// systemd allows what an entry of allow covers, else denies what one of deny does,
// else allows. In a policy the narrower rule wins: so what a deny has in common
// with an allow that covers all of it goes; each that is left is apart from every
// allow, or has it within, as a carve-out.
func (u *unit) policyText() (text string, notes []string, err error) {
	allows, allowed := reduced(u.allow)
	all, _ := reduced(u.deny)
	denied := new(bart.Table[unitPrefix])
	var denies []unitPrefix
	var b strings.Builder
	note := func(format string, args ...any) { notes = append(notes, printable(fmt.Sprintf(format, args...))) }
	for _, d := range all {
		if a, covered := allowed.LookupPrefix(d.Prefix); covered {
			fmt.Fprintf(&b, "# %s has no effect on %s: %s covers it\n", d.from, d.Prefix, a.from)
			continue
		}
		denied.Insert(d.Prefix, d)
		denies = append(denies, d)
	}
	for _, p := range slices.Concat(u.allow, u.deny) {
		if mapped.Bits() <= p.Bits() && mapped.Contains(p.Addr()) {
			fmt.Fprintf(&b, "# %s has no effect: packets to such an address are IPv4\n", p.from)
		}
	}
	u.upstream(&b, note)

	everything := policy.Merge(sortedPrefixes(denies))
	closed := len(everything) == 2 && everything[0].Bits() == 0 && everything[1].Bits() == 0
	rule := func(word string, p netip.Prefix, why string) {
		text := p.String()
		if p.IsSingleIP() {
			text = p.Addr().String()
		}
		fmt.Fprintf(&b, "%-10s %-18s # %s\n", word, text, why)
	}
	if closed {
		b.WriteString("# To allow names as well, drop the deny lines below; what they say beyond default\n# deny is only that IPv6 addresses which carry an allowed IPv4 address stay shut.\ndefault deny\n")
	} else {
		b.WriteString("default allow # as in systemd, what is in neither list\n")
	}
	for _, d := range denies {
		rule("deny", d.Prefix, d.from.String())
	}
	for _, a := range allows {
		rule("allow", a.Prefix, a.from.String())
	}
	for _, s := range []string{"127.0.0.0/8", "::1/128"} {
		loopback := netip.MustParsePrefix(s)
		_, isRule := allowed.Get(loopback)
		a, isAllowed := allowed.LookupPrefix(loopback)
		_, isDenied := denied.LookupPrefix(loopback)
		switch {
		case isRule:
		case isAllowed:
			rule("allow", loopback, "the host's loopback, which a rule has to name; "+a.from.String())
		case !isDenied:
			rule("allow", loopback, "the host's loopback, which a rule has to name; it is not denied")
		}
	}
	if len(denies) > 0 {
		b.WriteString("# Clients of published ports: systemd filters both directions by the same lists.\n")
	}
	carved := false
	for _, d := range denies {
		rule("deny-from", d.Prefix, d.from.String())
	}
	for _, a := range allows {
		if _, within := denied.LookupPrefix(a.Prefix); within {
			rule("allow-from", a.Prefix, a.from.String())
			carved = true
		}
	}
	if carved && !closed {
		b.WriteString("allow-from any                # else an allow-from would shut out all others\n")
	}
	for _, o := range u.others {
		note("%s is not imported", o)
	}

	head := "# Made by appfw systemd import: what IPAddressAllow= and IPAddressDeny= allow.\n" +
		"# Lists of slices that the unit is in (systemctl status shows them) are not followed.\n" +
		"# Other than in systemd: ports 853, 5353 and 5355 open to rules with a port only;\n" +
		"# multicast, broadcast and 0.0.0.0/8 are not carried; an IPv6 address that carries\n" +
		"# an IPv4 address (NAT64, 6to4, Teredo, ISATAP) is denied where either of them is;\n" +
		"# the host's own addresses open to rules that have them, and not by default allow.\n"
	for _, n := range notes {
		head += "# Not the same: " + n + "\n"
	}
	if len(u.allow)+len(u.deny) == 0 {
		head += "# There is no IPAddressAllow= or IPAddressDeny=: everything is allowed.\n"
	}
	text = head + b.String()
	lines, err := policy.ReadLines("the policy made", strings.NewReader(text))
	if err == nil {
		_, err = policy.Compile(policy.Config{Lines: lines})
	}
	return text, notes, err
}

func sortedPrefixes(list []unitPrefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		out = append(out, p.Prefix)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

// proxyVariables are where programs look for a proxy, those for everything first.
var proxyVariables = []string{"all_proxy", "ALL_PROXY", "https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"}

// upstream writes an upstream line for the proxy that the environment has.
func (u *unit) upstream(b *strings.Builder, note func(string, ...any)) {
	chosen := ""
	for _, name := range proxyVariables {
		v, ok := u.env[name]
		if !ok || v.text == "" || slices.ContainsFunc(u.unset, func(w unitValue) bool { return w.text == name || w.text == name+"="+v.text }) {
			continue
		}
		what := fmt.Sprintf("Environment=%s (%s)", name, v.pos) // its value may have a password
		to, err := upstreamURL(v.text)
		switch {
		case err != nil:
			note("%s is no upstream: %v", what, err)
		case chosen == "":
			chosen = to
			fmt.Fprintf(b, "upstream %s # %s\n", to, printable(what))
			b.WriteString("# The upstream opens nothing by itself: what is allowed below goes out by it, but for the loopback.\n" +
				"# To let all names go out by it: drop the deny lines, and write allow any.\n")
		case to != chosen:
			note("%s is another proxy, and left out", what)
		}
	}
}

// upstreamURL is the value of a proxy variable as an upstream line has it.
func upstreamURL(value string) (string, error) {
	// In a unit, % starts a specifier, and %% is a percent sign.
	if value = strings.ReplaceAll(value, "%%", "\x00"); strings.Contains(value, "%") {
		return "", fmt.Errorf("it has a specifier (%%), which only systemd knows")
	}
	value = strings.ReplaceAll(value, "\x00", "%")
	scheme, rest, ok := strings.Cut(value, "://")
	switch {
	case !ok:
		scheme, rest = "http", value // as curl and others take it
	case strings.EqualFold(scheme, "socks"): // of GNOME's settings: SOCKS 5
		scheme = "socks5h"
	default:
		scheme = strings.ToLower(scheme)
	}
	value = scheme + "://" + strings.TrimSuffix(rest, "/")
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return "", fmt.Errorf("there are spaces or control characters in it")
	}
	return value, proxy.NewChain().Append(value)
}
