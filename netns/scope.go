package netns

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrNoScope says that this kernel cannot keep a program's signals within its run:
// Landlock is older than Linux 6.12, is not there, or is switched off.
var ErrNoScope = errors.New("the kernel has no scopes of Landlock, which are of Linux 6.12")

// scopeABI is the first version of Landlock that has scopes (landlock(7)).
const scopeABI = 6

// rulesetAttr is struct landlock_ruleset_attr of linux/landlock.h.
type rulesetAttr struct{ handledFS, handledNet, scoped uint64 }

// OpenScope makes what keeps a program's signals, and its connections to abstract
// sockets, within its run: a ruleset of Landlock. A program to which it is given
// reaches processes of its own domain and below it alone; who is outside reaches in,
// and what the kernel itself sends (a terminal's signals, SIGPIPE, SIGCHLD) is not
// concerned. It is [ErrNoScope] if the kernel has no such thing, and another error if
// that cannot be told.
func OpenScope() (*os.File, error) {
	abi, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch {
	case e == unix.ENOSYS, e == unix.EOPNOTSUPP, e == 0 && abi < scopeABI:
		return nil, ErrNoScope
	case e != 0:
		return nil, fmt.Errorf("ask for the version of Landlock: %w", e)
	}
	attr := rulesetAttr{scoped: unix.LANDLOCK_SCOPE_SIGNAL | unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET}
	fd, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if e != 0 {
		return nil, fmt.Errorf("make a ruleset of Landlock: %w", e)
	}
	return os.NewFile(fd, "scope"), nil
}
