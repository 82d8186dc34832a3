package main

import (
	"net/netip"
	"time"

	"appfw/netns"
	"appfw/netns/route"
	"appfw/policy/source"
	"appfw/proxy"
	"appfw/proxy/inforce"
	"appfw/proxy/journal"
)

// judgedBy is what the programs of one namespace are judged by.
type judgedBy struct {
	policy  policyFlags
	writers source.Writers // which of its files the programs could change
	host    *inforce.HostFiles
	report  *journal.Journal
	publish bool // there are clients
	hides   bool // sockets of the host are hidden
	// pinLife is how long a name's address stays open that nothing uses; 0: for the run.
	pinLife time.Duration
}

// judged reads the policy for the programs of one namespace, which app is when they
// start.
func judged(by judgedBy, app **netns.Namespace) (*inforce.Policy, error) {
	return inforce.Open(inforce.Config{
		Source: source.Source{Lines: by.policy.lines, Writers: by.writers},
		Host:   by.host.Host(), Journal: by.report, Clients: by.publish, Hides: by.hides,
		PinLife: by.pinLife,
	}, proxy.Config{
		Routes: route.New(),
		Group:  func(proto uint8, src, dst netip.AddrPort) string { return (*app).Group(proto, src, dst) },
		Owner:  func(proto uint8, src, dst netip.AddrPort) string { return (*app).Owner(proto, src, dst) },
	})
}
