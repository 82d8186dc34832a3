// Package gateway is one app's network as a whole: its namespace and the gateway's,
// the veth between them, the gates, the resolver, the explicit proxy and the published
// ports, opened together and served by one [proxy.Proxy]. It decides nothing.
//
//	g, err := gateway.Open(netns.New)
//	serving, failed := g.Serve(ctx, p, ports, explain)
//	child, err := g.App.Start(command)
//	... // it has ended
//	g.Drain(ctx, p, moving)
//	cancel()
//	serving.Wait()
package gateway

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"appfw/netns"
	"appfw/policy"
	"appfw/proxy"
	"appfw/proxy/explicit"
)

// Gateway is what one app's network consists of. Nothing of it needs to be closed: it
// ends with the process.
type Gateway struct {
	App            *netns.Namespace
	gate, loopback *netns.Gate
	tcp53          []net.Listener
	udp53          []*net.UDPConn
}

// Open makes the gateway's namespace, has the app's made or opened, and opens all that
// takes in the app's flows.
func Open(app func() (*netns.Namespace, error)) (*Gateway, error) {
	var outer *netns.Namespace
	g := new(Gateway)
	err := netns.Parallel(
		func() (err error) { outer, err = netns.New(); return err },
		func() (err error) { g.App, err = app(); return err },
	)
	if err != nil {
		return nil, err
	}
	ipv6, err := netns.Connect(outer, g.App)
	if err != nil {
		return nil, err
	}
	err = netns.Parallel(
		func() (err error) { g.gate, err = netns.OpenGateway(outer, ipv6); return err },
		func() (err error) { g.loopback, err = netns.OpenLoopback(g.App, ipv6); return err },
	)
	if err != nil {
		return nil, err
	}
	g.tcp53, g.udp53, err = netns.ListenDNS(outer, ipv6)
	return g, err
}

// Serve serves all that comes by the gateway until ctx ends, when the wait group is
// done. What fails before is sent to failed. explain words denials for clients of the
// explicit proxy.
func (g *Gateway) Serve(ctx context.Context, p *proxy.Proxy, ports []*proxy.Published, explain func(policy.Verdict) string) (serving *sync.WaitGroup, failed <-chan error) {
	serving = new(sync.WaitGroup)
	errs := make(chan error, 3+len(ports))
	serve := func(what string, run func() error) {
		serving.Go(func() {
			if err := run(); err != nil && ctx.Err() == nil {
				errs <- fmt.Errorf("%s: %w", what, err)
			}
		})
	}
	serve("resolver", func() error { return p.Guard.Serve(ctx, g.tcp53, g.udp53) })
	asks := explicit.New(explicit.Config{Proxy: p, Explain: explain})
	serve("gateway", func() error {
		return p.Serve(ctx, &proxy.GateIntake{Proxy: p, Gate: ByGate(g.gate), Explicit: asks})
	})
	serve("loopback", func() error { return p.Serve(ctx, &proxy.GateIntake{Proxy: p, Gate: ByGate(g.loopback)}) })
	for _, port := range ports {
		port.Proxy, port.To = p, proxy.Inward{Veth: g.gate, Loopback: g.loopback}
		serve("publish", func() error { return p.Serve(ctx, port) })
	}
	return serving, errs
}

const (
	// judgeTime bounds the wait for the last packets of an app that has ended, and
	// sendTime that for what it sent to be delivered, while that gets on.
	judgeTime = 250 * time.Millisecond
	sendTime  = 10 * time.Second
)

// Drain lets the last packets of an app that has ended be judged and recorded, and
// what it sent be delivered, until ctx ends. While that gets on, moving is called now
// and then; if it does not, Drain returns after a second at most.
func (g *Gateway) Drain(ctx context.Context, p *proxy.Proxy, moving func()) {
	judging, cancel := context.WithTimeout(ctx, judgeTime)
	defer cancel()
	g.gate.Drain(judging, g.App)
	g.loopback.Drain(judging, g.App)
	delivering, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	p.Linger(delivering, moving, func() map[netns.Connection]bool {
		closing, _ := g.App.Closing() // without, only what has come whole is waited for
		return closing
	})
}
