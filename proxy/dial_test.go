package proxy

import (
	"context"
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
			_, err := race(ctx, []int{1, 2}, func(ctx context.Context, _ int) (net.Conn, error) {
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
