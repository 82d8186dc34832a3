package systemd

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/gaissmai/bart"

	"appfw/policy"
)

// Policy writes a policy that means the same as the unit's lists, with the proxy of
// its Environment= as upstream. upstream says what is wrong with the URL of one, if
// anything is. The notes are what the policy says otherwise than the unit, a line
// each, safe to print; they are comments of the text, too. An error is that of a
// policy which cannot be compiled, a mistake of this package.
//
// systemd allows what an entry of allow covers, else denies what one of deny does,
// else allows. In a policy the narrower rule wins: so what a deny has in common
// with an allow that covers all of it goes; each that is left is apart from every
// allow, or has it within, as a carve-out.
func (u *Unit) Policy(upstream func(url string) error) (text string, notes []string, err error) {
	var t policyText
	t.allows, t.allowed = reduced(u.allow)
	t.divide(u.deny)
	t.unreachable(slices.Concat(u.allow, u.deny))
	t.upstream(u, upstream)
	closed := t.closed()
	t.rules(closed)
	t.loopback()
	t.clients(closed)
	for _, o := range u.others {
		t.note("%s is not imported", o)
	}
	head := importHead
	for _, n := range t.notes {
		head += "# Not the same: " + n + "\n"
	}
	if len(u.allow)+len(u.deny) == 0 {
		head += "# There is no IPAddressAllow= or IPAddressDeny=: everything is allowed.\n"
	}
	text = head + t.b.String()
	lines, err := policy.ReadLines("the policy made", strings.NewReader(text))
	if err == nil {
		_, err = policy.Compile(policy.Config{Lines: lines})
	}
	return text, t.notes, err
}

const importHead = `# Made by appfw systemd import: what IPAddressAllow= and IPAddressDeny= allow.
# Lists of slices that the unit is in (systemctl status shows them) are not followed.
# Other than in systemd: ports 853, 5353 and 5355 open to rules with a port only;
# multicast, broadcast and 0.0.0.0/8 are not carried; an IPv6 address that carries
# an IPv4 address (NAT64, 6to4, Teredo, ISATAP) is denied where either of them is;
# the host's own addresses open to rules that have them, and not by default allow.
`

// policyText is a policy being written, below its head.
type policyText struct {
	b       strings.Builder
	notes   []string
	allows  []prefix // none of which covers another
	denies  []prefix // nor that an allow covers
	allowed *bart.Table[prefix]
	denied  bart.Table[prefix]
}

func (t *policyText) note(format string, args ...any) {
	t.notes = append(t.notes, policy.Printable(fmt.Sprintf(format, args...), 0))
}

// divide takes in the list of what is denied, but for what has no effect.
func (t *policyText) divide(deny []prefix) {
	all, _ := reduced(deny)
	for _, d := range all {
		if a, covered := t.allowed.LookupPrefix(d.Prefix); covered {
			fmt.Fprintf(&t.b, "# %s has no effect on %s: %s covers it\n", d.from, d.Prefix, a.from)
			continue
		}
		t.denied.Insert(d.Prefix, d)
		t.denies = append(t.denies, d)
	}
}

// unreachable writes of which entries no packet is.
func (t *policyText) unreachable(list []prefix) {
	for _, p := range list {
		if onNoWire(p.Prefix) {
			fmt.Fprintf(&t.b, "# %s has no effect: packets to such an address are IPv4\n", p.from)
		}
	}
}

// closed tells whether everything is denied that is not allowed.
func (t *policyText) closed() bool {
	var all []netip.Prefix
	for _, p := range t.denies {
		all = append(all, p.Prefix)
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	all = policy.Merge(all)
	return len(all) == 2 && all[0].Bits() == 0 && all[1].Bits() == 0
}

// rule writes a line, and why it is there.
func (t *policyText) rule(word string, p netip.Prefix, why string) {
	text := p.String()
	if p.IsSingleIP() {
		text = p.Addr().String()
	}
	fmt.Fprintf(&t.b, "%-10s %-18s # %s\n", word, text, why)
}

func (t *policyText) rules(closed bool) {
	if closed {
		t.b.WriteString("# To allow names as well, drop the deny lines below; what they say beyond default\n# deny is only that IPv6 addresses which carry an allowed IPv4 address stay shut.\ndefault deny\n")
	} else {
		t.b.WriteString("default allow # as in systemd, what is in neither list\n")
	}
	for _, d := range t.denies {
		t.rule("deny", d.Prefix, d.from.String())
	}
	for _, a := range t.allows {
		t.rule("allow", a.Prefix, a.from.String())
	}
}

// loopback writes rules for the host's loopback, which nothing wider opens.
func (t *policyText) loopback() {
	for _, p := range []netip.Prefix{loopback4, loopback6} {
		_, isRule := t.allowed.Get(p)
		a, isAllowed := t.allowed.LookupPrefix(p)
		_, isDenied := t.denied.LookupPrefix(p)
		switch {
		case isRule:
		case isAllowed:
			t.rule("allow", p, "the host's loopback, which a rule has to name; "+a.from.String())
		case !isDenied:
			t.rule("allow", p, "the host's loopback, which a rule has to name; it is not denied")
		}
	}
}

// clients writes the rules for the other direction.
func (t *policyText) clients(closed bool) {
	if len(t.denies) > 0 {
		t.b.WriteString("# Clients of published ports: systemd filters both directions by the same lists.\n")
	}
	for _, d := range t.denies {
		t.rule("deny-from", d.Prefix, d.from.String())
	}
	carved := false
	for _, a := range t.allows {
		if _, within := t.denied.LookupPrefix(a.Prefix); within {
			t.rule("allow-from", a.Prefix, a.from.String())
			carved = true
		}
	}
	if carved && !closed {
		t.b.WriteString("allow-from any                # else an allow-from would shut out all others\n")
	}
}
