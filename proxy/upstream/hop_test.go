package upstream

import (
	"strings"
	"testing"
)

func TestParseUpstream(t *testing.T) {
	for _, tt := range []struct{ in, text, addr, path, user string }{
		{"socks5h://127.0.0.1:9050", "socks5h://127.0.0.1:9050", "127.0.0.1:9050", "", ""},
		{"socks5://proxy.example", "socks5://proxy.example:1080", "proxy.example:1080", "", ""},
		{"http://proxy.example/", "http://proxy.example:8080", "proxy.example:8080", "", ""},
		{"https://proxy.example", "https://proxy.example:443", "proxy.example:443", "", ""},
		{"http://[2001:db8::1]:3128", "http://[2001:db8::1]:3128", "[2001:db8::1]:3128", "", ""},
		{"socks5h://[::1]", "socks5h://[::1]:1080", "[::1]:1080", "", ""},
		{"socks5h://me:geheim@h:1", "socks5h://h:1", "h:1", "", "me:geheim"},
		{"socks5h://me:ge%40%2fheim@h:1", "socks5h://h:1", "h:1", "", "me:ge@/heim"},
		{"socks5h://me:ge@heim@h:1", "socks5h://h:1", "h:1", "", "me:ge@heim"},
		{"http://geheim@h:1", "http://h:1", "h:1", "", "geheim:"},
		{"http://unix:geheim@h:1", "http://h:1", "h:1", "", "unix:geheim"},
		{"http://unix:8080", "http://unix:8080", "unix:8080", "", ""},
		{"socks5h://unix:/run/tor/socks", "socks5h://unix:/run/tor/socks", "", "/run/tor/socks", ""},
		{"http://me:geheim@unix:/run/a@b?c", "http://unix:/run/a@b?c", "", "/run/a@b?c", "me:geheim"},
		{"tor", "tor", "", "", ""},
		{"tor://h", "tor://h:9050", "h:9050", "", ""},
		{"tor://unix:/x", "tor://unix:/x", "", "/x", ""},
		{"socks4a://h", "socks4a://h:1080", "h:1080", "", ""},
		{"socks4a://me@h:1", "socks4a://h:1", "h:1", "", "me:"},
		{"http://mé:gehéim€@h:1", "http://h:1", "h:1", "", "mé:gehéim€"},
	} {
		h, err := parseHop(tt.in)
		user := ""
		if h.user != nil {
			password, _ := h.user.Password()
			user = h.user.Username() + ":" + password
		}
		if err != nil || h.text != tt.text || h.addr != tt.addr || h.path != tt.path || user != tt.user {
			t.Errorf("%s: %+v %q, %v", tt.in, h, user, err)
		}
	}
	for in, want := range map[string]string{
		"":                             "no scheme",
		"Tor":                          "no scheme",
		"127.0.0.1:9050":               "no scheme",
		"me:geheim@h:1":                "no scheme",
		"ftp://h:1":                    `"ftp" is no scheme of an upstream`,
		"socks4a://me:geheim@h:1":      "SOCKS4 has a user and no password",
		"socks6://me:geheim@h:1":       `"socks6" is no scheme of an upstream`,
		"tor | ftp://me:geheim@h:1":    `"ftp" is no scheme of an upstream`,
		"SOCKS5://h:1":                 "no scheme of an upstream",
		"socks5h://":                   "a host and a port",
		"socks5h://:1080":              "a host and a port",
		"socks5h://me:geheim@":         "a host and a port",
		"socks5h://h:0":                `"0" is no port`,
		"socks5h://h:65536":            `"65536" is no port`,
		"socks5h://h:x":                "cannot be understood",
		"socks5h://2001:db8::1:1080":   "in brackets",
		"socks5h://[::1":               "cannot be understood",
		"socks5h://me:gehe/im@h:1":     "cannot be understood",
		"socks5h://me:gehe im@h:1":     "cannot be understood",
		"socks5h://me:geheim%@h:1":     "cannot be understood",
		"http://h:1/path":              "a host and a port",
		"http://h:1?geheim":            "nothing follows",
		"http://h:1#geheim":            "nothing follows",
		"socks5h://unix:run/tor":       "absolute",
		"socks5h://unix:":              "absolute",
		"https://unix:/run/proxy":      "TLS needs the name",
		"https://me:geheim@unix:/run/": "TLS needs the name",
	} {
		if err := New().Append(in); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
	c := chainOf(t, "socks5h://a:geheim@h:1", "http://[::1]:2")
	if err := c.Append("socks5h://unix:/x"); err == nil || !strings.Contains(err.Error(), "first") {
		t.Error(err)
	}
	if got := c.String(); got != "socks5h://h:1 → http://[::1]:2" {
		t.Error(got)
	}
}
