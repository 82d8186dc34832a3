package policy

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Name is a domain name in canonical form: lower case, A-labels, no trailing
// dot, at least one label. The zero value is no name. Names come from
// [ParseName] alone, wherever they were found, so that two spellings of one
// name cannot be judged differently.
type Name string

// Limits of RFC 1035, section 2.3.4; a name of 253 characters has 255 octets.
const (
	maxName  = 253
	maxLabel = 63
)

// ParseName parses a domain name (RFC 1123 section 2.1; underscores are allowed
// as in service names, RFC 8552). Labels may begin and end with a hyphen, as many do
// that are in use (foo-.tumblr.com), but not the last: no domain has such a one, and
// what is mistyped (10.0.0.1-) is not to become a name. One trailing dot is taken off.
// What looks like a number or an address in any of the spellings of inet_aton(3) is no
// name.
func ParseName(s string) (Name, error) {
	original := s
	s = strings.TrimSuffix(s, ".")
	if s == "" {
		return "", errors.New("empty name")
	}
	ascii := true
	for i := range len(s) {
		ascii = ascii && s[i] < 0x80
	}
	if !ascii {
		a, err := idna.Lookup.ToASCII(s)
		if err != nil || !utf8.ValidString(s) {
			return "", fmt.Errorf("%.80q is not a valid internationalized name", original)
		}
		canonical, err := ParseName(a)
		if err != nil {
			return "", err
		}
		return "", &SpellingError{Given: original, Canonical: string(canonical)}
	}
	if len(s) > maxName {
		return "", fmt.Errorf("name is longer than %d characters", maxName)
	}
	name := strings.ToLower(s)
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if err := checkLabel(label); err != nil {
			return "", err
		}
		if strings.HasPrefix(label, "xn--") && !canonical(label) {
			return "", fmt.Errorf("%q is not a valid internationalized label", label)
		}
		last = label
	}
	if last[0] == '-' || last[len(last)-1] == '-' {
		return "", fmt.Errorf("the last label, %q, starts or ends with a hyphen", last)
	}
	if numeric(last) {
		return "", fmt.Errorf("%q is a number, not a name", original)
	}
	return Name(name), nil
}

// canonical tells whether an A-label stands for exactly one U-label (RFC 5890,
// section 2.3.2.1).
func canonical(label string) bool {
	u, err := idna.Lookup.ToUnicode(label)
	if err != nil {
		return false
	}
	back, err := idna.Lookup.ToASCII(u)
	return err == nil && back == label
}

// SpellingError is a name that means another, canonical one. It is an error in
// rules, where the canonical spelling is to be written.
type SpellingError struct{ Given, Canonical string }

func (e *SpellingError) Error() string {
	return fmt.Sprintf("write %q as %q", e.Given, e.Canonical)
}

func checkLabel(label string) error {
	switch {
	case label == "":
		return errors.New("empty label")
	case len(label) > maxLabel:
		return fmt.Errorf("label is longer than %d characters", maxLabel)
	}
	for i := range len(label) {
		c := label[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return fmt.Errorf("a name cannot have the character %q", c)
		}
	}
	return nil
}

// numeric tells whether resolvers could take a name that ends in this label
// for an IPv4 address (WHATWG URL, "ends in a number").
func numeric(label string) bool {
	if !isDigit(label[0]) {
		return false
	}
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

// parent is the name without its first label; "" for a single label.
func (n Name) parent() Name {
	_, rest, _ := strings.Cut(string(n), ".")
	return Name(rest)
}

// within tells whether n lies strictly below zone.
func (n Name) within(zone Name) bool {
	return len(n) > len(zone) && strings.HasSuffix(string(n), string(zone)) && n[len(n)-len(zone)-1] == '.'
}
