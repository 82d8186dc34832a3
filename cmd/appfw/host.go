package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"strconv"

	"appfw/netns"
	"appfw/netns/view"
	"appfw/proxy"
	"appfw/proxy/inforce"
)

// guardOf begins to look for what an app that starts in a directory is not to see of the
// host; what is shared it is.
func guardOf(files *inforce.HostFiles, dir string, shared []string) *view.Guard {
	v := viewed(files)
	v.Dir, v.Share = dir, shared
	return view.Watch(v)
}

// viewed is the host as package view takes it.
func viewed(files *inforce.HostFiles) view.Host {
	v := view.Host{
		Resolver: netns.Gateway4, Resolv: files.Resolv.Lines, Hosts: files.Hosts, Nsswitch: files.Nsswitch,
		UID: os.Getuid(), Env: os.Environ(), Name: files.Name, Own: []netip.Addr{netns.App4, netns.App6},
	}
	if u, err := user.LookupId(strconv.Itoa(v.UID)); err == nil {
		v.Home = u.HomeDir
	}
	return v
}

// appEnv is the app's environment. With proxies, the variables by which programs
// find one name the one in the gateway.
func appEnv(proxies bool) []string {
	if proxies {
		return view.WithProxy(os.Environ(), netip.AddrPortFrom(netns.Gateway4, proxy.ExplicitPort))
	}
	return os.Environ()
}

// appUser is who the app runs as: with root's rights, the user named or the one
// who called sudo; without, always the caller, and the result is nil.
func appUser(name string) (*netns.User, error) {
	root := os.Geteuid() == 0
	if !root {
		if name != "" && name != strconv.Itoa(os.Getuid()) {
			if u, err := user.Lookup(name); err != nil || u.Uid != strconv.Itoa(os.Getuid()) {
				return nil, fmt.Errorf("--user %s: only root can run a command as somebody else", printable(name))
			}
		}
		return nil, nil
	}
	if name == "" {
		if name = os.Getenv("SUDO_UID"); name == "" || name == "0" {
			return nil, nil // root itself, without any capability
		}
	}
	u, err := netns.FindUser(name)
	if err != nil {
		return nil, fmt.Errorf("--user: %w", err)
	}
	return u, nil
}
