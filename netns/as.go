package netns

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// As calls a function with the rights of a user, without capabilities, on a thread that
// ends then. It needs root's. Go's own calls would change the whole process (setuid(2)).
func As(u *User, fn func() error) error {
	result := make(chan error)
	OnThread(func() { result <- asUser(u, fn) })
	err := <-result
	// The change has closed this process to itself (/proc/self, proc(5)).
	if perr := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err == nil {
		err = perr
	}
	return err
}

func asUser(u *User, fn func() error) error {
	groups := append([]uint32{u.GID}, u.Groups...)
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&groups[0])), 0); e != 0 {
		return fmt.Errorf("become user %d: setgroups: %w", u.UID, e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(u.GID), uintptr(u.GID), uintptr(u.GID)); e != 0 {
		return fmt.Errorf("become user %d: setresgid: %w", u.UID, e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(u.UID), uintptr(u.UID), uintptr(u.UID)); e != 0 {
		return fmt.Errorf("become user %d: setresuid: %w", u.UID, e)
	}
	return fn()
}
