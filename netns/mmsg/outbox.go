package mmsg

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Outbox is for datagrams that a connected socket sends. Those of one size that
// follow each other go to the kernel as one, which divides it as late as it can
// (UDP_SEGMENT, udp(7)). It is for one goroutine at a time.
type Outbox struct {
	raw   syscall.RawConn
	write func(fd uintptr) bool
	err   error

	vectors   []unix.Iovec
	datagrams []datagram
	messages  []message
	first     []int // datagram of each message
	controls  []segmentControl
	sent      int  // messages
	refused   bool // the next message was too large, or an earlier one was
	passed    int  // bytes of data that the kernel took, without headers
	plain     bool // this way does not take what is to be divided
}

// datagram is one that is to be sent.
type datagram struct {
	size  int // bytes
	data  int // of them, those that are not the header's
	begin int // of its vectors
}

// segmentControl is a control message UDP_SEGMENT.
type segmentControl struct {
	unix.Cmsghdr
	size uint16
	_    [6]byte
}

const (
	// maxSegments are as many datagrams as any kernel divides one into, and
	// maxSegmented the bytes of it: one IP packet's, less the headers.
	maxSegments  = 64
	maxSegmented = 65000
	// maxKept is of how many datagrams the room is kept for the next ones.
	maxKept = 256
)

// NewOutbox makes an Outbox of a socket.
func NewOutbox(c syscall.Conn) (*Outbox, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	o := &Outbox{raw: raw}
	o.write = o.some
	return o, nil
}

// Add adds a datagram of a header, which may be nil, and data. Both must stay as they
// are until [Outbox.Send] has returned.
func (o *Outbox) Add(header, data []byte) {
	o.datagrams = append(o.datagrams, datagram{len(header) + len(data), len(data), len(o.vectors)})
	for _, part := range [2][]byte{header, data} {
		if len(part) > 0 {
			o.vectors = append(o.vectors, vector(part))
		}
	}
}

// Send sends all that was added, and waits for room in the socket. What is too large
// is lost, as datagrams may be. After another error, the rest is not sent. sent is how
// many bytes of data were, without headers.
func (o *Outbox) Send() (sent int, err error) {
	o.passed = 0
	o.make(0)
	if err = o.raw.Write(o.write); err == nil {
		err = o.err
	}
	clear(o.vectors) // keep nobody's data
	o.vectors, o.datagrams, o.err = o.vectors[:0], o.datagrams[:0], nil
	if cap(o.datagrams) > maxKept {
		o.vectors, o.datagrams, o.messages, o.first, o.controls = nil, nil, nil, nil, nil
	}
	return o.passed, err
}

// make makes messages of the datagrams from the given one on.
func (o *Outbox) make(from int) {
	o.messages, o.first, o.controls, o.sent = o.messages[:0], o.first[:0], o.controls[:0], 0
	for from < len(o.datagrams) {
		size, end := o.datagrams[from].size, from+1
		for sum := size; !o.plain && size > 0 && end < len(o.datagrams) && end-from < maxSegments; end++ {
			next := o.datagrams[end].size
			if sum += next; next > size || next == 0 || sum > maxSegmented {
				break
			}
			if next < size { // only the last may be shorter
				end++
				break
			}
		}
		var m message
		begin, until := o.datagrams[from].begin, len(o.vectors)
		if end < len(o.datagrams) {
			until = o.datagrams[end].begin
		}
		if until > begin {
			m.Iov = &o.vectors[begin]
			m.SetIovlen(until - begin)
		}
		var control segmentControl
		if end-from > 1 {
			control.Level, control.Type, control.size = unix.SOL_UDP, unix.UDP_SEGMENT, uint16(size)
			control.SetLen(unix.CmsgLen(2))
		}
		o.messages, o.first, o.controls = append(o.messages, m), append(o.first, from), append(o.controls, control)
		from = end
	}
	for i := range o.controls { // which have their places now
		if o.controls[i].Len > 0 {
			o.messages[i].Control = (*byte)(unsafe.Pointer(&o.controls[i]))
			o.messages[i].SetControllen(unix.CmsgSpace(2))
		}
	}
}

// end is where the datagrams of a message end.
func (o *Outbox) end(message int) int {
	if message+1 < len(o.first) {
		return o.first[message+1]
	}
	return len(o.datagrams)
}

// some sends as much as there is room for; false if there has to be more.
func (o *Outbox) some(fd uintptr) bool {
	for o.sent < len(o.messages) {
		left := o.messages[o.sent:]
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&left[0])), uintptr(len(left)), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == 0:
			for range n {
				for _, d := range o.datagrams[o.first[o.sent]:o.end(o.sent)] {
					o.passed += d.data
				}
				o.sent++
			}
			o.refused = false
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			return false
		case errno == unix.EMSGSIZE && !o.refused:
			o.refused = true // the error may be of a router, for what was sent before
		case o.controls[o.sent].Len > 0 && (errno == unix.EINVAL || errno == unix.EIO || errno == unix.EMSGSIZE):
			o.plain, o.refused = true, false
			o.make(o.first[o.sent])
		case errno == unix.EMSGSIZE || errno == unix.ENOBUFS:
			o.refused = false
			o.sent++
		default:
			o.err = errno
			return true
		}
	}
	return true
}

// Gather has a socket hand over datagrams of one size together (UDP_GRO, udp(7)),
// which [Batch.Datagrams] divides again.
func Gather(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) }

// gathered is the size of the datagrams in one that the kernel has put together; 0 if
// it has not.
func gathered(control []byte) int {
	if len(control) < unix.CmsgLen(4) {
		return 0
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	if h.Level != unix.SOL_UDP || h.Type != unix.UDP_GRO {
		return 0
	}
	return int(binary.NativeEndian.Uint32(control[unix.CmsgLen(0):]))
}
