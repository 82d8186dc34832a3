package systemd

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/gaissmai/bart"
)

// prefix is an entry of IPAddressAllow= or IPAddressDeny=.
type prefix struct {
	netip.Prefix
	from value
}

// addresses adds what stands from the offset on to a list; nothing resets it.
func addresses(l *line, key string, at int, list *[]prefix) error {
	empty := true
	for at < len(l.text) {
		if strings.IndexByte(blanks, l.text[at]) >= 0 {
			at++
			continue
		}
		n := strings.IndexAny(l.text[at:], blanks)
		if n < 0 {
			n = len(l.text) - at
		}
		word := l.text[at : at+n]
		meant, err := parsePrefixes(word)
		if err != nil {
			return l.error(at, word, err.Error())
		}
		for _, p := range meant {
			*list = append(*list, prefix{p, value{key + "=" + word, l.pos(at)}})
		}
		at, empty = at+n, false
	}
	if empty {
		*list = nil
	}
	return nil
}

// The loopback, for which a policy has to have a rule.
var (
	loopback4 = netip.MustParsePrefix("127.0.0.0/8")
	loopback6 = netip.MustParsePrefix("::1/128")
)

// keywords are the names of prefixes in the lists.
var keywords = map[string][]netip.Prefix{
	"any":        {netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
	"localhost":  {loopback4, loopback6},
	"link-local": {netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/64")},
	"multicast":  {netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("ff00::/8")},
}

// parsePrefixes are those that a word of IPAddressAllow= means.
func parsePrefixes(word string) ([]netip.Prefix, error) {
	if list := keywords[word]; list != nil {
		return list, nil
	}
	// systemd takes whatever RFC 6761 calls localhost for it.
	if name := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(word), "."), ".localdomain"); name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return keywords["localhost"], nil
	}
	addr, length, hasLength := strings.Cut(word, "/")
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Zone() != "" {
		return nil, errors.New("neither an address, a prefix, any, localhost, link-local nor multicast")
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

// mapped are IPv6 addresses that are on no wire: packets to them are IPv4's.
var mapped = netip.MustParsePrefix("::ffff:0:0/96")

// onNoWire tells of a prefix that no packet has an address of.
func onNoWire(p netip.Prefix) bool { return mapped.Bits() <= p.Bits() && mapped.Contains(p.Addr()) }

// reduced is the list without what another entry of it covers, and without what no
// packet has.
func reduced(list []prefix) (out []prefix, table *bart.Table[prefix]) {
	table = new(bart.Table[prefix])
	for _, p := range list {
		if _, known := table.Get(p.Prefix); !known && !onNoWire(p.Prefix) {
			table.Insert(p.Prefix, p)
			out = append(out, p)
		}
	}
	out = slices.DeleteFunc(out, func(p prefix) bool {
		for q := range table.Supernets(p.Prefix) {
			if q != p.Prefix {
				return true
			}
		}
		return false
	})
	table = new(bart.Table[prefix])
	for _, p := range out {
		table.Insert(p.Prefix, p)
	}
	return out, table
}
