package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"time"

	"appfw/dnsguard"
	"appfw/netns"
	"appfw/netns/view"
	"appfw/policy"
	"appfw/proxy"
	"appfw/proxy/inforce"
)

// hostConfig is what appfw reads of the host's configuration.
type hostConfig struct {
	resolv    dnsguard.ResolvConf
	servers   func() dnsguard.ResolvConf   // its resolvers by now
	hosts     map[policy.Name][]netip.Addr // answered by appfw's resolver
	hostsFile []byte                       // where they are from; nil if there is none
	nsswitch  []byte                       // nil if there is none
}

func readHost() (hostConfig, error) {
	var h hostConfig
	resolv, err := view.ReadFile("/etc/resolv.conf")
	if err == nil || os.IsNotExist(err) {
		h.resolv, err = dnsguard.ReadResolvConf(bytes.NewReader(resolv))
	}
	if err != nil {
		return h, fmt.Errorf("read the host's resolvers: %w", err)
	}
	h.servers = dnsguard.HostResolvers("/etc/resolv.conf", time.Now)
	h.refresh()
	h.nsswitch, _ = view.ReadFile("/etc/nsswitch.conf")
	return h, nil
}

// refresh reads /etc/hosts. If it cannot be read, what was there before stays.
func (h *hostConfig) refresh() {
	content, err := view.ReadFile("/etc/hosts")
	if err != nil {
		return
	}
	if hosts, err := dnsguard.ReadHosts(bytes.NewReader(content)); err == nil {
		h.hosts, h.hostsFile = hosts, content
	}
}

// rules is what policies need of the configuration.
func (h hostConfig) rules() inforce.Host {
	return inforce.Host{Servers: h.servers, Hosts: func() map[policy.Name][]netip.Addr {
		h.refresh()
		return h.hosts
	}}
}

// watch begins to look for what an app that starts in a directory is not to see of the
// host; what is shared it is.
func (h *hostConfig) watch(dir string, shared []string) *view.Guard {
	v := h.forView()
	v.Dir, v.Share = dir, shared
	return view.Watch(v)
}

// forView is the configuration as package view takes it.
func (h *hostConfig) forView() view.Host {
	v := view.Host{
		Resolver: netns.Gateway4, Resolv: h.resolv.Lines, Hosts: h.hostsFile, Nsswitch: h.nsswitch,
		UID: os.Getuid(), Env: os.Environ(),
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

// userEnv is the environment of the gateway, whose user is another one than this
// process's: with that user's home, and not root's.
func userEnv(u *netns.User) []string {
	if u == nil || int(u.UID) == os.Geteuid() {
		return os.Environ()
	}
	return view.OfUser(os.Environ(), u.UID, u.Name, u.Home)
}
