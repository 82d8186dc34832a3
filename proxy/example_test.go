package proxy_test

import (
	"context"

	"appfw/dnsguard"
	"appfw/netns"
	"appfw/netns/route"
	"appfw/policy"
	"appfw/proxy"
	"appfw/proxy/explicit"
	"appfw/proxy/gateway"
	"appfw/proxy/journal"
)

func Example() {
	_ = func(ctx context.Context, current func() *policy.Policy, pins *dnsguard.Pins, guard *dnsguard.Guard, log func(journal.Event), gate *netns.Gate) {
		p := proxy.New(proxy.Config{Policy: current, Pins: pins, Guard: guard, Routes: route.New(), Log: log})
		asks := explicit.New(explicit.Config{Proxy: p})
		go p.Serve(ctx, &proxy.GateIntake{Proxy: p, Gate: gateway.ByGate(gate), Explicit: asks})
		// ...
		p.Recheck() // after the policy has changed: cuts what it denies
	}
}
