package tcp

import (
	"context"
	"io"
	"time"
)

// raceDelay is how long an address has before the next one is tried beside it
// (RFC 8305, 8).
const raceDelay = 250 * time.Millisecond

// Race dials several destinations, each when the one before has failed or
// taken long, and returns the first connection. If there is none, the error is
// that of the first that failed. At least one destination is given.
func Race[T any, C io.Closer](ctx context.Context, dsts []T, dial func(context.Context, T) (C, error)) (conn C, err error) {
	if len(dsts) == 1 {
		return dial(ctx, dsts[0])
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn C
		err  error
	}
	results := make(chan result)
	over := make(chan struct{}) // not ctx: whoever ends that still waits for the results
	defer close(over)
	next := func() {
		dst := dsts[0]
		dsts = dsts[1:]
		go func() {
			c, err := dial(ctx, dst)
			select {
			case results <- result{c, err}:
			case <-over: // nobody waits any more
				if err == nil {
					c.Close()
				}
			}
		}()
	}
	next()
	delay := time.NewTimer(raceDelay)
	defer delay.Stop()
	for dialling := 1; dialling > 0; {
		select {
		case r := <-results:
			if r.err == nil {
				return r.conn, nil
			}
			if err == nil {
				err = r.err
			}
			dialling--
		case <-delay.C:
		}
		if len(dsts) > 0 {
			next()
			dialling++
			delay.Reset(raceDelay)
		}
	}
	return conn, err
}
