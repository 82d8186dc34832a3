package relay

import (
	"slices"
	"sync"
)

// Pushed is the part of an attempt, and of its Sink, whose datagrams somebody hands
// over: those of a published port and of SOCKS come by one socket for many flows. The
// zero value is ready.
type Pushed struct {
	mu      sync.Mutex
	waiting [][]byte // while the flow is not open
	waits   int      // their bytes
	to      *Datagrams
	over    bool
}

// maxWaits bounds the bytes of datagrams that wait.
const maxWaits = 64 << 10

// Push has the next Flush send a datagram of the app's. data must stay as it is until
// then.
func (x *Pushed) Push(data []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.to != nil:
		_ = x.to.Add(data) // with an error, the flow has ended
	case !x.over && len(x.waiting) < maxWaiting && x.waits+len(data) <= maxWaits:
		x.waiting = append(x.waiting, slices.Clone(data))
		x.waits += len(data)
	}
}

// Flush sends what was pushed.
func (x *Pushed) Flush() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.to != nil {
		_ = x.to.Flush() // with an error, the flow has ended
	}
}

// Open implements [Sink].
func (x *Pushed) Open(d *Datagrams) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.to = d
	for _, data := range x.waiting {
		if d.Add(data) != nil {
			return
		}
	}
	_ = d.Flush()
	x.waiting = nil
}

// Forget forgets what waits: there will be no flow.
func (x *Pushed) Forget() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.waiting, x.over = nil, true
}
