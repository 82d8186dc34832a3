package main

import (
	"os"
	"path/filepath"
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
		users, err := parseUsers("u", strings.NewReader(tt.lines))
		got := ""
		for _, name := range []string{"a", "b", long} {
			if u, ok := users[name]; ok {
				got += name + ":" + u.policy + " "
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
func TestReadUsers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	write := func(lines string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	all := &tenant{rules: new(live)}
	s := &service{flags: serveFlags{users: file}, tenants: map[string]*tenant{"": all}}
	if err := s.readUsers(); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o602, 0o644, 0o666} {
		write("a x\n", mode)
		if err := s.readUsers(); err == nil || !strings.Contains(err.Error(), "others can read the passwords in "+file+" (chmod 600 "+file+")") {
			t.Errorf("%v: %v", mode, err)
		}
	}
	for _, mode := range []os.FileMode{0o600, 0o400} {
		write("a x\n", mode)
		if err := s.readUsers(); err != nil {
			t.Errorf("%v: %v", mode, err)
		}
	}
	write("b\n", 0o600)
	if err := s.readUsers(); err == nil {
		t.Error("a user without a password")
	}
	if users := *s.users.Load(); len(users) != 1 || users["a"].password == [32]byte{} {
		t.Errorf("the users have become %v", users)
	}
}
