package tcp

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"
)

// A client that hangs up while two destinations are dialled waits for neither.
func TestRaceCancelled(t *testing.T) {
	for range 100 {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() {
			_, err := Race(ctx, []int{1, 2}, func(ctx context.Context, _ int) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})
			ended <- err
		}()
		cancel()
		select {
		case err := <-ended:
			if err != context.Canceled {
				t.Fatal(err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("it waits for ever")
		}
	}
}

// closer counts how often it is closed.
type closer struct{ closed chan int }

func (c closer) Close() error { c.closed <- 1; return nil }

// The first connection wins; one that comes later is closed. If all fail, the error is
// that of the first that failed.
func TestRace(t *testing.T) {
	late := make(chan struct{})
	loser, winner := closer{make(chan int, 1)}, closer{make(chan int, 1)}
	got, err := Race(t.Context(), []int{1, 2}, func(ctx context.Context, n int) (closer, error) {
		if n == 1 {
			<-late
			return loser, nil
		}
		return winner, nil
	})
	if err != nil || got != winner {
		t.Errorf("%v, %v", got, err)
	}
	close(late)
	select {
	case <-loser.closed:
	case <-time.After(5 * time.Second):
		t.Error("the loser is not closed")
	}
	if len(winner.closed) > 0 {
		t.Error("the winner is closed")
	}
	one, two := errors.New("one"), errors.New("two")
	_, err = Race(t.Context(), []error{one, two}, func(_ context.Context, err error) (closer, error) { return closer{}, err })
	if err != one {
		t.Error(err)
	}
}
