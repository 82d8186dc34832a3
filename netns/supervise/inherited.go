package supervise

import (
	"os"

	"golang.org/x/sys/unix"
)

// InheritedError says that a descriptor that the program would inherit leads out of
// its network or view.
type InheritedError struct {
	Name      string // of the file
	Directory bool   // it is a directory, and otherwise a socket
}

func (e *InheritedError) Error() string {
	if e.Directory {
		return e.Name + " is a directory"
	}
	return e.Name + " is a socket"
}

// checkInherited refuses descriptors that lead out of the program's network or view:
// a socket can be connected anew, and a directory shows the host's files. A
// connected AF_UNIX stream is no more than a pipe.
func checkInherited(f *os.File) error {
	fd := int(f.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil // closed, and the program gets it closed
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return &InheritedError{Name: f.Name(), Directory: true}
	case unix.S_IFSOCK:
		domain, derr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		kind, kerr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		_, perr := unix.Getpeername(fd)
		if derr != nil || kerr != nil || perr != nil || domain != unix.AF_UNIX || kind != unix.SOCK_STREAM {
			return &InheritedError{Name: f.Name()}
		}
	}
	return nil
}
