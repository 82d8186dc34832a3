package relay

import (
	"errors"
	"io"
	"math"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// forward passes on what src sends until it ends, and then ends dst. Talk is
// copied; once a buffer was full, the rest of that bulk is spliced.
func forward(dst, src Stream, count *atomic.Int64) error {
	for {
		b, err := ReadReady(src, SmallBuffer)
		eof := err == io.EOF
		if err == nil {
			full := len(b.Data) == SmallBuffer
			var n int
			n, err = dst.Write(b.Data)
			b.Release()
			count.Add(int64(n))
			if err == nil && full {
				_, eof, err = splice(dst, src, count, math.MaxInt64)
			}
		}
		if eof {
			return pass(src, dst)
		}
		if err != nil {
			return err
		}
	}
}

// pass passes on the end of what src sends, or why it ended before.
func pass(src, dst Stream) error {
	if s, ok := src.(interface{ Cause() error }); ok {
		if err := s.Cause(); err != nil {
			return err
		}
	}
	return endOf(dst)
}

// endOf says to dst that no more will come.
func endOf(dst Stream) error {
	if err := dst.CloseWrite(); err != nil && !errors.Is(err, unix.ENOTCONN) {
		return err
	}
	return nil
}
