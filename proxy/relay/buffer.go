package relay

import (
	"io"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sizes of buffers in bytes: one for talk, one for bulk and for datagrams.
const (
	SmallBuffer = 16 << 10
	LargeBuffer = 256 << 10
)

var smallBuffers = sync.Pool{New: func() any { b := make([]byte, SmallBuffer); return &b }}
var largeBuffers = sync.Pool{New: func() any { b := make([]byte, LargeBuffer); return &b }}

// Buffer is data in a buffer of a pool.
type Buffer struct {
	Data  []byte
	whole *[]byte // nil: there is none
}

// Release gives the buffer back. The data is gone then.
func (b Buffer) Release() {
	switch {
	case b.whole == nil:
	case len(*b.whole) == SmallBuffer:
		smallBuffers.Put(b.whole)
	default:
		largeBuffers.Put(b.whole)
	}
}

// BufferPool is the pool of buffers of talk, for package httputil.
type BufferPool struct{}

// Get takes a buffer of SmallBuffer bytes.
func (BufferPool) Get() []byte { return *smallBuffers.Get().(*[]byte) }

// Put gives it back.
func (BufferPool) Put(b []byte) { smallBuffers.Put(&b) }

// ReadReady reads once what is there into a buffer of SmallBuffer or LargeBuffer
// bytes, waiting until there is something. It takes a buffer only then: ten thousand
// idle connections hold none. The end of a stream is io.EOF. After an error, the
// buffer is empty and need not be released.
func ReadReady(c syscall.Conn, size int) (Buffer, error) { return ReadBy(c, size, unix.Read) }

// ReadBy is ReadReady with another call than read(2), which is not to wait.
func ReadBy(c syscall.Conn, size int, read func(fd int, b []byte) (int, error)) (b Buffer, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Buffer{}, err
	}
	pool := &smallBuffers
	if size > SmallBuffer {
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
		b.Release()
		return Buffer{}, err
	}
	b.Data = (*b.whole)[:n]
	return b, nil
}

// Peek waits for the next byte of a connection, and leaves it there.
func Peek(c syscall.Conn) (byte, error) {
	b, err := ReadBy(c, SmallBuffer, func(fd int, b []byte) (int, error) {
		n, _, err := unix.Recvfrom(fd, b[:1], unix.MSG_PEEK)
		return n, err
	})
	if err != nil {
		return 0, err
	}
	defer b.Release()
	return b.Data[0], nil
}
