package explicit

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"appfw/policy"
)

// User is one who may use the proxy.
type User struct {
	Policy string // file; "" for the one of all who have none
	Line   int    // of the file of users

	password secret
}

// Is tells whether a password is the user's.
func (u User) Is(password string) bool { return u.password.is(password) }

// Keep takes over what is known of the user's password, if that is the same hash: it need
// not be hashed again then.
func (u *User) Keep(before User) {
	if u.password.text != "" && u.password.text == before.password.text {
		u.password.known = before.password.known
	}
}

// maxCredential is the longest user or password, as of RFC 1929.
const maxCredential = 255

// ParseUsers reads NAME PASSWORD [POLICY] lines. In place of a password there may be a
// hash of one, by bcrypt or argon2id. Lines that start with "#" are comments.
func ParseUsers(file string, r io.Reader) (map[string]User, error) {
	users := make(map[string]User)
	lines := bufio.NewScanner(r)
	for number := 1; lines.Scan(); number++ {
		text := lines.Text()
		if number == 1 {
			text = strings.TrimPrefix(text, "\ufeff") // as some editors begin a file with
		}
		fields := strings.Fields(text)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		wrong := func(field int, format string, args ...any) error {
			column := 1
			for i, rest := 0, text; i <= field; i++ {
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
			return nil, wrong(0, "the name %.80q stands in line %d already", name, first.Line)
		}
		password, err := parseSecret(fields[1])
		if err != nil {
			return nil, wrong(1, "%v", err)
		}
		u := User{password: password, Line: number}
		if len(fields) == 3 {
			u.Policy = fields[2]
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
