package proxy

import (
	"context"
	"errors"

	"appfw/netns"
	"appfw/policy"
	"appfw/proxy/journal"
	"appfw/proxy/relay"
	"appfw/proxy/upstream"
)

// Admit takes an attempt its whole way, and returns when the flow has ended. ctx is
// that of the service; of whoever may leave before, [Watched] tells.
func (p *Proxy) Admit(ctx context.Context, a Attempt) {
	flow, cancel := context.WithCancelCause(ctx)
	if f := p.begin(a, cancel); f != nil {
		f.run(ctx, flow)
	}
	cancel(nil)
}

// Start is Admit that does not wait. When it returns, the attempt is in the table, and
// later ones of the same flow find it. What takes no time to decide on is decided: the
// goroutine of the flow then needs but a small stack.
func (p *Proxy) Start(ctx context.Context, a Attempt) {
	flow, cancel := context.WithCancelCause(ctx)
	f := p.begin(a, cancel)
	if f == nil {
		cancel(nil)
		return
	}
	switch err := f.decideNow(); err {
	case nil:
		f.scope.work.Go(func() { f.proceed(flow) })
	case errWaits:
		f.scope.work.Go(func() { f.run(ctx, flow) })
	default:
		f.refuse(err)
	}
}

// ErrHungUp is why a flow ends that a client of the explicit proxy wants no more: it
// is the cause of the end of a context, or the error of Accept.
var ErrHungUp = errors.New("the client has hung up")

var (
	errLeft   = errors.New("the app has given up")
	errIdlest = errors.New("it was idle for longest, and there was no room for another")
)

// run takes the flow from its decision to its end. ctx ends with the flow. A resolver
// is asked in service, which does not: others may wait for the same answer.
func (f *Flow) run(service, ctx context.Context) {
	if err := f.decide(service); err != nil {
		f.refuse(err)
		return
	}
	f.proceed(ctx)
}

// proceed takes a flow that is allowed to its end.
func (f *Flow) proceed(ctx context.Context) {
	if w, ok := f.attempt.(Watched); ok {
		ctx = w.Watch(ctx)
	}
	switch f.facts.Proto {
	case policy.TCP:
		f.connect(ctx)
	case policy.UDP:
		f.associate(ctx)
	default:
		f.echo(ctx)
	}
}

// refuse ends a flow of which nothing has left.
func (f *Flow) refuse(err error) {
	if denied, ok := errors.AsType[*Denied](err); ok && !denied.said {
		e := denied.event
		e.Flow = f.ID
		f.proxy.Log(e)
	}
	f.end(journal.Refused, "")
	f.attempt.Refuse(err)
}

// fail ends a flow whose destination could not be reached, or whose attempt was left.
func (f *Flow) fail(ctx context.Context, err error) {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause // why it was given up
	}
	denied, isDenied := errors.AsType[*Denied](err)
	how := journal.Failed
	failed := upstream.Plain(err)
	switch {
	case isDenied:
		how, failed = journal.Cut, notWanted
	case errors.Is(err, errLeft):
		how = journal.Left
	case errors.Is(err, context.Canceled), errors.Is(err, ErrHungUp):
		how, failed = journal.Left, notWanted
	}
	switch text := upstream.Failure(err); {
	case netns.Shortage(err): // which passes
		f.deny(short.Verdict.Reason())
	case text != "":
		f.deny(text)
	case errors.Is(err, upstream.ErrNoUDP), errors.Is(err, netns.ErrNoPing):
		denied = &Denied{Verdict: policy.Denial(err.Error()), said: true}
		if errors.Is(err, netns.ErrNoPing) {
			denied.Verdict = policy.Denial(netns.ErrNoPing.Error() + " (appfw doctor says how)")
		}
		f.deny(denied.Verdict.Reason())
	}
	f.end(how, failed)
	if denied != nil {
		err = denied
	}
	f.attempt.Refuse(err)
}

const notWanted = "it was not wanted any more"

// short is why a flow is refused when appfw itself has no room for it.
var short = &Denied{Verdict: policy.Denial("appfw has no file descriptor left for it (ulimit -n raises the limit)"), said: true}

// connect connects the flow to its destination, lets the app in, and relays.
func (f *Flow) connect(ctx context.Context) {
	out, err := f.dial(ctx)
	if err != nil {
		f.fail(ctx, err)
		return
	}
	f.enter(Accepting)
	in, err := f.attempt.Accept(ctx)
	if err != nil {
		out.Close()
		f.fail(ctx, err)
		return
	}
	f.proxy.opened(f)
	if in.Take != nil {
		f.enter(Open)
		f.end(f.how(ctx, in.Take(ctx, out, &f.sent, &f.received)), "")
		return
	}
	app := in.Stream
	if f.facts.In {
		app, out = out, app
	}
	r := &relay.Relay{App: app, Out: out, Early: in.Early, Held: f.proxy.held, Sent: &f.sent, Received: &f.received}
	f.mu.Lock()
	err = context.Cause(ctx)
	if err == nil { // it was not cut meanwhile
		f.state, f.stream = Open, r
		if f.looked && !f.facts.In {
			r.Judge = f.judge
		}
	}
	f.mu.Unlock()
	if err == nil {
		err = r.Run(ctx)
	} else {
		r.Abort()
	}
	f.end(f.how(ctx, err), "")
}

// how is the way in which a flow ended that was open.
func (f *Flow) how(ctx context.Context, err error) journal.End {
	garbled, isGarbled := errors.AsType[*relay.Unreadable](err)
	if isGarbled {
		f.deny(garbled.Error())
	} else if text := upstream.Failure(err); text != "" {
		f.deny(text)
	}
	cause := context.Cause(ctx)
	switch {
	case isGarbled, errors.Is(err, relay.ErrAbort), errors.Is(cause, relay.ErrAbort):
		return journal.Cut
	case err == nil: // before what has ended ctx since
		return journal.Done
	case errors.Is(cause, errIdlest):
		return journal.Crowded
	case errors.Is(cause, ErrHungUp):
		return journal.Done
	case cause != nil:
		return journal.Stopped
	case errors.Is(err, relay.ErrIdle):
		return journal.Idle
	}
	return journal.Broken
}
