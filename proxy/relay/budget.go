package relay

import (
	"errors"
	"sync/atomic"
	"time"
)

const (
	// HeldBytes is how much may be held of all connections and datagrams together
	// whose first message is not whole, and so not judged.
	HeldBytes = 64 << 20
	// freeBytes are held of each besides: most first messages are shorter, so that who
	// uses up the budget does not keep others from being heard.
	freeBytes = 4 << 10
	// HeldTime is how long a first message may take from its first byte to its last.
	// Clients send it in one go.
	HeldTime = 10 * time.Second
)

var (
	errBudget = errors.New("too much is held already of messages that are not whole")
	errSlow   = errors.New("its first message was not whole in time")
)

// Budget bounds what is held of connections that have not been judged, and how long.
// Make it with NewBudget; nil has no bounds. It may be used by any goroutine.
type Budget struct {
	left atomic.Int64 // bytes
	time time.Duration
}

// NewBudget makes a Budget of bytes in all, and of time for each.
func NewBudget(bytes int64, time time.Duration) *Budget {
	b := &Budget{time: time}
	b.left.Store(bytes)
	return b
}

// held is what one connection, or flow of datagrams, has taken of a budget.
type held struct {
	of    *Budget
	taken int64
}

// hold has n bytes held in all; an error if there is no room for them.
func (h *held) hold(n int) error {
	if h.of == nil {
		return nil
	}
	more := max(0, int64(n)-freeBytes) - h.taken
	if more == 0 {
		return nil
	}
	if h.of.left.Add(-more) < 0 && more > 0 {
		h.of.left.Add(more)
		return errBudget
	}
	h.taken += more
	return nil
}
