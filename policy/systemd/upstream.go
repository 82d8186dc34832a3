package systemd

import (
	"errors"
	"fmt"
	"strings"

	"appfw/policy"
)

// proxyVariables are where programs look for a proxy, those for everything first.
var proxyVariables = []string{"all_proxy", "ALL_PROXY", "https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"}

// upstream writes an upstream line for the proxy that the unit's environment has.
func (t *policyText) upstream(u *Unit, check func(url string) error) {
	chosen := ""
	for _, name := range proxyVariables {
		v, ok := u.variable(name)
		if !ok {
			continue
		}
		what := fmt.Sprintf("Environment=%s (%s)", name, v.pos) // its value may have a password
		to, err := upstreamURL(v.text)
		if err == nil {
			err = check(to)
		}
		switch {
		case err != nil:
			t.note("%s is no upstream: %v", what, err)
		case chosen == "":
			chosen = to
			fmt.Fprintf(&t.b, "upstream %s # %s\n", to, policy.Printable(what, 0))
			t.b.WriteString("# The upstream opens nothing by itself: what is allowed below goes out by it, but for the loopback.\n" +
				"# To let all names go out by it: drop the deny lines, and write allow any.\n")
		case to != chosen:
			t.note("%s is another proxy, and left out", what)
		}
	}
}

// upstreamURL is the value of a proxy variable as an upstream line would have it. It
// is one word; whether it is the URL of an upstream it does not say.
func upstreamURL(value string) (string, error) {
	// In a unit, % starts a specifier, and %% is a percent sign.
	if value = strings.ReplaceAll(value, "%%", "\x00"); strings.Contains(value, "%") {
		return "", errors.New("it has a specifier (%), which only systemd knows")
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
		return "", errors.New("there are spaces or control characters in it")
	}
	return value, nil
}
