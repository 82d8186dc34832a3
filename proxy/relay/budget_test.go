package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"appfw/policy"
	"appfw/proxy/conntest"
)

// within starts a relay that judges names, with a budget.
func budgetOf(t *testing.T, b *Budget) *running {
	t.Helper()
	x := &running{Relay: &Relay{Sent: new(atomic.Int64), Received: new(atomic.Int64), Held: b}, ended: make(chan error, 1)}
	x.client, x.App = pair(t)
	x.Out, x.server = pair(t)
	x.Judge = func(policy.Name) error { return nil }
	ctx, cancel := context.WithCancelCause(t.Context())
	x.cancel = cancel
	go func() { x.ended <- x.Run(ctx) }()
	return x
}

// hello is the start of a ClientHello, of n bytes.
func hello(n int) string {
	record := "\x16\x03\x01\x40\x00"
	text := record + "\x01\x01\x00\x00" + strings.Repeat("x", 1<<14-4)
	for len(text) < n {
		text += record + strings.Repeat("x", 1<<14)
	}
	return text[:n]
}

// A message that is not whole in time is refused.
func TestSlowMessage(t *testing.T) {
	for name, first := range map[string]string{
		"TLS":  "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"HTTP": "GET / HTTP/1.1\r\nHost: ex",
	} {
		t.Run(name, func(t *testing.T) {
			x := budgetOf(t, NewBudget(HeldBytes, 20*time.Millisecond))
			send(t, x.client, first)
			var unreadable *Unreadable
			if err := <-x.ended; !errors.As(err, &unreadable) || !errors.Is(err, errSlow) {
				t.Errorf("ended by %v", err)
			}
			if n := x.Sent.Load(); n != 0 {
				t.Errorf("%d bytes passed", n)
			}
		})
	}
}

// A connection that is quiet between its messages, or of a protocol that shows nothing, has
// all the time there is.
func TestQuietConnection(t *testing.T) {
	const request = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"
	for _, talk := range [][]string{
		{request, request},
		{"GET / HT", "TP/1.1\r\nHost: example.com\r\n\r\n", request}, // in time
		{"SSH-2.0-x\r\n", "more"},
	} {
		x := budgetOf(t, NewBudget(HeldBytes, 200*time.Millisecond))
		for i, part := range talk {
			if i == len(talk)-1 { // as many budgets' time as it takes
				deadline := time.Now().Add(220 * time.Millisecond)
				_ = x.server.SetReadDeadline(deadline)
				for {
					if _, err := x.server.Read(make([]byte, 100)); err != nil {
						break // the time is over, and nothing has ended
					}
				}
				_ = x.server.SetReadDeadline(time.Time{})
			}
			send(t, x.client, part)
		}
		receive(t, x.server, talk[len(talk)-1])
		x.cancel(nil)
		<-x.ended
	}
}

// What connections hold has one bound for all; short messages are heard beside it.
func TestBudget(t *testing.T) {
	b := NewBudget(100<<10, time.Minute)
	others := held{of: b}
	if err := others.hold(90 << 10); err != nil {
		t.Fatal(err)
	}
	long := budgetOf(t, b)
	send(t, long.client, hello(40<<10))
	if err := <-long.ended; !errors.Is(err, errBudget) {
		t.Errorf("ended by %v", err)
	}
	short := budgetOf(t, b)
	whole := string(conntest.ClientHello(t, &tls.Config{ServerName: "example.com"}))
	send(t, short.client, whole)
	receive(t, short.server, whole)
	short.cancel(nil)
	<-short.ended
	_ = others.hold(0)
	if left := b.left.Load(); left != 100<<10 {
		t.Errorf("%d bytes are left of it at the end", left)
	}
}
