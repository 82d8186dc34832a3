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

	conn *net.UDPConn
	raw  syscall.RawConn
	try  func(fd uintptr) bool
	send func(fd uintptr)
	busy atomic.Bool
	err  error
}

// batches are for 32 datagrams of any size.
var batches = sync.Pool{New: func() any { return NewBatch(32, 1<<16) }}

// NewInbox makes the Inbox of a socket with an option: [Gather] or [ReceiveTo].
func NewInbox(conn *net.UDPConn, set func(fd int) error) (*Inbox, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	in := &Inbox{conn: conn, raw: raw}
	in.try = func(fd uintptr) bool {
		in.Batch = batches.Get().(*Batch)
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
		batches.Put(in.Batch)
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
