package dnsguard

import (
	"crypto/rand"
	"errors"
	"net/netip"
	"sync"

	"appfw/policy"
)

// Synthetic gives out addresses that stand for names: of those that are resolved
// beyond a chain of proxies, nothing else is known here. No address is given
// out for two names. It may be used by any goroutine.
type Synthetic struct {
	V4, V6 netip.Prefix // where from; invalid: SyntheticV4, SyntheticV6

	mu    sync.Mutex
	names map[netip.Addr]policy.Name
	addrs map[policy.Name][2]netip.Addr // IPv4 and IPv6
}

// Where synthetic addresses come from: a range that no destination has (RFC
// 2544), and a prefix of unique local addresses (RFC 4193).
var (
	SyntheticV4 = netip.MustParsePrefix("198.18.0.0/15")
	SyntheticV6 = netip.MustParsePrefix("fd61:7070:6677:ff00::/64")
)

var errFull = errors.New("all synthetic addresses are given out")

func (s *Synthetic) prefixes() (v4, v6 netip.Prefix) {
	v4, v6 = SyntheticV4, SyntheticV6
	if s.V4.IsValid() {
		v4 = s.V4
	}
	if s.V6.IsValid() {
		v6 = s.V6
	}
	return v4, v6
}

// For is the pair of addresses that stand for the name.
func (s *Synthetic) For(name policy.Name) (v4, v6 netip.Addr, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.addrs[name]; ok {
		return a[0], a[1], nil
	}
	if s.names == nil {
		s.names, s.addrs = make(map[netip.Addr]policy.Name), make(map[policy.Name][2]netip.Addr)
	}
	p4, p6 := s.prefixes()
	if v4, err = s.free(p4); err != nil {
		return v4, v6, err
	}
	if v6, err = s.free(p6); err != nil {
		return v4, v6, err
	}
	s.names[v4], s.names[v6] = name, name
	s.addrs[name] = [2]netip.Addr{v4, v6}
	return v4, v6, nil
}

// free picks an address at random: which names were asked for is not to be seen
// from it. s.mu is held.
func (s *Synthetic) free(p netip.Prefix) (netip.Addr, error) {
	first := p.Masked().Addr().AsSlice()
	for range 64 { // of a range that is half full, one in 2^64 finds none
		b := make([]byte, len(first))
		_, _ = rand.Read(b) // never fails
		for i := range b {
			host := byte(0xff)
			if bits := p.Bits() - 8*i; bits >= 8 {
				host = 0
			} else if bits > 0 {
				host >>= bits
			}
			b[i] = first[i]&^host | b[i]&host
		}
		a, _ := netip.AddrFromSlice(b)
		if _, taken := s.names[a]; !taken && a != p.Masked().Addr() {
			return a, nil
		}
	}
	return netip.Addr{}, errFull
}

// Name is the name that the address stands for. ours tells that the address is of
// those that are given out here, whether this one was or not.
func (s *Synthetic) Name(a netip.Addr) (name policy.Name, ours bool) {
	if v4, v6 := s.prefixes(); !v4.Contains(a) && !v6.Contains(a) {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names[a], true
}
