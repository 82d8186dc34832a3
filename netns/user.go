package netns

import (
	"fmt"
	"os/user"
	"strconv"
)

// FindUser finds a user by name or uid, with the groups of passwd(5) and group(5). A
// uid without an entry is a user with the group of that number.
func FindUser(name string) (*User, error) {
	u, err := user.Lookup(name)
	if err != nil {
		u, err = user.LookupId(name)
	}
	if err != nil {
		id, nerr := strconv.ParseUint(name, 10, 32)
		if nerr != nil {
			return nil, fmt.Errorf("there is no user %q", name)
		}
		return mapped(&User{UID: uint32(id), GID: uint32(id)}, nil)
	}
	return mapped(withGroups(u))
}

// mapped is an error for a user whom this user namespace has not.
func mapped(u *User, err error) (*User, error) {
	if err == nil && !IsMapped(int(u.UID)) {
		return nil, fmt.Errorf("uid %d means nobody in this user namespace", u.UID)
	}
	return u, err
}

// withGroups looks up the groups of a user.
func withGroups(u *user.User) (*User, error) {
	var ids []uint32
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("look up the groups of %s: %w", u.Username, err)
	}
	for _, s := range append([]string{u.Uid, u.Gid}, groups...) {
		id, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s: id %q is not a number", u.Username, s)
		}
		ids = append(ids, uint32(id))
	}
	return &User{UID: ids[0], GID: ids[1], Groups: ids[2:], Name: u.Username, Home: u.HomeDir}, nil
}
