package proxy

import (
	"net/netip"

	"appfw/policy"
)

// Living yields where the app's flows go that have not ended, and the names that they
// go there for: that they are allowed for, and those that they have shown. No lock is
// held meanwhile. It is a [dnsguard.Living].
func (p *Proxy) Living(yield func(netip.Addr, policy.Name) bool) {
	var names []policy.Name
	for _, f := range p.all() {
		var to netip.Addr
		if to, names = f.goes(names[:0]); !to.IsValid() {
			continue
		}
		for _, name := range names {
			if !yield(to, name) {
				return
			}
		}
	}
}

// goes is where the flow of the app's goes, while it does; the names that it goes there
// for are appended to names.
func (f *Flow) goes(names []policy.Name) (netip.Addr, []policy.Name) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == Deciding || f.state == Ended || f.facts.In {
		return netip.Addr{}, names
	}
	return f.way.dst.Addr(), append(append(names, f.way.name), f.shown...)
}
