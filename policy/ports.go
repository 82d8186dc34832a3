package policy

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// ParsePort parses the number of a port, 1 to 65535, in decimal digits alone.
func ParsePort(s string) (uint16, error) {
	n, err := parseNumber(s)
	if err == nil && n == 0 {
		err = errNoPort(s)
	}
	return n, err
}

// SplitHostPort splits HOST:PORT as HTTP and URLs have it (RFC 3986, 3.2): an IPv6
// address is in brackets, which host is without. Whether host is a name or an
// address, and what may be done with port 0, is the caller's to say.
func SplitHostPort(s string) (host string, port uint16, err error) {
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, fmt.Errorf("%.80q is no host and port", s)
	}
	if port, err = parseNumber(text); err != nil {
		return "", 0, err
	}
	return host, port, nil
}

// parseNumber parses a number of 16 bits.
func parseNumber(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, errNoPort(s)
	}
	return uint16(n), nil
}

func errNoPort(s string) error { return fmt.Errorf("%.80q is no port", s) }

// portRange is from lo to hi, both included.
type portRange struct{ lo, hi uint16 }

var allPorts = []portRange{{0, 65535}}

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

// parsePort is [ParsePort] as rules are written: port 0 and leading zeros are
// mistakes there.
func parsePort(s string) (uint16, error) {
	n, err := ParsePort(s)
	if err != nil || s[0] == '0' {
		return 0, &wordError{word: s, msg: "port is not a number from 1 to 65535", hint: wellKnown[strings.ToLower(s)]}
	}
	return n, nil
}
