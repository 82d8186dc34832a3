package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Refusal tries whether a connection is held, judged and refused: it connects from
// the app's namespace to an address that nobody has (RFC 5737), refuses that at the
// gate, and expects to be told at once. Nobody else may run the gate meanwhile.
func Refusal(ctx context.Context, app *Namespace, gate *Gate) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	judged := false
	done := make(chan error, 1)
	go func() {
		done <- gate.Run(ctx, func(p Packet, _ error) {
			judged = true
			_ = gate.Drop(p)
			_ = gate.Send(p, p.Reset())
		})
	}()
	err := app.Do(func() error {
		d := net.Dialer{}
		c, err := d.DialContext(ctx, "tcp4", "192.0.2.1:9")
		if err == nil {
			c.Close()
		}
		return err
	})
	cancel()
	if rerr := <-done; rerr != nil {
		return rerr
	}
	if !judged {
		return errors.New("its first packet did not reach the gate")
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("it was not refused: %v", err)
	}
	return nil
}

// MayPing is an error unless this process may send ICMP echo requests (icmp(7):
// ping_group_range).
func MayPing() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return fmt.Errorf("socket for ICMP echo: %w", err)
	}
	return unix.Close(fd)
}
