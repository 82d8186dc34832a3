package proxy

import (
	"context"
	"net"
	"sync/atomic"

	"appfw/proxy/relay"
)

// Intake is where flows come from: the veth, the app's loopback, a published port,
// a client of the explicit proxy.
type Intake interface {
	// Run calls admit for whatever is attempted until ctx ends, and returns when all
	// of it has ended. admit does not block.
	Run(ctx context.Context, admit func(Attempt)) error
}

// Attempt is a flow that somebody wants, held until it is decided: a SYN or a
// datagram that waits in the queue, a request of SOCKS or HTTP, a client of a
// published port. One of Accept and Refuse is called, once; or Accept and then Refuse,
// if that fails or what it let in are no bytes of a connection and nothing came of it.
type Attempt interface {
	Facts() Facts
	// Accept lets it in: a SYN to the listener; SOCKS hears of success.
	Accept(context.Context) (Endpoint, error)
	// Refuse says why there is no flow: a *Denied if the policy denies it, else the
	// error of connecting, which may be a [Shortage]. Who left before is not told
	// anything.
	Refuse(error)
}

// Endpoint is the side of whoever attempted a flow. One of the first four is set.
type Endpoint struct {
	Stream relay.Stream
	// Take is of who relays for himself. It returns when he is through with the
	// connection, which it closes; bytes are counted in sent and received. Its error is
	// why it could not go on: the cause of ctx, if that has ended.
	Take      func(ctx context.Context, out relay.Stream, sent, received *atomic.Int64) error
	Datagrams relay.Sink
	Echo      *Echo

	Early []byte // of a Stream: read from it already
}

// Echo is an echo request that was taken out of the queue.
type Echo struct {
	Request []byte            // the whole ICMP message
	Reply   func(data []byte) // answers it; data is without identifier and sequence number
}

// Watched is an attempt that may be left while its flow is being connected.
type Watched interface {
	// Watch is called once the flow is allowed. The context that it returns is ctx, and
	// ends with [ErrHungUp] as its cause (see context.Cause) when the attempt is left.
	Watch(ctx context.Context) context.Context
}

// Reacher is an attempt that is told where its datagrams go, before it is accepted: to
// an address, or to a name that is resolved elsewhere.
type Reacher interface {
	Reached(host string, port uint16)
}

// Inwards is an attempt that is for the app, and knows the way to it.
type Inwards interface {
	DialTCP(context.Context) (relay.Stream, error)
	DialUDP() (*net.UDPConn, error)
}
