package relay

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// StallTime is for how long nothing is passed on before that is given up: four times as
// long as a segment takes that was lost once (RFC 6298, 2.4, as Linux has it).
const StallTime = 800 * time.Millisecond

// acknowledged counts the bytes that the destination's host has acknowledged, about: of one
// that reads slowly, the kernel takes more only when much of what waits has left.
func (r *Relay) acknowledged() int64 {
	sent, queued := r.Sent.Load(), 0
	if raw, err := r.Out.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { queued, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }) // tcp(7)
	}
	return sent - int64(queued)
}

// PassOn waits until all that apps sent by the relays was passed on, or nothing more is
// for StallTime; false if ctx ended before. As long as something is, it calls moving
// every now and then.
func PassOn(ctx context.Context, waiting []*Relay, moving func()) bool {
	left, sent, since := len(waiting), int64(-1), time.Now()
	for {
		waiting = slices.DeleteFunc(waiting, func(r *Relay) bool {
			select {
			case <-r.AllSent():
				return true
			default:
				return false
			}
		})
		if len(waiting) == 0 {
			return true
		}
		var now int64
		for _, r := range waiting {
			now += r.acknowledged()
		}
		if now != sent || len(waiting) != left {
			left, sent, since = len(waiting), now, time.Now()
			moving()
		} else if time.Since(since) > StallTime {
			return true
		}
		select {
		case <-waiting[0].AllSent():
		case <-time.After(StallTime / 4):
		case <-ctx.Done():
			return false
		}
	}
}
