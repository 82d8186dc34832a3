package proxy

import (
	"context"
	"errors"
	"os"

	"appfw/netns"
)

// echo is an echo request that waits in the queue.
type echo struct{ held }

// Accept implements [Attempt]: the request is taken out of the queue.
func (a *echo) Accept(context.Context) (Endpoint, error) {
	_ = a.settle(false)
	return Endpoint{Echo: &Echo{
		Request: a.p.Payload,
		Reply:   func(data []byte) { _ = a.in.Gate.Queue.Send(a.p, a.p.EchoReply(data)) },
	}}, nil
}

// echo passes an echo request on, and its answer back.
func (f *Flow) echo(ctx context.Context) {
	f.enter(Accepting)
	in, err := f.attempt.Accept(ctx)
	if err != nil {
		f.fail(ctx, err)
		return
	}
	f.mu.Lock()
	if err = context.Cause(ctx); err == nil { // it was not cut meanwhile
		f.state = Open
	}
	f.mu.Unlock()
	if err != nil {
		f.fail(ctx, err)
		return
	}
	answer, err := netns.Ping(ctx, f.way.dst.Addr(), in.Echo.Request)
	switch {
	case err == nil:
		f.received.Store(int64(len(answer)))
		in.Echo.Reply(answer)
	case !errors.Is(err, os.ErrDeadlineExceeded): // else it is not answered
		f.fail(ctx, err)
		return
	}
	f.sent.Store(int64(len(in.Echo.Request) - 8))
	f.end(f.how(ctx, context.Cause(ctx)), "")
}
