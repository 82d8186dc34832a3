package proxy

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// attempt is a fake [Attempt].
type attempt struct {
	t     testing.TB
	facts Facts
	// accept is what Accept does; nil: it is an error of the test.
	accept    func(context.Context) (Endpoint, error)
	accepting chan struct{} // closed when it is called
	refused   chan error    // of Refuse
	dropped   chan struct{} // for each Drop

	mu       sync.Mutex
	accepts  int
	refusals int
	drops    int
}

func newAttempt(t testing.TB, f Facts, accept func(context.Context) (Endpoint, error)) *attempt {
	a := &attempt{t: t, facts: f, accept: accept, accepting: make(chan struct{}), refused: make(chan error, 10), dropped: make(chan struct{}, 10)}
	t.Cleanup(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.accepts > 1 || a.refusals > 1 || a.accepts+a.refusals+a.drops == 0 || a.drops > 0 && a.accepts+a.refusals > 0 {
			t.Errorf("it was accepted %d times, refused %d times, dropped %d times", a.accepts, a.refusals, a.drops)
		}
	})
	return a
}

func (a *attempt) Facts() Facts { return a.facts }

func (a *attempt) Accept(ctx context.Context) (Endpoint, error) {
	a.mu.Lock()
	a.accepts++
	if a.refusals > 0 {
		a.t.Error("it is accepted after it was refused")
	}
	a.mu.Unlock()
	close(a.accepting)
	if a.accept == nil {
		a.t.Error("it is accepted")
		return Endpoint{}, errors.ErrUnsupported
	}
	return a.accept(ctx)
}

func (a *attempt) Refuse(err error) {
	a.mu.Lock()
	a.refusals++
	a.mu.Unlock()
	a.refused <- err
}

func (a *attempt) Drop() {
	a.mu.Lock()
	a.drops++
	a.mu.Unlock()
	a.dropped <- struct{}{}
}
