package proxy

import (
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"appfw/policy"
)

// relay connects the app's connection with the destination's.
type relay struct {
	app   stream
	early []byte // that the app sent, read already
	out   stream
	decision

	// judge decides on a name that the connection shows, garbled is told when
	// it starts like a protocol that shows one and cannot be understood. Both
	// nil: the connection is not looked at.
	judge   func(policy.Name) bool
	garbled func(error)

	sent chan struct{} // closed when all that the app sent was passed on

	mu       sync.Mutex
	follower follower // nil: nothing is to be seen of what the destination sends
	answered bool     // the destination has sent something, or its end
}

func newRelay(app, out stream, d decision) *relay {
	return &relay{app: app, out: out, decision: d, sent: make(chan struct{})}
}

// run relays until both directions have ended, or ctx. An end of data is passed
// on as such, an error as a reset. It returns the payload bytes that the app
// sent, and that it received, and closes both connections.
func (r *relay) run(ctx context.Context) (sent, received int64) {
	stop := context.AfterFunc(ctx, r.cut)
	defer stop()
	var up, down atomic.Int64
	var downward sync.WaitGroup
	downward.Go(func() {
		if r.downward(&down) != nil {
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
	s := &source{app: r.app, out: r.out, buf: r.early, count: count}
	if r.judge == nil {
		if err := s.pass(s.len()); err != nil {
			return err
		}
		return forward(r.out, r.app, count)
	}
	err := r.identify(s)
	if err == nil {
		err = s.pass(s.len())
	}
	switch {
	case err == nil && s.eof:
		return endOf(r.out)
	case err == nil:
		return forward(r.out, r.app, count)
	}
	if s.err == nil && err != errDenied {
		r.garbled(err)
	}
	return err
}

// identify relays while the connection may show names, and judges them.
func (r *relay) identify(s *source) error {
	for {
		var hello helloReader
		name, state, err := identify(&hello, s.buf, s.eof)
		for ; err == nil && state == NeedMore && !(s.eof && s.len() == 0); name, state, err = identify(&hello, s.buf, s.eof) {
			if !Holds(s.buf) {
				if err := s.show(); err != nil {
					return err
				}
			}
			if err := s.fill(); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		tls := s.len() > 0 && s.buf[0] == recordHandshake && hello.end > 0
		if state == Named && tls && !r.judge(name) {
			return errDenied
		}
		switch {
		case tls:
			answer := new(serverAnswer) // stays empty, if it has begun already
			r.follow(answer)
			return r.relayTLS(s, hello.end, answer)
		case s.len() == 0 || !isRequest(s.buf):
			return nil
		}
		answers := new(httpAnswers)
		if !r.follow(answers) {
			answers.lost = true
		}
		last, err := r.relayHTTP(s, answers)
		if last == nil || err != nil {
			return err
		}
		if last.method != "CONNECT" {
			if shows, err := showsNames(s); !shows || err != nil {
				return err
			}
		}
	}
}

// showsNames tells whether a connection that was upgraded (RFC 9110, 7.8) has
// become one of TLS (RFC 2817) or HTTP/2 (RFC 9113, 3.4). Of other protocols
// nothing is known but that they are not HTTP/1.
func showsNames(s *source) (bool, error) {
	const preface = "PRI "
	for {
		if err := s.need(1); err != nil || s.len() == 0 {
			return false, err
		}
		n := min(s.len(), len(preface))
		switch {
		case s.buf[0] == recordHandshake:
			return true, nil
		case string(s.buf[:n]) != preface[:n]:
			return false, nil
		case n == len(preface) || s.eof:
			return true, nil
		}
		if err := s.fill(); err != nil {
			return false, err
		}
	}
}

// follower watches what the destination sends.
type follower interface {
	feed(b []byte) // what it sent next
	opaque() int64 // how much may follow unseen
	skip(n int64)  // n bytes did
	end()          // no more will come
}

// follow has f watch what the destination sends, from its first byte on; false
// if it has sent something already.
func (r *relay) follow(f follower) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.answered {
		r.follower = f
	}
	return !r.answered
}

// downward relays to the app. The destination may speak first (SSH, SMTP,
// MySQL): it is not held up by the look at what the app says.
func (r *relay) downward(count *atomic.Int64) error {
	if r.judge == nil {
		return forward(r.app, r.out, count)
	}
	defer r.unfollow()
	for {
		b, err := readReady(r.out, smallBuffer)
		if err == io.EOF {
			return endOf(r.app)
		}
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.answered = true
		f := r.follower
		r.mu.Unlock()
		if f != nil {
			f.feed(b.data)
		}
		full := len(b.data) == smallBuffer
		n, err := r.app.Write(b.data)
		b.release()
		count.Add(int64(n))
		if err != nil {
			return err
		}
		if !full {
			continue
		}
		limit := int64(math.MaxInt64)
		if f != nil {
			limit = f.opaque()
		}
		if limit >= bulk {
			moved, eof, err := splice(r.app, r.out, count, limit)
			if f != nil {
				f.skip(moved)
			}
			if err != nil {
				return err
			}
			if eof {
				return endOf(r.app)
			}
		}
	}
}

// unfollow says that the destination sends no more.
func (r *relay) unfollow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answered = true
	if r.follower != nil {
		r.follower.end()
	}
}

// forward passes on what src sends until it ends, and then ends dst. Talk is
// copied; once a buffer was full, the rest of that bulk is spliced.
func forward(dst, src stream, count *atomic.Int64) error {
	for {
		b, err := readReady(src, smallBuffer)
		eof := err == io.EOF
		if err == nil {
			full := len(b.data) == smallBuffer
			var n int
			n, err = dst.Write(b.data)
			b.release()
			count.Add(int64(n))
			if err == nil && full {
				_, eof, err = splice(dst, src, count, math.MaxInt64)
			}
		}
		if eof {
			return endOf(dst)
		}
		if err != nil {
			return err
		}
	}
}

// endOf says to dst that no more will come.
func endOf(dst stream) error {
	if err := dst.CloseWrite(); err != nil && !errors.Is(err, unix.ENOTCONN) {
		return err
	}
	return nil
}
