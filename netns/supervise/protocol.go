package supervise

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"appfw/netns/signals"
)

// The protocol of the control socket, a pair of AF_UNIX and SOCK_SEQPACKET: a message
// is a packet, its kind first. The first message is there before the gateway is; the
// others come in any order. End of file says that the other end is gone.
const (
	// descriptors says what the gateway has inherited: for each descriptor from
	// firstPassed on a byte for its role, and four for its number in the program, the
	// lowest first. From the supervisor, once, first.
	descriptors kind = 1 + iota
	// passSignal passes a signal on to the program; its number. From the supervisor.
	passSignal
	// askReload asks for the policy to be read anew. From the supervisor.
	askReload
	// ignoring says which signals the program is to ignore, eight bytes of a
	// [signals.Set], the lowest first. From the supervisor, once.
	ignoring
	// started says that the program is about to run. From the gateway, once.
	started
	// failed says that the program does not run after all. From the gateway, which ends
	// then.
	failed
	// stopped says that the program stopped; the number of the signal that did it.
	// From the gateway.
	stopped
	// programEnded says how the program ended: whether by a signal, 1 or 0, and its number or
	// the exit code. From the gateway, once.
	programEnded
	// delivering says that what the program sent before it ended is still being
	// delivered, and that gets on. From the gateway.
	delivering
)

// kind is what a message says.
type kind byte

// message is one message.
type message struct {
	kind kind
	body []byte
}

// signal is the one that the message names; 0 if that is none.
func (m message) signal() syscall.Signal {
	if len(m.body) != 1 || m.body[0] > byte(signals.Last) {
		return 0
	}
	return syscall.Signal(m.body[0])
}

// ignored are the signals that the message names.
func (m message) ignored() signals.Set {
	if len(m.body) != 8 {
		return 0
	}
	return signals.Set(binary.LittleEndian.Uint64(m.body))
}

// ending is the one that the message tells; false if it tells none.
func (m message) ending() (e Ending, ok bool) {
	if len(m.body) != 2 || m.body[0] > 1 || m.body[0] == 1 && (m.body[1] == 0 || m.body[1] > byte(signals.Last)) {
		return e, false
	}
	if m.body[0] == 1 {
		return Ending{Signal: syscall.Signal(m.body[1])}, true
	}
	return Ending{Code: int(m.body[1])}, true
}

// endingBody is the body of a message that tells an ending.
func endingBody(e Ending) []byte {
	if e.Signal != 0 {
		return []byte{1, byte(e.Signal)}
	}
	return []byte{0, byte(e.Code)}
}

// Descriptors of the gateway, after standard error.
const (
	controlFD   = 3
	firstPassed = 4 // as os/exec numbers its ExtraFiles
)

// maxMessage bounds a message, and so how many descriptors there may be: that many
// bytes the socket has room for (net.core.wmem_default is 212,992).
const maxMessage = 1 << 16

// Role is what a descriptor is passed for.
type Role byte

const (
	Log  Role = 1 + iota // to write the log to
	Port                 // a socket that takes in clients, or a stand-in for one; there may be several
	kept                 // the program's, see [Gateway.Kept]
)

// Passed are files that the supervisor opens, and the gateway inherits.
type Passed struct {
	files []*os.File
	roles []passedRole
}

// Add adds a file, after others of its role. It is closed when the gateway has it.
func (p *Passed) Add(r Role, f *os.File) {
	p.files = append(p.files, f)
	p.roles = append(p.roles, passedRole{role: r})
}

// openControl opens the control socket.
func openControl() (supervisor, gateway *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open control socket: %w", err)
	}
	return os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control"), nil
}

// send sends a message.
func send(control *os.File, k kind, body ...byte) error {
	if len(body) >= maxMessage {
		return fmt.Errorf("control socket: a message of %d bytes", len(body))
	}
	_, err := control.Write(append([]byte{byte(k)}, body...))
	return err
}

// receive takes the next message, without waiting. It is [io.EOF] if the other end is
// gone, and EAGAIN if there is none.
func receive(control int) (message, error) {
	b := make([]byte, 1+8) // but for the first message, none is longer
	n, _, err := unix.Recvfrom(control, b, unix.MSG_DONTWAIT)
	for err == unix.EINTR || err == unix.ECONNRESET { // the other end is gone; what it said is still there
		n, _, err = unix.Recvfrom(control, b, unix.MSG_DONTWAIT)
	}
	switch {
	case err != nil:
		return message{}, err
	case n == 0:
		return message{}, io.EOF
	}
	return message{kind(b[0]), b[1:n]}, nil
}

// ErrNoSupervisor says that no supervisor started this process.
var ErrNoSupervisor = errors.New("this process has no supervisor")

// receivePassed reads the first message of the control socket, and returns the role of
// each descriptor.
func receivePassed(fd int) ([]passedRole, error) {
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_SEQPACKET {
		return nil, ErrNoSupervisor
	}
	b := make([]byte, maxMessage)
	n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
	if err != nil || n == 0 || kind(b[0]) != descriptors {
		return nil, ErrNoSupervisor
	}
	return rolesOf(b[1:n]), nil
}
