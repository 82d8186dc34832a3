package relay

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"
)

// source is what the app sends, held until it was judged.
type source struct {
	app    Stream
	out    Stream
	buf    []byte // read and not taken yet
	passed int    // of buf: it has been passed on already
	eof    bool   // no more will come
	err    error  // of a connection
	denied bool   // a name that it shows was
	count  *atomic.Int64

	held    held
	whole   time.Time // until when the message that is held is to be whole; zero: none is
	patient bool      // what is held waits for the server, and not for more
}

// len is how much there is.
func (s *source) len() int { return len(s.buf) }

// fill reads more. At the end there is no more, and no error.
func (s *source) fill() error {
	if s.eof {
		return nil
	}
	if err := s.hurry(); err != nil {
		s.err = err
		return err
	}
	b, err := ReadReady(s.app, SmallBuffer)
	switch {
	case err == io.EOF:
		s.eof = true
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded) && !s.whole.IsZero() && !s.patient:
		return errSlow
	case err != nil:
		s.err = err
		return err
	}
	s.buf = append(s.buf, b.Data...)
	b.Release()
	return s.held.hold(2 * cap(s.buf)) // with what a message is put together in
}

// hurry sets how long the next read may wait: where a message is held that is not whole,
// until it is to be.
func (s *source) hurry() error {
	holds := s.held.of != nil && len(s.buf) > s.passed && !s.patient
	switch {
	case holds && s.whole.IsZero():
		s.whole = time.Now().Add(s.held.of.time)
		return s.app.SetReadDeadline(s.whole)
	case !holds && !s.whole.IsZero():
		s.whole = time.Time{}
		return s.app.SetReadDeadline(time.Time{})
	}
	return nil
}

// need reads until there are n bytes, or the end.
func (s *source) need(n int) error {
	for len(s.buf) < n && !s.eof {
		if err := s.fill(); err != nil {
			return err
		}
	}
	return nil
}

// write passes on what of the first n bytes has not been.
func (s *source) write(n int) error {
	if n <= s.passed {
		return nil
	}
	m, err := s.out.Write(s.buf[s.passed:n])
	s.passed += m
	s.count.Add(int64(m))
	if err != nil {
		s.err = err
	}
	return err
}

// pass passes the first n bytes on and drops them.
func (s *source) pass(n int) error {
	if err := s.write(n); err != nil {
		return err
	}
	s.passed -= n
	s.buf = s.buf[:copy(s.buf, s.buf[n:])]
	if len(s.buf) == 0 {
		s.buf = nil // a connection that says nothing holds no memory
		_ = s.held.hold(0)
	}
	return nil
}

// end gives up what is held, and has later reads wait as they like.
func (s *source) end() error {
	s.buf, s.passed = nil, 0
	_ = s.held.hold(0)
	return s.hurry()
}

// passNext passes on the next n bytes as they come; fewer at the end.
func (s *source) passNext(n int64) error {
	for n > 0 {
		if len(s.buf) == 0 {
			if s.eof {
				return nil
			}
			if n >= bulk {
				moved, eof, err := splice(s.out, s.app, s.count, n)
				n -= moved
				s.eof = eof
				if err != nil {
					s.err = err
					return err
				}
				if n == 0 || eof {
					return nil
				}
			}
			if err := s.fill(); err != nil {
				return err
			}
		}
		m := int(min(n, int64(len(s.buf))))
		if err := s.pass(m); err != nil {
			return err
		}
		n -= int64(m)
	}
	return nil
}

// bulk is from how many bytes on that are known to come they are spliced.
const bulk = 256 << 10
