package systemd

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"appfw/policy"
)

// maxPrefixes bounds a drop-in. systemd gives each to the kernel by a system call.
const maxPrefixes = 1 << 16

// DropIn writes what the policy says of addresses as a drop-in of a service. With
// anyPort an address is open for all ports and protocols if the policy opens some
// there; without, if it opens all. The notes are what the drop-in says otherwise
// than the policy, a line each, safe to print; they are comments of the text, too.
// It is an error if there would be more than 65536 prefixes.
func DropIn(p *policy.Policy, anyPort bool) (text string, notes []string, err error) {
	open, shut := p.Split(anyPort)
	if min(len(open), len(shut)) > maxPrefixes {
		return "", nil, fmt.Errorf("systemd would need %d prefixes for this policy; at most %d are written", min(len(open), len(shut)), maxPrefixes)
	}
	var d difference
	d.opens(open)
	d.rules(p.Rules(), anyPort)
	d.others(p.Settings(), len(p.ClientRules()) > 0)
	d.shuts(open)
	notes = append(d.wider, d.narrower...)
	var b strings.Builder
	b.WriteString("# Made by appfw systemd export. Lists of slices that the unit is in apply as well.\n")
	for _, n := range notes {
		b.WriteString("# " + n + "\n")
	}
	b.WriteString("\n[Service]\n# Lists that the unit has are reset.\nIPAddressAllow=\nIPAddressDeny=\n")
	if len(open) <= len(shut) {
		b.WriteString("IPAddressDeny=any\n")
		writePrefixes(&b, "IPAddressAllow=", open)
	} else {
		writePrefixes(&b, "IPAddressDeny=", shut)
	}
	return b.String(), notes, nil
}

// writePrefixes writes as many settings as it takes for lines of usual length.
func writePrefixes(b *strings.Builder, key string, list []netip.Prefix) {
	width := 0
	for _, p := range list {
		s := p.String()
		if p.IsSingleIP() {
			s = p.Addr().String()
		}
		switch {
		case width == 0:
			s = key + s
		case width+1+len(s) > 80:
			s, width = "\n"+key+s, -1
		default:
			s = " " + s
		}
		b.WriteString(s)
		width += len(s)
	}
	if width != 0 {
		b.WriteString("\n")
	}
}

// difference is what a drop-in says otherwise than the policy: what it opens beyond,
// and what it shuts.
type difference struct{ wider, narrower []string }

func (d *difference) more(format string, args ...any) {
	d.wider = append(d.wider, "wider: "+policy.Printable(fmt.Sprintf(format, args...), 0))
}

func (d *difference) less(format string, args ...any) {
	d.narrower = append(d.narrower, "narrower: "+policy.Printable(fmt.Sprintf(format, args...), 0))
}

// rules takes in what of the rules for destinations is lost.
func (d *difference) rules(rules []*policy.Rule, anyPort bool) {
	for _, r := range rules {
		switch {
		case r.Names() > 0 && r.Allows():
			d.less("%s: names need appfw systemd netns or proxy", r)
		case r.Names() > 0:
			d.more("%s: names need appfw systemd netns or proxy; their addresses are not shut", r)
		case r.Via() != "" && r.Via() != policy.Direct:
			d.less("%s: ways out need appfw systemd netns or proxy", r)
		case r.Scoped() && anyPort && r.Allows():
			d.more("%s: open for all ports and protocols", r)
		case r.Scoped() && anyPort:
			d.more("%s: not shut where anything else is open", r)
		case r.Scoped() && r.Allows():
			d.less("%s: systemd knows no ports or protocols (--any-port opens all there)", r)
		case r.Scoped():
			d.less("%s: systemd knows no ports or protocols; all are shut there (--any-port opens them)", r)
		}
	}
}

// others takes in what of the policy's other lines is lost. clients tells whether
// some of them are of clients.
func (d *difference) others(s *policy.Settings, clients bool) {
	for _, name := range slices.Sorted(maps.Keys(s.Upstreams)) {
		for _, line := range s.Upstreams[name] {
			d.less("upstream (%s): what goes out by it stays shut, and so does itself unless a rule allows its address", line.Pos)
		}
	}
	if clients {
		d.less("allow-from, deny-from: only addresses that are allowed in both directions are open")
	}
	for _, line := range slices.Concat(s.DNS, s.Hosts) {
		d.less("%s %s (%s): the resolver is the unit's own; its address has to be allowed", line.Word, line.Arg, line.Pos)
	}
}

// opens takes in what open addresses are beyond what a policy opens.
func (d *difference) opens(open []netip.Prefix) {
	if len(open) > 0 {
		d.more("open addresses are so in both directions, for all protocols, and for ports 853, 5353 and 5355")
	}
	if slices.ContainsFunc(open, func(q netip.Prefix) bool { return q.Addr().Is6() && q.Bits() < 96 }) {
		d.more("an IPv6 address that embeds an IPv4 address as ISATAP does is open where its prefix is")
	}
}

// shuts takes in what is shut of what a policy may open.
func (d *difference) shuts(open []netip.Prefix) {
	if !slices.ContainsFunc(open, loopback4.Overlaps) && !slices.ContainsFunc(open, loopback6.Overlaps) {
		d.less("the loopback is shut, as no rule names it; a unit has none of its own: allow localhost if it talks to itself or to a resolver there")
	}
	d.less("multicast, broadcast, 0.0.0.0/8, and IPv6 addresses that carry an IPv4 address (NAT64, 6to4, Teredo) are shut")
}
