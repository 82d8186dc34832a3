package explicit

import (
	"strings"
	"testing"
)

func TestParseUsers(t *testing.T) {
	long := strings.Repeat("x", maxCredential)
	for _, tt := range []struct {
		lines string
		want  string // the users with their policies, or the error
	}{
		{"a x\n\n  # comment\n\tb\ty\tb.policy\r\n", "a: b:b.policy "},
		{"a x", "a: "},
		{"a #x", "a: "},
		{"a x:y", "a: "},
		{long + " " + long, long + ": "},
		{"", "u has no user"},
		{"# a x\n", "u has no user"},
		{"a x\nb\n", "u:2:1: a password must follow the name"},
		{"  aa\n", "u:1:3: a password must follow the name"},
		{"a x x x xx", "u:1:7: only a name, a password and a policy file stand in a line"},
		{"a:b a:b\n", "u:1:1: a name cannot have a colon (RFC 7617)"},
		{"a a\na b\n", `u:2:1: the name "a" stands in line 1 already`},
		{long + "x x", "u:1:1: the name is longer than 255 bytes"},
		{" x " + long + "x", "u:1:4: the password is longer than 255 bytes"},
		{"a " + strings.Repeat("x", 1<<17), "read u: bufio.Scanner: token too long"},
	} {
		users, err := ParseUsers("u", strings.NewReader(tt.lines))
		got := ""
		for _, name := range []string{"a", "b", long} {
			if u, ok := users[name]; ok {
				got += name + ":" + u.Policy + " "
			}
		}
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%.40q: %.200q, want %.200q", tt.lines, got, tt.want)
		}
	}
}

// A file that others may read holds no passwords, and a mistake leaves the users
// that there are.
