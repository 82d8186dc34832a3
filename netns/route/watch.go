package route

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// groups are those that say what may change a route's type (linux/rtnetlink.h).
var groups = []int{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE,
	unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE,
}

// subscribe has the table forget whenever the kernel tells of a change.
func (t *Table) subscribe() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("bind", err)
	}
	for _, group := range groups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
			unix.Close(fd)
			return os.NewSyscallError("setsockopt NETLINK_ADD_MEMBERSHIP", err)
		}
	}
	file := os.NewFile(uintptr(fd), "netlink")
	go t.follow(file)
	go func() {
		<-t.done
		_ = file.SetReadDeadline(time.Unix(1, 0))
	}()
	return nil
}

// follow reads what changed until Close. What it says does not matter; that
// something was lost (ENOBUFS) says as much.
func (t *Table) follow(file *os.File) {
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		t.forget(false)
		return
	}
	b := make([]byte, 1)
	for {
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			_, _, failed = unix.Recvfrom(int(fd), b, 0)
			return failed != unix.EAGAIN
		})
		ended := err != nil || failed != nil && failed != unix.ENOBUFS && failed != unix.EINTR
		t.forget(!ended)
		if ended {
			return
		}
	}
}
