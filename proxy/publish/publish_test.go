package publish

import (
	"fmt"
	"strings"
	"testing"
)

// Ranges are as many ports, one led to the other in their order.
func TestParseRanges(t *testing.T) {
	for flag, want := range map[string]string{
		"10.0.0.1:8000-8002:9000-9002": "10.0.0.1:8000>9000 10.0.0.1:8001>9001 10.0.0.1:8002>9002",
		"[::1]:53-54:53-54/udp":        "[::1]:53>53/udp [::1]:54>54/udp",
		"8000-8000:80":                 "127.0.0.1:8000>80 [::1]:8000>80",
		"10.0.0.1:8000:9000":           "10.0.0.1:8000>9000",
		"8000-8002:9000-9001":          "--publish 8000-8002:9000-9001: 8000-8002 are 3 ports, and 9000-9001 are 2",
		"8002-8000:9000-9002":          "--publish 8002-8000:9000-9002: the range 8002-8000 ends before it begins",
		"1-1000:1-1000":                "--publish 1-1000:1-1000: a range has 256 ports at most",
		"8000-:80":                     "is no port",
		"8000-x:80":                    "is no port",
		"65535-65536:1-2":              "is no port",
		"-1:80":                        "is no port",
	} {
		ports, err := Parse([]string{flag})
		var all []string
		for _, p := range ports {
			s := fmt.Sprintf("%v>%d", p.At, p.Port)
			if p.UDP {
				s += "/udp"
			}
			all = append(all, s)
		}
		got := strings.Join(all, " ")
		if err != nil {
			got = err.Error()
		}
		if got != want && !(strings.HasPrefix(want, "is ") && strings.Contains(got, want)) {
			t.Errorf("%s: %s, want %s", flag, got, want)
		}
	}
}
