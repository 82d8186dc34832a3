package netns

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// confine takes from the calling thread, for good, all that a program could use
// to get round its network namespace. What it starts inherits that
// (capabilities(7), prctl(2), seccomp(2)).
func confine() error {
	// Nothing it executes gains anything: no setuid bit, no file capability.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	for c := uintptr(0); ; c++ {
		switch err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err {
		case nil:
			continue
		case unix.EINVAL: // beyond the kernel's last capability
		default:
			return fmt.Errorf("drop capability %d from the bounding set: %w", c, err)
		}
		break
	}
	// uid 0 is a user like others: it gets no capabilities by executing.
	bits := uintptr(secbitNoRoot | secbitNoRoot<<1 | secbitNoSetuidFixup | secbitNoSetuidFixup<<1)
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, bits, 0, 0, 0); err != nil {
		return fmt.Errorf("set securebits: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return filterSyscalls()
}

// Securebits of linux/securebits.h; the lock of a bit is the bit above it.
const (
	secbitNoRoot        = 1 << 0
	secbitNoSetuidFixup = 1 << 2
)
