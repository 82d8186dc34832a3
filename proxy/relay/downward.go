package relay

import (
	"io"
	"math"
)

// follower watches what the destination sends.
type follower interface {
	Feed(b []byte) // what it sent next
	Opaque() int64 // how much may follow unseen
	Skip(n int64)  // n bytes did
	Ended()        // no more will come
}

// follow has f watch what the destination sends, from its first byte on; false
// if it has sent something already.
func (r *Relay) follow(f follower) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.answered {
		r.follower = f
	}
	return !r.answered
}

// downward relays to the app. The destination may speak first (SSH, SMTP,
// MySQL): it is not held up by the look at what the app says.
func (r *Relay) downward() error {
	if r.Judge == nil {
		return forward(r.App, r.Out, r.Received)
	}
	defer r.unfollow()
	for {
		b, err := ReadReady(r.Out, SmallBuffer)
		if err == io.EOF {
			return pass(r.Out, r.App)
		}
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.answered = true
		f := r.follower
		r.mu.Unlock()
		if f != nil {
			f.Feed(b.Data)
		}
		full := len(b.Data) == SmallBuffer
		n, err := r.App.Write(b.Data)
		b.Release()
		r.Received.Add(int64(n))
		if err != nil {
			return err
		}
		if !full {
			continue
		}
		limit := int64(math.MaxInt64)
		if f != nil {
			limit = f.Opaque()
		}
		if limit >= bulk {
			moved, eof, err := splice(r.App, r.Out, r.Received, limit)
			if f != nil {
				f.Skip(moved)
			}
			if err != nil {
				return err
			}
			if eof {
				return pass(r.Out, r.App)
			}
		}
	}
}

// unfollow says that the destination sends no more.
func (r *Relay) unfollow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answered = true
	if r.follower != nil {
		r.follower.Ended()
	}
}
