package proxy

import (
	"io"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sizes of buffers: one for talk, one for bulk and for datagrams.
const (
	smallBuffer = 16 << 10
	largeBuffer = 256 << 10
)

var smallBuffers = sync.Pool{New: func() any { b := make([]byte, smallBuffer); return &b }}
var largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeBuffer); return &b }}

// buffer is data in a buffer of a pool.
type buffer struct {
	data  []byte
	whole *[]byte
}

// release gives the buffer back. The data is gone then.
func (b buffer) release() {
	switch {
	case b.whole == nil:
	case len(*b.whole) == smallBuffer:
		smallBuffers.Put(b.whole)
	default:
		largeBuffers.Put(b.whole)
	}
}

// readReady reads once what is there, waiting until there is something. It
// takes a buffer only then: ten thousand idle connections hold none. After an
// error, the buffer is empty and need not be released.
func readReady(c syscall.Conn, size int) (b buffer, err error) { return readBy(c, size, unix.Read) }

// readBy is readReady with another call than read(2).
func readBy(c syscall.Conn, size int, read func(fd int, b []byte) (int, error)) (b buffer, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return buffer{}, err
	}
	pool := &smallBuffers
	if size > smallBuffer {
		pool = &largeBuffers
	}
	var n int
	var rerr error
	err = raw.Read(func(fd uintptr) bool {
		b.whole = pool.Get().(*[]byte)
		for {
			n, rerr = read(int(fd), *b.whole)
			if rerr != unix.EINTR {
				break
			}
		}
		if rerr == unix.EAGAIN {
			pool.Put(b.whole)
			b.whole = nil // not to be given back again if the wait fails
			return false
		}
		return true
	})
	if err == nil {
		err = rerr
	}
	_, stream := c.(interface{ CloseWrite() error })
	if err == nil && n == 0 && stream {
		err = io.EOF
	}
	if err != nil {
		b.release()
		return buffer{}, err
	}
	b.data = (*b.whole)[:n]
	return b, nil
}
