package netns

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// queue is the NFQUEUE of a namespace (linux/netfilter/nfnetlink_queue.h): what
// waits in it comes by a netlink socket (netlink(7)), and so do verdicts go back.
// The kernel is asked by as few calls as can be: a SYN waits for them.
type queue struct {
	file *os.File
	conn syscall.RawConn
	room []byte // for one message
}

// Messages of the queue, and their attributes.
const (
	queueMessage = unix.NFNL_SUBSYS_QUEUE << 8
	queuePacket  = queueMessage     // NFQNL_MSG_PACKET: 0
	queueVerdict = queueMessage | 1 // NFQNL_MSG_VERDICT
	queueConfig  = queueMessage | 2 // NFQNL_MSG_CONFIG

	packetHeader  = 1  // NFQA_PACKET_HDR: its id first, 32 bits
	packetPayload = 10 // NFQA_PAYLOAD
	verdictHeader = 2  // NFQA_VERDICT_HDR: verdict, id
	verdictMark   = 3  // NFQA_MARK

	configCommand = 1 // NFQA_CFG_CMD
	configParams  = 2 // NFQA_CFG_PARAMS: how many bytes of a packet, what to copy
	configLength  = 3 // NFQA_CFG_QUEUE_MAXLEN
	commandBind   = 1 // NFQNL_CFG_CMD_BIND
	copyPacket    = 2 // NFQNL_COPY_PACKET
)

const (
	netlinkHeader = unix.SizeofNlMsghdr + 4 // struct nfgenmsg
	maxPacket     = 0xffff

	// queueRoom is how many bytes of messages may wait to be read, as the kernel counts
	// them: for maxQueued SYNs. The kernel doubles it.
	queueRoom = maxQueued * 1024 / 2
)

// openQueue takes the queue of the calling thread's namespace. From here on packets
// wait in it, at most length of them.
func openQueue(number uint16, length uint32) (*queue, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open NFQUEUE: %w", err)
	}
	q := &queue{file: os.NewFile(uintptr(fd), "NFQUEUE"), room: make([]byte, maxPacket+4096)}
	q.conn, err = q.file.SyscallConn()
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	// As far as the system lets it (net.core.rmem_max of socket(7)): what finds no room
	// is dropped, and a SYN is sent again after a second.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queueRoom) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, queueRoom)
	}
	params := append(binary.BigEndian.AppendUint32(nil, maxPacket), copyPacket)
	for _, attribute := range [][]byte{
		attribute(nil, configCommand, []byte{commandBind, 0, 0, unix.AF_INET}),
		attribute(nil, configParams, params),
		attribute(nil, configLength, binary.BigEndian.AppendUint32(nil, length)),
	} {
		if err == nil {
			err = q.ask(fd, append(header(queueConfig, unix.NLM_F_REQUEST|unix.NLM_F_ACK, number), attribute...))
		}
	}
	if err != nil {
		q.Close()
		return nil, fmt.Errorf("bind NFQUEUE: %w", err)
	}
	return q, nil
}

// header starts a message; its length is set when it is sent.
func header(kind, flags, queue uint16) []byte {
	b := make([]byte, netlinkHeader, 64)
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], flags)
	binary.BigEndian.PutUint16(b[unix.SizeofNlMsghdr+2:], queue)
	return b
}

// attribute appends an attribute.
func attribute(b []byte, kind uint16, data []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+len(data)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, data...)
	return append(b, make([]byte, -len(data)&3)...)
}

// ask sends a message whose answer is an error or none. The kernel has answered when
// the call returns.
func (q *queue) ask(fd int, message []byte) error {
	if err := send(fd, message); err != nil {
		return err
	}
	for {
		n, from, err := unix.Recvfrom(fd, q.room, 0)
		if err != nil {
			return err
		}
		if !byKernel(from) || n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(q.room[4:]) != unix.NLMSG_ERROR {
			continue // a packet, for rules that were there before: it is sent again
		}
		if errno := -int32(binary.NativeEndian.Uint32(q.room[unix.SizeofNlMsghdr:])); errno != 0 {
			return unix.Errno(errno)
		}
		return nil
	}
}

// send sends a message to the kernel, which handles it before the call returns.
func send(fd int, message []byte) error {
	binary.NativeEndian.PutUint32(message, uint32(len(message)))
	return unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// receive calls handle for the next packet: its id, and a copy of it; nil if the
// kernel could show none. alone tells that none waited before. It returns what file
// says when that is closed.
func (q *queue) receive(handle func(id uint32, packet []byte, alone bool)) error {
	var n int
	var from unix.Sockaddr
	var failed error
	alone := false
	err := q.conn.Read(func(fd uintptr) bool {
		n, from, failed = unix.Recvfrom(int(fd), q.room, 0)
		alone = alone || failed == unix.EAGAIN
		return failed != unix.EAGAIN
	})
	switch {
	case err != nil:
		return err
	case failed == unix.ENOBUFS, failed == unix.EINTR:
		// Packets came faster than they were read. The kernel dropped some;
		// those that follow are to be judged as ever.
		return nil
	case failed != nil:
		return failed
	case !byKernel(from):
		return nil
	}
	for id, packet := range queued(q.room[:n]) {
		handle(id, bytes.Clone(packet), alone)
	}
	return nil
}

// byKernel tells whether the kernel sent a message, and not root in a namespace that
// is not appfw's alone.
func byKernel(from unix.Sockaddr) bool {
	sender, ok := from.(*unix.SockaddrNetlink)
	return ok && sender.Pid == 0
}

// queued are the packets in messages of the queue.
func queued(b []byte) func(yield func(id uint32, packet []byte) bool) {
	return func(yield func(uint32, []byte) bool) {
		for len(b) >= netlinkHeader {
			size := int(binary.NativeEndian.Uint32(b))
			if size < netlinkHeader || size > len(b) {
				return
			}
			message := b[:size]
			b = b[min(len(b), size+(-size&3)):]
			if binary.NativeEndian.Uint16(message[4:]) != queuePacket {
				continue // an error: the packet of a verdict was gone
			}
			if id, packet, ok := readQueued(message[netlinkHeader:]); ok && !yield(id, packet) {
				return
			}
		}
	}
}

// readQueued reads the attributes of a packet's message.
func readQueued(b []byte) (id uint32, packet []byte, ok bool) {
	for len(b) >= unix.SizeofNlAttr {
		size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if size < unix.SizeofNlAttr || size > len(b) {
			break
		}
		data := b[unix.SizeofNlAttr:size]
		b = b[min(len(b), size+(-size&3)):]
		switch {
		case kind == packetHeader && len(data) >= 4:
			id, ok = binary.BigEndian.Uint32(data), true
		case kind == packetPayload:
			packet = data
		}
	}
	return id, packet, ok
}

// accept lets a packet go on, with a mark.
func (q *queue) accept(id, mark uint32) error {
	return q.verdict(1, id, mark) // NF_ACCEPT
}

// drop forgets a packet.
func (q *queue) drop(id uint32) error {
	return q.verdict(0, id, 0) // NF_DROP
}

func (q *queue) verdict(verdict, id, mark uint32) error {
	b := header(queueVerdict, unix.NLM_F_REQUEST, queueNumber)
	b = attribute(b, verdictHeader, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, verdict), id))
	if mark != 0 {
		b = attribute(b, verdictMark, binary.BigEndian.AppendUint32(nil, mark))
	}
	var failed error
	if err := q.conn.Control(func(fd uintptr) { failed = send(int(fd), b) }); err != nil {
		return err
	}
	return failed
}

// Close gives the queue back. The kernel drops what waits in it.
func (q *queue) Close() error { return q.file.Close() }
