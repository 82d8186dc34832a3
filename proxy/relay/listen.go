package relay

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"appfw/netns"
)

// Handed is a listener that connections are handed to.
type Handed struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

// NewHanded makes a Handed.
func NewHanded() *Handed {
	l := &Handed{conns: make(chan net.Conn), closed: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.closed) })
	return l
}

// Hand is false if nobody takes c any more, and c is closed then.
func (l *Handed) Hand(c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.closed:
		c.Close()
		return false
	}
}

// Accept implements [net.Listener].
func (l *Handed) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (l *Handed) Close() error { l.close(); return nil }

// Addr implements [net.Listener]. It means nothing.
func (l *Handed) Addr() net.Addr { return &net.TCPAddr{} }

// AcceptPause is how long to wait when no descriptor is free: who wants to connect
// waits as long.
const AcceptPause = 10 * time.Millisecond

// shortPause is how long nothing is said anew of descriptors that are too few.
const shortPause = time.Minute

// EachConn serves the connections of a listener until that is closed, and returns
// when all have been served. short is told when none can be taken for want of
// descriptors or memory, once a minute.
func EachConn(ctx context.Context, l net.Listener, serve func(net.Conn), short func()) {
	var work sync.WaitGroup
	defer work.Wait()
	var said time.Time
	for {
		conn, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // no descriptor is free, or the client has left: accept(2)
			if netns.Shortage(err) && time.Since(said) > shortPause {
				said = time.Now()
				short()
			}
			select {
			case <-time.After(AcceptPause):
			case <-ctx.Done():
				return
			}
		default:
			work.Go(func() { serve(conn) })
		}
	}
}
