package systemd

import (
	"fmt"
	"regexp"
	"slices"
	"testing"
)

// validUpstream is a plain stand-in for what knows upstreams.
func validUpstream(url string) error {
	if !regexp.MustCompile(`^(socks5h?|https?)://([!-~]+@)?([a-z0-9.-]+|\[[0-9a-f:]+\]):[0-9]+$`).MatchString(url) {
		return fmt.Errorf("odd %q", url)
	}
	return nil
}

func TestUpstreamURL(t *testing.T) {
	for in, want := range map[string]string{
		"socks://127.0.0.1:9050":    "socks5h://127.0.0.1:9050",
		"SOCKS://127.0.0.1:9050/":   "socks5h://127.0.0.1:9050",
		"socks5h://u:p%%40@h:1":     "socks5h://u:p%40@h:1",
		"socks5://h:1":              "socks5://h:1",
		"http://h:3128/":            "http://h:3128",
		"h:3128":                    "http://h:3128",
		"https://[2001:db8::1]:443": "https://[2001:db8::1]:443",
		"socks4://h:1":              "socks4://h:1", // which is none, but for others to say
		"socks://%i:1":              "it has a specifier (%), which only systemd knows",
		"http://h:1\nallow any":     "there are spaces or control characters in it",
		"http://h:1 # x":            "there are spaces or control characters in it",
		"socks://":                  "socks5h://",
	} {
		got, err := upstreamURL(in)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// The first variable that has the URL of an upstream is taken, and of the others it
// is said.
func TestUpstream(t *testing.T) {
	u := unitOf(t, "[Service]\nEnvironment=ALL_PROXY=socks4://u:secret@h:1 https_proxy=http://p:1/\nEnvironment=HTTP_PROXY=http://p:2 all_proxy=socks5://h:1\nUnsetEnvironment=all_proxy\n")
	text, notes, err := u.Policy(validUpstream)
	if err != nil {
		t.Fatal(err)
	}
	if want := "\nupstream http://p:1 # Environment=https_proxy (u:2)\n"; !regexp.MustCompile(regexp.QuoteMeta(want)).MatchString(text) {
		t.Errorf("no %q in\n%s", want, text)
	}
	if want := []string{
		`Environment=ALL_PROXY (u:2) is no upstream: odd "socks4://u:secret@h:1"`,
		"Environment=HTTP_PROXY (u:3) is another proxy, and left out",
	}; !slices.Equal(notes, want) {
		t.Errorf("notes are %q, want %q", notes, want)
	}
}
