package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"appfw/policy"
)

// relay connects the app's connection with the destination's.
type relay struct {
	app, out *net.TCPConn

	// judge decides on a name that the connection shows, garbled is told when
	// it starts like a protocol that shows one and cannot be understood. Both
	// nil: the connection is not looked at.
	judge   func(policy.Name) bool
	garbled func(error)

	sent chan struct{} // closed when all that the app sent was passed on
}

// run relays until both directions have ended, or ctx. An end of data is passed
// on as such, an error as a reset. It returns the payload bytes that the app
// sent, and that it received, and closes both connections.
func (r *relay) run(ctx context.Context) (sent, received int64) {
	stop := context.AfterFunc(ctx, r.cut)
	defer stop()
	var up, down atomic.Int64
	var downward sync.WaitGroup
	// The destination may speak first (SSH, SMTP, MySQL): it is not held up by
	// the look at what the app says.
	downward.Go(func() {
		if forward(r.app, r.out, &down) != nil {
			r.abort()
		}
	})
	if r.upward(&up) != nil {
		r.abort()
	}
	close(r.sent)
	downward.Wait()
	r.app.Close()
	r.out.Close()
	return up.Load(), down.Load()
}

// cut ends the relay from outside. What the app sent in whole is still
// delivered, as after the exit of any program; all else is reset.
func (r *relay) cut() {
	select {
	case <-r.sent:
		reset(r.app)
		r.out.Close()
	default:
		r.abort()
	}
}

// appEnded tells whether the app has ended its direction.
func (r *relay) appEnded() bool {
	raw, err := r.app.SyscallConn()
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

// abort resets both connections.
func (r *relay) abort() {
	reset(r.app)
	reset(r.out)
}

var errDenied = errors.New("denied")

// upward relays from the app. Nothing is passed on before it was judged.
func (r *relay) upward(count *atomic.Int64) error {
	if r.judge != nil {
		if err := r.identify(count); err != nil {
			return err
		}
	}
	return forward(r.out, r.app, count)
}

// identify reads until the connection has shown its name, or that it shows
// none, and passes on what was read.
func (r *relay) identify(count *atomic.Int64) error {
	var seen []byte
	passed := 0 // of seen
	pass := func() error {
		n, err := r.out.Write(seen[passed:])
		passed += n
		count.Add(int64(n))
		return err
	}
	for {
		b, err := readReady(r.app, smallBuffer)
		if err != nil && err != io.EOF {
			return err
		}
		seen = append(seen, b.data...)
		b.release()
		shown, state, bad := Identify(seen, err == io.EOF)
		switch {
		case bad != nil:
			r.garbled(bad)
			return errDenied
		case state == NeedMore && Holds(seen):
			continue
		case state == Named && !r.judge(shown):
			return errDenied
		}
		if err := pass(); err != nil {
			return err
		}
		if state != NeedMore {
			return nil // at the end of data, forward meets it again
		}
	}
}

// forward passes on what src sends until it ends, and then ends dst. Talk is
// copied; once a buffer was full, the rest of that bulk is spliced.
func forward(dst, src *net.TCPConn, count *atomic.Int64) error {
	for {
		b, err := readReady(src, smallBuffer)
		eof := err == io.EOF
		if err == nil {
			bulk := len(b.data) == smallBuffer
			var n int
			n, err = dst.Write(b.data)
			b.release()
			count.Add(int64(n))
			if err == nil && bulk {
				eof, err = splice(dst, src, count)
			}
		}
		if eof {
			if err := dst.CloseWrite(); err != nil && !errors.Is(err, unix.ENOTCONN) {
				return err
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}
