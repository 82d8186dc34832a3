package relay

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// faulty is a listener with errors between its connections.
type faulty struct {
	net.Listener
	results []any
}

func (l *faulty) Accept() (net.Conn, error) {
	r := l.results[0]
	l.results = l.results[1:]
	if err, ok := r.(error); ok {
		return nil, err
	}
	return r.(net.Conn), nil
}

// A listener that fails for a while is listened to further.
func TestEachConn(t *testing.T) {
	a, b := net.Pipe()
	var mu sync.Mutex
	served, short := 0, 0
	EachConn(t.Context(), &faulty{results: []any{unix.EMFILE, unix.EMFILE, a, errors.New("it fails"), b, net.ErrClosed}}, func(net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		served++
	}, func() { short++ })
	if served != 2 || short != 1 {
		t.Errorf("%d were served, %d times it was said that there is no room", served, short)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	EachConn(ctx, &faulty{results: []any{unix.EMFILE, unix.EMFILE, unix.EMFILE, net.ErrClosed}}, func(net.Conn) {}, func() {})
}
