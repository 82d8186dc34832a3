package inforce

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"time"

	"appfw/dnsguard"
	"appfw/netns/view"
	"appfw/policy"
)

// HostFiles is what the host's own files say of names. A file that is not there says
// nothing.
type HostFiles struct {
	Resolv   dnsguard.ResolvConf // resolv.conf(5)
	Hosts    []byte              // hosts(5); nil if there is none
	Nsswitch []byte              // nsswitch.conf(5); nil if there is none
	Name     string              // of the machine (gethostname(2)); "" if it has none

	servers func() dnsguard.ResolvConf
	names   map[policy.Name][]netip.Addr // of Hosts
}

// ReadHostFiles reads them.
func ReadHostFiles() (*HostFiles, error) {
	h := new(HostFiles)
	resolv, err := view.ReadFile("/etc/resolv.conf")
	if err == nil || os.IsNotExist(err) {
		h.Resolv, err = dnsguard.ReadResolvConf(bytes.NewReader(resolv))
	}
	if err != nil {
		return nil, fmt.Errorf("read the host's resolvers: %w", err)
	}
	h.servers = dnsguard.HostResolvers("/etc/resolv.conf", time.Now)
	h.refresh()
	h.Name, _ = os.Hostname()
	h.Nsswitch, _ = view.ReadFile("/etc/nsswitch.conf")
	return h, nil
}

// refresh reads /etc/hosts. If it cannot be read, what was there before stays.
func (h *HostFiles) refresh() {
	content, err := view.ReadFile("/etc/hosts")
	if err != nil {
		return
	}
	if names, err := dnsguard.ReadHosts(bytes.NewReader(content)); err == nil {
		h.names, h.Hosts = names, content
	}
}

// Host is what policies need of them, as they are when it is asked.
func (h *HostFiles) Host() Host {
	return Host{Servers: h.servers, Hosts: func() map[policy.Name][]netip.Addr {
		h.refresh()
		return h.names
	}}
}
