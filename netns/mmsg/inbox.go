package mmsg

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Inbox receives the datagrams of one socket, as many as are there. It is for one
// goroutine at a time, but for [Inbox.Busy].
type Inbox struct {
	*Batch     // nil while it is empty: who waits holds none
	N      int // datagrams in it

	pool *sync.Pool // of its batches
	conn *net.UDPConn
	raw  syscall.RawConn
	try  func(fd uintptr) bool
	send func(fd uintptr)
	busy atomic.Bool
	err  error
}

// Sizes of the largest datagram that an Inbox receives whole: of any, and of those of
// a protocol that needs no larger ones, as those of DNS questions.
const (
	AnySize   = 1 << 16
	SmallSize = 1 << 12
)

// Batches for 32 datagrams.
var (
	batches      = sync.Pool{New: func() any { return NewBatch(32, AnySize) }}
	smallBatches = sync.Pool{New: func() any { return NewBatch(32, SmallSize) }}
)

// NewInbox makes the Inbox of a socket, for datagrams of AnySize or SmallSize, with an
// option: [Gather] or [ReceiveTo].
func NewInbox(conn *net.UDPConn, size int, set func(fd int) error) (*Inbox, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	in := &Inbox{conn: conn, raw: raw, pool: &batches}
	if size <= SmallSize {
		in.pool = &smallBatches
	}
	in.try = func(fd uintptr) bool {
		in.Batch = in.pool.Get().(*Batch)
		in.busy.Store(true)
		if in.N, in.err = in.Batch.receive(int(fd)); in.err == unix.EAGAIN {
			in.Release()
			return false
		}
		return true
	}
	in.send = func(fd uintptr) { in.Batch.send(int(fd)) }
	cerr := raw.Control(func(fd uintptr) { err = set(int(fd)) })
	return in, errors.Join(cerr, err)
}

// Conn is the socket.
func (in *Inbox) Conn() *net.UDPConn { return in.conn }

// Receive waits until there are datagrams, or until the socket's deadline. They stay
// until [Inbox.Release].
func (in *Inbox) Receive() error {
	err := in.raw.Read(in.try)
	if err == nil {
		err = in.err
	}
	if err != nil {
		in.Release()
	}
	return err
}

// Send sends the replies ([Batch.Reply]). One that cannot be sent is left out:
// datagrams may be lost.
func (in *Inbox) Send() error { return in.raw.Control(in.send) }

// Release forgets the datagrams.
func (in *Inbox) Release() {
	if in.Batch != nil {
		in.pool.Put(in.Batch)
		in.Batch = nil
		in.busy.Store(false)
	}
}

// Busy tells whether datagrams wait in the socket, or were received and not released.
func (in *Inbox) Busy() bool {
	waiting := 0
	_ = in.raw.Control(func(fd uintptr) { waiting, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return waiting > 0 || in.busy.Load()
}
