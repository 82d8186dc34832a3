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
		{"\ufeffa x\n", "a: "},
		{"a $2y$05$CCCC\n", "u:1:3: it begins like a hash of bcrypt and is none"},
		{"a $argon2i$v=19$m=8,t=1,p=1$c29tZXNhbHQ$x", "u:1:3: it begins like a hash of argon2id and is none that can be used: $argon2id$v=19$m=KIB,t=TIMES,p=THREADS$SALT$HASH, with 262144 KiB and 20 times at most"},
		{"a $argon2id$v=19$m=4194304,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "u:1:3: it begins like a hash of argon2id and is none that can be used: $argon2id$v=19$m=KIB,t=TIMES,p=THREADS$SALT$HASH, with 262144 KiB and 20 times at most"},
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

// Hashes that others have made: those of the tests of crypt_blowfish and of argon2.
func TestHashes(t *testing.T) {
	for hash, password := range map[string]string{
		"$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW":                           "U*U",
		"$2y$05$/OK.fbVrR/bpIqNJ5ianF.CE5elHaaO4EbggVDjb8P19RukzXSM3e":                           "\xff\xff\xa3",
		"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc": "password",
		"$1plain": "$1plain",
	} {
		users, err := ParseUsers("u", strings.NewReader("a "+hash))
		if err != nil {
			t.Fatal(err)
		}
		u := users["a"]
		for range 2 { // also when it is known
			if !u.Is(password) || u.Is(password+"x") || u.Is("") || strings.HasPrefix(hash, "$2") && u.Is(hash) {
				t.Errorf("%s: %v, and with more %v, the hash itself %v", hash, u.Is(password), u.Is(password+"x"), u.Is(hash))
			}
		}
		again, _ := ParseUsers("u", strings.NewReader("a "+hash))
		is := again["a"]
		if is.Keep(u); is.password.known != u.password.known {
			t.Errorf("%s: it is hashed again", hash)
		}
	}
}
