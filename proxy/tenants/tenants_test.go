package tenants

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"appfw/proxy/inforce"
)

func TestReadUsers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	write := func(lines string, mode os.FileMode) {
		t.Helper()
		_ = os.Remove(file) // it may be one that only root can write to
		if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	all := &tenant{Policy: new(inforce.Policy)}
	s := &Tenants{Config: Config{Users: file, Option: "--users"}, tenants: map[string]*tenant{"": all}}
	if err := s.readUsers(t.Context()); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
	for _, mode := range []os.FileMode{0o604, 0o620, 0o602, 0o644, 0o660, 0o666} {
		write("a x\n", mode)
		if err := s.readUsers(t.Context()); err == nil || !strings.Contains(err.Error(), "others can read the passwords in "+file+" (chmod 600 "+file+")") {
			t.Errorf("%v: %v", mode, err)
		}
	}
	for _, mode := range []os.FileMode{0o600, 0o400, 0o640} {
		write("a x\n", mode)
		if err := s.readUsers(t.Context()); err != nil {
			t.Errorf("%v: %v", mode, err)
		}
	}
	write("b\n", 0o600)
	if err := s.readUsers(t.Context()); err == nil {
		t.Error("a user without a password")
	}
	if users := *s.users.Load(); len(users) != 1 || !users["a"].Is("x") {
		t.Errorf("the users have become %v", users)
	}
}
