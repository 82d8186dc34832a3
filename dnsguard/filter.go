package dnsguard

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"appfw/policy"
)

// denial is why an answer holds nothing for the app.
type denial struct {
	policy.Verdict
	alias bool // for a name it leads to: nothing of the name is for the app
}

// maxAddrs bounds the addresses of an answer, all of which are pinned. There are
// names with some hundreds.
const maxAddrs = 1024

// filter takes out of the answer for name what is not for the app: addresses to
// which no flow would be allowed, and of service bindings (RFC 9460) what leads
// past the policy.
func (e *entry) filter(name policy.Name) {
	e.addrs, e.denied = nil, nil
	if len(e.aliases) > 0 {
		if v := e.rules.DecideAnswer(name, e.aliases, netip.Addr{}); !v.Allowed() {
			e.denied = &denial{v, true}
			e.records, e.ns = nil, nil
			return
		}
	}
	changed := make(map[uint16]bool) // types that are signed no longer
	keep := func(ip net.IP, aliases []policy.Name) bool {
		a, ok := netip.AddrFromSlice(ip)
		if !ok {
			return false // a record without data
		}
		a = a.Unmap()
		v := e.rules.DecideAnswer(name, aliases, a)
		if v.Allowed() && len(e.addrs) == maxAddrs {
			return false
		}
		if v.Allowed() && !slices.Contains(e.addrs, a) {
			e.addrs = append(e.addrs, a)
		} else if !v.Allowed() && e.denied == nil {
			if v.Rule() != nil {
				v = v.Because(v.Reason() + ", at its address " + a.String())
			}
			e.denied = &denial{v, false}
		}
		return v.Allowed()
	}
	e.records = slices.DeleteFunc(e.records, func(rr dns.RR) bool {
		kept := true
		switch rr := rr.(type) {
		case *dns.A:
			kept = keep(rr.A, e.aliases)
		case *dns.AAAA:
			kept = keep(rr.AAAA, e.aliases)
		case *dns.HTTPS:
			kept = e.filterBinding(name, &rr.SVCB, keep)
			changed[dns.TypeHTTPS] = true
		case *dns.SVCB:
			kept = e.filterBinding(name, rr, keep)
			changed[dns.TypeSVCB] = true
		}
		if !kept {
			changed[rr.Header().Rrtype] = true
		}
		return !kept
	})
	e.records = slices.DeleteFunc(e.records, func(rr dns.RR) bool {
		sig, ok := rr.(*dns.RRSIG)
		return ok && changed[sig.TypeCovered]
	})
	e.authentic = e.authentic && len(changed) == 0
	if len(e.addrs) > 0 || changed[dns.TypeHTTPS] || changed[dns.TypeSVCB] {
		e.denied = nil // something is left, or may be done without
	}
}

// filterBinding takes out of a service binding the key of Encrypted ClientHello
// (the name in the clear is what flows are judged by), HTTP/3 where its port is
// denied, and addresses that keep refuses. It is false if nothing is left that
// a client may use.
func (e *entry) filterBinding(name policy.Name, rr *dns.SVCB, keep func(net.IP, []policy.Name) bool) bool {
	aliases := e.aliases
	if rr.Target != "." && !strings.EqualFold(rr.Target, rr.Hdr.Name) {
		// The client would ask for that name by itself.
		target, err := policy.ParseName(rr.Target)
		if err != nil || !e.rules.DecideName(target).Allowed() {
			return false
		}
		aliases = append(slices.Clip(aliases), target)
	}
	port := uint16(443)
	noDefault, protocols := false, true
	for _, v := range rr.Value {
		switch v := v.(type) {
		case *dns.SVCBPort:
			port = v.Port
		case *dns.SVCBNoDefaultAlpn:
			noDefault = true
		}
	}
	removed := map[dns.SVCBKey]bool{}
	rr.Value = slices.DeleteFunc(rr.Value, func(v dns.SVCBKeyValue) bool {
		empty := false
		switch v := v.(type) {
		case *dns.SVCBECHConfig:
			empty = true
		case *dns.SVCBAlpn:
			if !e.rules.Decide(policy.Flow{Proto: policy.UDP, Port: port, Name: name, Pinned: true}).Allowed() {
				v.Alpn = slices.DeleteFunc(v.Alpn, func(id string) bool { return strings.HasPrefix(id, "h3") })
			}
			empty = len(v.Alpn) == 0
			protocols = !empty
		case *dns.SVCBIPv4Hint:
			v.Hint = slices.DeleteFunc(v.Hint, func(ip net.IP) bool { return !keep(ip, aliases) })
			empty = len(v.Hint) == 0
		case *dns.SVCBIPv6Hint:
			v.Hint = slices.DeleteFunc(v.Hint, func(ip net.IP) bool { return !keep(ip, aliases) })
			empty = len(v.Hint) == 0
		}
		if empty {
			removed[v.Key()] = true
		}
		return empty
	})
	for _, v := range rr.Value {
		if m, ok := v.(*dns.SVCBMandatory); ok && slices.ContainsFunc(m.Code, func(k dns.SVCBKey) bool { return removed[k] }) {
			return false
		}
	}
	return protocols || !noDefault // without a protocol it is of no use (RFC 9460, 7.1.1)
}
