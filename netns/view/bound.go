package view

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// inode is a file as the kernel names it to itself: by the number of its file system,
// and the low half of its own.
type inode struct {
	dev uint64
	ino uint32
}

// boundSocket is a socket of a network namespace that is bound to a file.
type boundSocket struct {
	inode
	name string // what it was bound to, by whoever did that: not where it is
}

// boundSockets lists those of the calling thread's network namespace (sock_diag(7),
// unix_diag).
func boundSockets() (list []boundSocket, err error) {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	ask := make(diagRequest, 24) // struct unix_diag_req
	ask[0] = unix.AF_UNIX
	nl.NativeEndian().PutUint32(ask[4:], ^uint32(0))                                          // in all states
	nl.NativeEndian().PutUint32(ask[12:], 1<<netlink.UNIX_DIAG_NAME|1<<netlink.UNIX_DIAG_VFS) // UDIAG_SHOW_NAME, UDIAG_SHOW_VFS
	req.AddData(ask)
	err = req.ExecuteIter(unix.NETLINK_SOCK_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(msg []byte) bool {
		if s, ok := parseBound(msg); ok {
			list = append(list, s)
		}
		return true
	})
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // of those that were there all the time, none is missing
		return nil, fmt.Errorf("list Unix sockets: %w", err)
	}
	return list, nil
}

type diagRequest []byte

func (r diagRequest) Serialize() []byte { return r }
func (r diagRequest) Len() int          { return len(r) }

// parseBound reads a struct unix_diag_msg with its attributes (linux/unix_diag.h).
func parseBound(msg []byte) (s boundSocket, bound bool) {
	const header = 16
	if len(msg) < header {
		return s, false
	}
	attrs, err := nl.ParseRouteAttr(msg[header:])
	if err != nil {
		return s, false
	}
	for _, a := range attrs {
		switch a.Attr.Type & ^uint16(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) {
		case netlink.UNIX_DIAG_NAME:
			s.name = string(bytes.TrimRight(a.Value, "\x00"))
		case netlink.UNIX_DIAG_VFS:
			if len(a.Value) >= 8 {
				bound = true
				s.ino, s.dev = nl.NativeEndian().Uint32(a.Value), uint64(nl.NativeEndian().Uint32(a.Value[4:]))
			}
		}
	}
	return s, bound
}

// boundElsewhere are names of sockets in the network namespace of a process, which
// everybody may read (unix(7), /proc/net/unix). Which files these are is not told.
func boundElsewhere(process string) (names []string) {
	table, _ := os.ReadFile(process + "/net/unix")
	_, rows, _ := strings.Cut(string(table), "\n") // the first is the head
	for line := range strings.Lines(rows) {
		// Num RefCount Protocol Flags Type St Inode Path, where a path may hold anything.
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 8)
		if len(fields) == 8 {
			if name := strings.TrimLeft(fields[7], " "); name != "" && name[0] != '@' {
				names = append(names, name)
			}
		}
	}
	return names
}

// Distinguishable is an error unless the kernel tells which files sockets are bound to,
// which takes unix_diag: without, nothing that appears during a run can be covered.
func Distinguishable() error {
	_, err := boundSockets()
	return err
}

// listens tells whether a process has the socket that the descriptor stands for: a
// server that ends leaves a file, and no other can take that. It asks the kernel, not
// the server, which does not notice: a socket for datagrams cannot be connected to one
// that is of another kind, and to one of its kind it sends nothing. Unsure is yes.
func listens(file int) bool {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return true
	}
	defer unix.Close(s)
	err = unix.Connect(s, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d", file)})
	return !errors.Is(err, unix.ECONNREFUSED)
}
