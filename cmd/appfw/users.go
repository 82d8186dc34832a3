package main

import (
	"bufio"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"os"
	"strings"

	"appfw/policy"
	"appfw/proxy"
)

// proxyUser is one who may use the proxy.
type proxyUser struct {
	password [sha256.Size]byte // its hash, so that comparing tells nothing of its length
	policy   string            // file; "" for that of the flags
	line     int
	proxy    *proxy.Proxy // that decides by it
}

// maxCredential is the longest user or password, as of RFC 1929.
const maxCredential = 255

// parseUsers reads NAME PASSWORD [POLICY] lines. Lines that start with "#" are
// comments.
func parseUsers(file string, r io.Reader) (map[string]proxyUser, error) {
	users := make(map[string]proxyUser)
	lines := bufio.NewScanner(r)
	for number := 1; lines.Scan(); number++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		wrong := func(field int, format string, args ...any) error {
			column := 1
			for i, rest := 0, lines.Text(); i <= field; i++ {
				before := strings.Index(rest, fields[i])
				if column += before; i < field {
					column += len(fields[i])
					rest = rest[before+len(fields[i]):]
				}
			}
			return &policy.SyntaxError{Pos: policy.Pos{File: file, Line: number, Column: column}, Msg: fmt.Sprintf(format, args...)}
		}
		name := fields[0]
		switch {
		case len(fields) == 1:
			return nil, wrong(0, "a password must follow the name")
		case len(fields) > 3:
			return nil, wrong(3, "only a name, a password and a policy file stand in a line")
		case strings.Contains(name, ":"):
			return nil, wrong(0, "a name cannot have a colon (RFC 7617)")
		case len(name) > maxCredential:
			return nil, wrong(0, "the name is longer than %d bytes", maxCredential)
		case len(fields[1]) > maxCredential:
			return nil, wrong(1, "the password is longer than %d bytes", maxCredential)
		}
		if first, twice := users[name]; twice {
			return nil, wrong(0, "the name %.80q stands in line %d already", name, first.line)
		}
		u := proxyUser{password: sha256.Sum256([]byte(fields[1])), line: number}
		if len(fields) == 3 {
			u.policy = fields[2]
		}
		users[name] = u
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	if len(users) == 0 {
		return nil, fmt.Errorf("%s has no user", file)
	}
	return users, nil
}

// readUsers reads the users and their policies. With a mistake in them, those
// that there are stay.
func (s *service) readUsers() error {
	f, err := os.Open(s.flags.users)
	if err != nil {
		return fmt.Errorf("--users: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("--users: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("--users: others can read the passwords in %s (chmod 600 %s)", s.flags.users, s.flags.users)
	}
	users, err := parseUsers(s.flags.users, f)
	if err != nil {
		return err
	}
	for name, u := range users {
		t, err := s.tenant(u.policy)
		if err != nil {
			return fmt.Errorf("the policy of %s (%s:%d): %w", name, s.flags.users, u.line, err)
		}
		u.proxy = t.rules.proxy
		users[name] = u
	}
	s.users.Store(&users)
	return nil
}

// admit is what decides on the flows of a user; nil if there is none with the
// password.
func (s *service) admit(name, password string) *proxy.Proxy {
	u := (*s.users.Load())[name] // one without a proxy if there is none
	given := sha256.Sum256([]byte(password))
	if subtle.ConstantTimeCompare(u.password[:], given[:]) == 0 {
		return nil
	}
	return u.proxy
}
