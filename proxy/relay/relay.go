// Package relay carries the bytes of one TCP connection between an app and its
// destination, both ways, ends of data and resets included. Talk is copied, bulk
// is spliced, and an idle connection holds no buffer. If asked to, it looks at what
// the app says (see package sniff) and has each name judged before a byte of it
// passes. Whom to connect, and what is allowed, is its caller's matter; datagrams
// are, too.
//
//	r := relay.Relay{App: app, Out: out, Sent: &sent, Received: &received}
//	r.Judge = func(shown policy.Name) error {
//		if !allowed(shown) {
//			return errDenied
//		}
//		return nil
//	}
//	err := r.Run(ctx) // until both have ended
package relay

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"appfw/policy"
)

// Relay connects the app's connection with the destination's. It runs once.
type Relay struct {
	App   Stream
	Out   Stream // to the destination
	Early []byte // that was read from App already; nil if nothing

	// Judge is asked for each name that the connection shows, before a byte of
	// what shows it passes; its error ends the relay. Nil: the connection is not
	// looked at.
	Judge func(policy.Name) error
	// Held bounds what is held of connections that are not judged. Nil: nothing does.
	Held *Budget

	// Sent and Received count the payload bytes that have passed, as the app sees
	// it. They are set.
	Sent, Received *atomic.Int64

	mu       sync.Mutex
	err      error         // that ended it first; a verdict is before all others
	allSent  bool          // all that the app sent was passed on, or cannot be
	sent     chan struct{} // closed then; nil while nobody asked
	follower follower      // nil: nothing is to be seen of what the destination sends
	answered bool          // the destination has sent something, or its end
}

// ErrAbort is a cause (see context.Cause) of the end of a context that resets both
// connections of a relay at once.
var ErrAbort = errors.New("the connection was cut")

// Unreadable is the error of a connection that starts like a protocol that shows a
// name and cannot be understood.
type Unreadable struct{ Err error }

func (e *Unreadable) Error() string { return e.Err.Error() }
func (e *Unreadable) Unwrap() error { return e.Err }

// Run relays until both directions have ended, or ctx, and closes both
// connections. An end of data is passed on as such, an error as a reset.
//
// An end of ctx is a Cut; but if its cause is ErrAbort, an Abort. Run returns nil if
// both directions ended in order, an error of Judge as it is, an *Unreadable, or else
// the error of a connection.
func (r *Relay) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		if errors.Is(context.Cause(ctx), ErrAbort) {
			r.Abort()
		} else {
			r.Cut()
		}
	})
	defer stop()
	var downward sync.WaitGroup
	downward.Go(func() {
		if err := r.downward(); err != nil {
			r.fail(err, false)
		}
	})
	if verdict, err := r.upward(); err != nil {
		r.fail(err, verdict)
	}
	r.upwardEnded()
	downward.Wait()
	r.App.Close()
	r.Out.Close()
	return r.err
}

// fail ends the relay for an error.
func (r *Relay) fail(err error, verdict bool) {
	r.mu.Lock()
	if r.err == nil || verdict {
		r.err = err
	}
	r.mu.Unlock()
	r.Abort()
}

// Cut ends the relay from outside. What the app sent in whole is still delivered,
// as after the exit of any program; all else is reset.
func (r *Relay) Cut() {
	r.mu.Lock()
	sent := r.allSent
	r.mu.Unlock()
	if !sent {
		r.Abort()
		return
	}
	Reset(r.App)
	r.Out.Close()
}

// Abort resets both connections.
func (r *Relay) Abort() {
	Reset(r.App)
	Reset(r.Out)
}

// AllSent is closed when all that the app sent was passed on, or cannot be.
func (r *Relay) AllSent() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sent == nil {
		r.sent = make(chan struct{})
		if r.allSent {
			close(r.sent)
		}
	}
	return r.sent
}

func (r *Relay) upwardEnded() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.allSent = true
	if r.sent != nil {
		close(r.sent)
	}
}

// AppEnded tells whether the app has ended its direction: a FIN of it has come (the
// state of tcp(7)'s TCP_INFO), even if not all before it was read.
func (r *Relay) AppEnded() bool {
	raw, err := r.App.SyscallConn()
	if err != nil {
		return false
	}
	ended := false
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		ended = err == nil && info.State == tcpCloseWait
	})
	return ended
}

// tcpCloseWait is TCP_CLOSE_WAIT of net/tcp_states.h: a FIN has come.
const tcpCloseWait = 8
