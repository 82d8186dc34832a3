package policy

import (
	"strings"
	"testing"
)

func TestSplitHostPort(t *testing.T) {
	for _, tt := range []struct {
		in, host string
		port     uint16
		err      string
	}{
		{in: "a.example:443", host: "a.example", port: 443},
		{in: "10.0.0.1:1", host: "10.0.0.1", port: 1},
		{in: "[2001:db8::1]:65535", host: "2001:db8::1", port: 65535},
		{in: "[fe80::1%eth0]:53", host: "fe80::1%eth0", port: 53},
		{in: "a.example:0", host: "a.example"}, // the caller's to judge
		{in: ":80", port: 80},
		{in: "a.example:0080", host: "a.example", port: 80},

		{in: "", err: `"" is no host and port`},
		{in: "a.example", err: `"a.example" is no host and port`},
		{in: "2001:db8::1:443", err: `"2001:db8::1:443" is no host and port`},
		{in: "[2001:db8::1]", err: `"[2001:db8::1]" is no host and port`},
		{in: "[::1:443", err: `"[::1:443" is no host and port`},
		{in: "a.example:", err: `"" is no port`},
		{in: "a.example:65536", err: `"65536" is no port`},
		{in: "a.example:+80", err: `"+80" is no port`},
		{in: "a.example:-1", err: `"-1" is no port`},
		{in: "a.example:https", err: `"https" is no port`},
		{in: "a.example:0x50", err: `"0x50" is no port`},
		{in: "a.example: 80", err: `" 80" is no port`},
		{in: "a.example:" + strings.Repeat("9", 1000), err: `"` + strings.Repeat("9", 80) + `" is no port`},
	} {
		host, port, err := SplitHostPort(tt.in)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if host != tt.host || port != tt.port || got != tt.err {
			t.Errorf("%.80q: %q, %d, %v; want %q, %d, %s", tt.in, host, port, err, tt.host, tt.port, tt.err)
		}
	}
}

func TestParsePort(t *testing.T) {
	for in, want := range map[string]uint16{
		"1": 1, "443": 443, "65535": 65535, "0080": 80,
		"": 0, "0": 0, "00": 0, "65536": 0, "-1": 0, "+1": 0, "1.0": 0, "1_000": 0, "０": 0,
	} {
		if got, err := ParsePort(in); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v; want %d", in, got, err, want)
		}
	}
}
