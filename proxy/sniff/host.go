package sniff

import (
	"fmt"
	"net/netip"
	"strings"

	"appfw/policy"
)

// HostName parses HOST[:PORT] of a Host field or a URI (RFC 9110, 7.2): Named with
// the name, or Nameless for an address literal, which names nothing.
func HostName(host string) (policy.Name, State, error) {
	if rest, ok := strings.CutPrefix(host, "["); ok {
		literal, port, closed := strings.Cut(rest, "]")
		a, err := netip.ParseAddr(literal)
		if err != nil || !closed || !a.Is6() || a.Zone() != "" || !validPort(port) { // RFC 9110 knows no zones
			return "", Nameless, fmt.Errorf("the HTTP host %.80q is not valid", host)
		}
		return "", Nameless, nil
	}
	if i := strings.IndexByte(host, ':'); i >= 0 {
		if !validPort(host[i:]) {
			return "", Nameless, fmt.Errorf("the HTTP host %.80q is not valid", host)
		}
		host = host[:i]
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Is4() {
		return "", Nameless, nil
	}
	name, err := policy.ParseName(host)
	if err != nil {
		return "", Nameless, fmt.Errorf("the HTTP host is not valid: %w", err)
	}
	return name, Named, nil
}

// validPort tells whether s is empty or a colon and digits (RFC 3986, 3.2.3).
func validPort(s string) bool {
	return s == "" || s[0] == ':' && len(s) <= 6 && strings.Trim(s[1:], "0123456789") == ""
}

// isAddress tells whether s is an IP address, in brackets or not.
func isAddress(s string) bool {
	inner := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		inner = s[1 : len(s)-1]
	}
	a, err := netip.ParseAddr(inner)
	return err == nil && a.Zone() == "" && (inner == s || a.Is6())
}
