package decide

import (
	"net/netip"
	"sync"

	"appfw/policy"
)

// Denials are the clients that were denied by some rules, and that was said: of each
// further datagram it is known. The zero value is ready.
type Denials struct {
	mu    sync.Mutex
	addrs map[netip.Addr]struct{}
	rules *policy.Policy
}

// maxDenials bounds those that are remembered.
const maxDenials = 1024

// Add remembers a client that rules denied, and forgets those that others did.
func (d *Denials) Add(a netip.Addr, rules *policy.Policy) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rules != rules || len(d.addrs) >= maxDenials {
		d.rules, d.addrs = rules, make(map[netip.Addr]struct{})
	}
	d.addrs[a] = struct{}{}
}

// Has tells whether the rules denied a client before.
func (d *Denials) Has(a netip.Addr, rules *policy.Policy) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.addrs[a]
	return ok && d.rules == rules
}
