package conntest

import (
	"slices"
	"sync"
	"testing"

	"appfw/proxy/journal"
)

// Events keeps what is said of flows. The zero value is empty.
type Events struct {
	mu  sync.Mutex
	all []journal.Event
}

// Log is the Log of a proxy.Config.
func (x *Events) Log(e journal.Event) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.all = append(x.all, e)
}

// All is what was said so far, in order.
func (x *Events) All() []journal.Event {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.all)
}

// Forget forgets what was said so far.
func (x *Events) Forget() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.all = nil
}

// Count is how many events are such.
func (x *Events) Count(is func(journal.Event) bool) (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.all {
		if is(e) {
			n++
		}
	}
	return n
}

// Ends are the events with which flows ended.
func (x *Events) Ends() []journal.Event {
	return slices.DeleteFunc(x.All(), func(e journal.Event) bool { return !e.Closed })
}

// Denials is how many of the events are no flow's that is allowed.
func (x *Events) Denials() int {
	return x.Count(func(e journal.Event) bool { return !e.Verdict.Allowed() })
}

// AllEnded fails the test unless each flow that was allowed ended, once, and was not
// spoken of after that, and no flow ended that was denied at once.
func (x *Events) AllEnded(t testing.TB) {
	t.Helper()
	open := make(map[uint64]bool) // by flow; false: it is denied, or has ended
	for _, e := range x.All() {
		goesOn, known := open[e.Flow]
		switch {
		case e.Flow == 0: // of none
		case !known && e.Closed, known && !goesOn:
			t.Errorf("after its end, or before it began: %+v", e)
		case !known:
			open[e.Flow] = e.Verdict.Allowed()
		case e.Closed:
			open[e.Flow] = false
		}
	}
	for flow, goesOn := range open {
		if goesOn {
			t.Errorf("flow %d has not ended", flow)
		}
	}
}
