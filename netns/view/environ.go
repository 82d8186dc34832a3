package view

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
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

// OfUser is an environment for a program that runs as another user: with that
// user's home, and not the caller's. name and home are of passwd(5); the name is empty
// if the user is not in there.
func OfUser(env []string, uid uint32, name, home string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		name, value, _ := strings.Cut(v, "=")
		return slices.Contains(ofUser, name) && value != fmt.Sprintf("/run/user/%d", uid)
	})
	if name == "" {
		return set(env, "HOME", "/")
	}
	return append(set(env, "HOME", home), "USER="+name, "LOGNAME="+name)
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
