// Package mmsg receives and sends many datagrams by one system call (recvmmsg(2),
// sendmmsg(2)).
package mmsg

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// message is struct mmsghdr of the kernel (recvmmsg(2)).
type message struct {
	unix.Msghdr
	size uint32
}

// Batch is room for datagrams, with the addresses of their other ends and their
// control messages (cmsg(3)). It is for one goroutine at a time.
type Batch struct {
	messages []message
	vectors  []unix.Iovec
	names    []unix.RawSockaddrInet6 // it has room for IPv4, too
	controls []byte
	buffers  []byte
	size     int // of one buffer

	replies []message // of those that are to be sent
	answers []unix.Iovec
}

// controlSize has room for an IP_PKTINFO, IPV6_PKTINFO or UDP_GRO.
const controlSize = 64

// NewBatch makes room for n datagrams of the given size in bytes.
func NewBatch(n, size int) *Batch {
	b := &Batch{
		messages: make([]message, n), vectors: make([]unix.Iovec, n), names: make([]unix.RawSockaddrInet6, n),
		controls: make([]byte, n*controlSize), buffers: make([]byte, n*size), size: size,
		replies: make([]message, 0, n), answers: make([]unix.Iovec, n),
	}
	for i := range b.messages {
		b.vectors[i] = vector(b.buffers[i*size : (i+1)*size])
		b.messages[i].Name = (*byte)(unsafe.Pointer(&b.names[i]))
		b.messages[i].Iov = &b.vectors[i]
		b.messages[i].SetIovlen(1)
		b.messages[i].Control = &b.controls[i*controlSize]
	}
	return b
}

// vector is struct iovec of data, which is not empty.
func vector(data []byte) unix.Iovec {
	v := unix.Iovec{Base: &data[0]}
	v.SetLen(len(data))
	return v
}

// ReceiveTo has a socket say with each datagram to which address it was sent.
func ReceiveTo(fd int) error {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	if domain == unix.AF_INET6 {
		return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_PKTINFO, 1)
}

// receive receives the datagrams that are there, at most as many as there is room
// for, and returns their number. It is EAGAIN if there is none.
func (b *Batch) receive(fd int) (n int, err error) {
	for i := range b.messages {
		m := &b.messages[i]
		m.Namelen, m.Flags = uint32(unsafe.Sizeof(b.names[i])), 0
		m.SetControllen(controlSize)
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.messages[0])), uintptr(len(b.messages)), unix.MSG_DONTWAIT, 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// Datagram is the i-th of those that were received; whole is false if it was larger
// than there is room for.
func (b *Batch) Datagram(i int) (data []byte, whole bool) {
	m := &b.messages[i]
	return b.buffers[i*b.size : i*b.size+int(m.size)], m.Flags&unix.MSG_TRUNC == 0
}

// Datagrams are all n that were received, after [Gather] too.
func (b *Batch) Datagrams(n int) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for i := range n {
			data, _ := b.Datagram(i)
			size := gathered(b.control(i))
			if size <= 0 {
				size = len(data)
			}
			for len(data) > size {
				if !yield(data[:size]) {
					return
				}
				data = data[size:]
			}
			if !yield(data) {
				return
			}
		}
	}
}

// Reply has [Inbox.Send] send data to where the i-th datagram came from. If the
// socket says to which address that was sent ([ReceiveTo]), the reply comes from
// there.
func (b *Batch) Reply(i int, data []byte) {
	n := len(b.replies)
	b.answers[n] = vector(data)
	m := b.messages[i].Msghdr
	m.Iov = &b.answers[n]
	turn(b.control(i))
	b.replies = append(b.replies, message{Msghdr: m})
}

// Origin is where a datagram came from.
type Origin struct {
	Addr    netip.AddrPort
	Control []byte // sent with a reply, it has that come from where the datagram was sent to ([ReceiveTo])
}

// Origin is where the i-th datagram came from. Its control message is lost with the
// next ones that are received.
func (b *Batch) Origin(i int) Origin {
	o := Origin{Control: b.control(i)}
	turn(o.Control)
	name := &b.names[i]
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&name.Port))[:])
	if name.Family == unix.AF_INET {
		addr := (*unix.RawSockaddrInet4)(unsafe.Pointer(name)).Addr
		o.Addr = netip.AddrPortFrom(netip.AddrFrom4(addr), port)
		return o
	}
	addr := netip.AddrFrom16(name.Addr)
	if name.Scope_id != 0 {
		addr = addr.WithZone(strconv.Itoa(int(name.Scope_id)))
	}
	o.Addr = netip.AddrPortFrom(addr, port)
	return o
}

func (b *Batch) control(i int) []byte {
	return b.controls[i*controlSize:][:b.messages[i].Controllen]
}

// turn makes of control messages that say to which address a datagram was sent those
// that say from which its answer is to be sent. The way back is the routes' to say.
func turn(control []byte) {
	if len(control) < unix.SizeofCmsghdr {
		return
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	data := control[unix.CmsgLen(0):]
	switch {
	case h.Level == unix.SOL_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo: // interface, source, destination
		binary.NativeEndian.PutUint32(data, 0)
		copy(data[4:8], data[8:12])
	case h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo: // address, interface
		binary.NativeEndian.PutUint32(data[16:], 0)
	}
}

// send sends the replies.
func (b *Batch) send(fd int) {
	for left := b.replies; len(left) > 0; {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&left[0])), uintptr(len(left)), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			left = left[1:]
		default:
			left = left[n:]
		}
	}
	clear(b.answers[:len(b.replies)]) // keep nobody's data
	b.replies = b.replies[:0]
}
