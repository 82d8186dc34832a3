package conntest

import (
	"net/netip"

	"appfw/netns/route"
)

// Routes is a proxy.Routes of some addresses. Of the others, those of the loopback and
// the unspecified ones are this host's, and the rest is elsewhere.
type Routes map[netip.Addr]route.Kind

// Kind implements proxy.Routes.
func (r Routes) Kind(a netip.Addr) route.Kind {
	a = a.WithZone("").Unmap()
	if k, ok := r[a]; ok {
		return k
	}
	if a.IsLoopback() || a.IsUnspecified() {
		return route.Local
	}
	return route.Unicast
}

// Known implements proxy.Routes.
func (r Routes) Known(a netip.Addr) route.Kind { return r.Kind(a) }
