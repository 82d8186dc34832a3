package proxy

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/proxy/relay"
)

// handshakeTime is how long the app has for the last segment of the handshake
// after its SYN was let in. It answers at once or has left.
const handshakeTime = 10 * time.Second

// syn is a SYN that waits in the queue while its destination is dialled: the app's
// connect(2) succeeds only when appfw's has.
type syn struct {
	held
	conn chan relay.Stream // takes the connection

	spare int // a descriptor that is kept for the acceptance; 0: none, or given away. Guarded by in.mu

	mu    sync.Mutex
	seen  time.Time // the last of it
	again int       // how often it was sent again
	letIn time.Time // zero before
}

func newSYN(h held) *syn {
	return &syn{held: h, conn: make(chan relay.Stream, 1), seen: h.in.Proxy.Now()}
}

func (s *syn) pair() pair { return pair{s.p.Src, s.p.Dst} }

// Join implements [Joiner]: the app's kernel has sent it again.
func (s *syn) Join(later Attempt) {
	s.mu.Lock()
	s.again++
	s.seen = s.in.Proxy.Now()
	s.mu.Unlock()
	drop(later)
}

// Left tells whether the app has left: its kernel has not sent the SYN again when it was
// time for that (after 1 s, and then twice as long each time, or less: tcp(7)),
// or not answered when it was let in.
func (s *syn) Left() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.in.Proxy.Now()
	if !s.letIn.IsZero() {
		return now.Sub(s.letIn) > time.Second
	}
	return now.Sub(s.seen) > 2*time.Second<<min(s.again, 6)
}

// Accept implements [Attempt]: it lets the SYN in, and waits for the connection.
func (s *syn) Accept(ctx context.Context) (Endpoint, error) {
	if err := s.in.expect(s); err != nil {
		return Endpoint{}, err
	}
	return s.letInto(ctx)
}

// letInto is Accept for a SYN that is expected.
func (s *syn) letInto(ctx context.Context) (Endpoint, error) {
	late := time.NewTimer(handshakeTime)
	defer late.Stop()
	err := s.settle(true)
	if err == nil {
		select {
		case conn := <-s.conn:
			return Endpoint{Stream: conn}, nil
		case <-late.C:
			err = errLeft
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	if s.in.take(s.pair()) == nil { // it is there
		relay.Reset(<-s.conn)
	}
	return Endpoint{}, err
}

// waits tells whether the connection is about to be accepted.
func (s *syn) waits() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.letIn.IsZero() || s.in.Proxy.Now().Sub(s.letIn) < acceptTime
}

// own takes in a connection to the resolver or the explicit proxy, which are appfw's
// own, and no flows.
func (in *GateIntake) own(ctx context.Context, p netns.Packet) {
	s := newSYN(held{in: in, p: p})
	in.mu.Lock()
	many := len(in.let) >= maxOpening
	in.mu.Unlock()
	err := errLeft
	if !many {
		err = in.expect(s)
	}
	switch {
	case netns.Shortage(err):
		in.Proxy.Start(ctx, &held{in: in, p: p, refused: short.Verdict.Reason()})
	case err != nil: // it is sent again
		s.Drop()
	default:
		in.work.Go(func() { in.serveOwn(ctx, s) })
	}
}

// serveOwn serves a connection to the resolver or the explicit proxy, from its SYN on.
func (in *GateIntake) serveOwn(ctx context.Context, s *syn) {
	e, err := s.letInto(ctx)
	switch {
	case err != nil:
	case s.p.Dst.Port() == port53:
		in.resolver.Hand(e.Stream)
	default:
		in.Explicit.Serve(ctx, e.Stream, in.subject(s.p.Proto, s.p.Src, s.p.Dst), in.Gate.Sockets.ListenUDP)
	}
}

// expect makes ready for the acceptance of a connection. It keeps a descriptor for
// that: without one, the app would be connected, and hear nothing. Of two with the
// same addresses the second has to wait: its app has left the first, or has sent that
// again.
func (in *GateIntake) expect(s *syn) (err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.let[s.pair()] != nil:
		return errLeft
	case in.owed > 0:
		return unix.EMFILE
	}
	if s.spare, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return err
	}
	in.let[s.pair()] = s
	s.mu.Lock()
	s.letIn = in.Proxy.Now()
	s.mu.Unlock()
	return nil
}

// take takes a SYN that was let in out of those; nil if there is none.
func (in *GateIntake) take(k pair) *syn {
	in.mu.Lock()
	defer in.mu.Unlock()
	s := in.let[k]
	if s == nil {
		return nil
	}
	delete(in.let, k)
	if s.spare > 0 {
		unix.Close(s.spare)
	} else {
		in.owed--
	}
	return s
}

// makeRoom gives away a descriptor that was kept, for one acceptance; false if there
// is none, or the last that was given away has been taken by something else.
func (in *GateIntake) makeRoom() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.owed > 0 {
		return false
	}
	for _, s := range in.let {
		if s.spare > 0 {
			unix.Close(s.spare)
			s.spare = 0
			in.owed++
			return true
		}
	}
	return false
}

// accept takes in the connections whose SYN was let in.
func (in *GateIntake) accept(ctx context.Context, l Listener) {
	for {
		conn, src, dst, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case netns.Shortage(err) && in.makeRoom():
		case err != nil: // no descriptor is free: the connection waits in the backlog
			select {
			case <-time.After(relay.AcceptPause):
			case <-ctx.Done():
				return
			}
		default:
			if s := in.take(pair{src, dst}); s != nil {
				s.conn <- conn
			} else { // nothing was decided on it: it must not be
				relay.Reset(conn)
			}
		}
	}
}
