package view

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"appfw/netns"
)

// WithProxy is an environment with the variables by which programs find a proxy, one
// at the given address that speaks SOCKS5 and HTTP. All say HTTP: where a program carries
// TCP at all, it goes by CONNECT, and many refuse a SOCKS scheme, or its socks5h.
func WithProxy(env []string, at netip.AddrPort) []string {
	for _, v := range []struct{ name, value string }{
		{"ALL_PROXY", "http://" + at.String()},
		{"HTTP_PROXY", "http://" + at.String()},
		{"HTTPS_PROXY", "http://" + at.String()},
		{"NO_PROXY", "localhost,127.0.0.1,::1"},
	} {
		for _, name := range []string{v.name, strings.ToLower(v.name)} { // programs read the one or the other
			env = set(env, name, v.value)
		}
	}
	return env
}

// ofUser are variables that say who somebody is, and where his files are.
var ofUser = []string{
	"USER", "LOGNAME", "MAIL", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME",
}

// OfUser is an environment for a program that runs as a user: if that is another one than
// this process's, with his home, and not the caller's. nil is this process's.
func OfUser(env []string, u *netns.User) []string {
	if u == nil || int(u.UID) == os.Geteuid() {
		return env
	}
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		name, value, _ := strings.Cut(v, "=")
		return slices.Contains(ofUser, name) && value != fmt.Sprintf("/run/user/%d", u.UID)
	})
	if u.Name == "" {
		return set(env, "HOME", "/")
	}
	return append(set(env, "HOME", u.Home), "USER="+u.Name, "LOGNAME="+u.Name)
}

// set sets a variable.
func set(env []string, name, value string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, name+"=") })
	return append(env, name+"="+value)
}

// variable is the value of one; "" if there is none.
func variable(env []string, name string) string {
	for _, v := range env {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}
