package gateway_test

import (
	"context"
	"log"

	"appfw/netns"
	"appfw/proxy"
	"appfw/proxy/gateway"
)

// The network of one program, from its making to its end. It needs the right to make
// namespaces.
func Example() {
	_ = func(ctx context.Context, p *proxy.Proxy, command netns.Command, wait func(pid int)) {
		ctx, cancel := context.WithCancel(ctx)
		g, err := gateway.Open(netns.New)
		if err != nil {
			log.Fatal(err)
		}
		serving, failed := g.Serve(ctx, p, nil, nil)
		go func() { log.Print(<-failed) }()
		child, err := g.App.Start(command)
		if err != nil {
			log.Fatal(err)
		}
		wait(child.PID)
		g.Drain(ctx, p, func() {})
		cancel()
		serving.Wait()
	}
}
