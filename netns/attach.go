package netns

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Namespaces that others have made, or that outlive this process, are taken as the
// app's by [Open]. They have programs in them already, perhaps.

// ErrOwnNamespace says that a namespace is the one in which appfw itself is.
var ErrOwnNamespace = errors.New("it is the network namespace of appfw itself, and of the host")

// Open takes the namespace that a file stands for (/run/netns/NAME,
// /proc/PID/ns/net) for an app's.
func Open(path string) (*Namespace, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var theirs, ours unix.Stat_t
	if err = unix.Fstat(int(file.Fd()), &theirs); err == nil {
		err = unix.Stat("/proc/self/ns/net", &ours)
	}
	if err == nil && theirs.Dev == ours.Dev && theirs.Ino == ours.Ino {
		err = ErrOwnNamespace
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	ns, err := start(func() error {
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", path, err)
		}
		return nil
	})
	file.Close()
	return ns, err
}

// Take takes sole charge of a namespace that is not new: it is an error if another
// appfw has it. What one that has ended left behind is removed. The devices other
// than the loopback that remain are returned: programs may go out by them.
func (ns *Namespace) Take() (others []string, err error) {
	lock, err := takeLock(ns.file)
	if errors.Is(err, errTaken) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("take the namespace: %w", err)
	}
	ns.lock = lock
	err = ns.Do(func() error {
		if err := sweep(); err != nil {
			return err
		}
		links, err := netlink.LinkList()
		if err != nil {
			return fmt.Errorf("list devices: %w", err)
		}
		for _, l := range links {
			// The kernel puts fallback devices of its tunnels into each namespace; they are down.
			if a := l.Attrs(); a.Flags&net.FlagLoopback == 0 && a.Flags&net.FlagUp != 0 {
				others = append(others, a.Name)
			}
		}
		return nil
	})
	return others, err
}

// Leave removes from a namespace that was taken all that was added.
func (ns *Namespace) Leave() error {
	err := ns.Do(sweep)
	if ns.lock != nil {
		ns.lock.Close()
	}
	return err
}

// sweep removes the app's end of the veth and the rules on its loopback.
func sweep() error {
	if link, err := netlink.LinkByName(appDevice); err == nil && link.Attrs().HardwareAddr.String() == appMAC.String() {
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove the old %s: %w", appDevice, err)
		}
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		return fmt.Errorf("list nftables: %w", err)
	}
	for _, t := range tables {
		if t.Name == tableName && (t.Family == nftables.TableFamilyIPv4 || t.Family == nftables.TableFamilyIPv6) {
			conn.DelTable(t)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove old nftables rules: %w", err)
	}
	return nil
}

// KeepCapabilities gives up, in all threads and for good, every capability but what
// is needed to serve namespaces that are set up: IP_TRANSPARENT sockets are made
// for each UDP flow and each client. In a program that is linked with C, where the
// threads are not Go's alone, it does nothing.
func KeepCapabilities() error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno == unix.ENOTSUP {
		return nil
	} else if errno != 0 {
		return fmt.Errorf("no_new_privs: %w", errno)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	keep := [2]unix.CapUserData{{Effective: 1 << unix.CAP_NET_ADMIN, Permitted: 1 << unix.CAP_NET_ADMIN}}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&keep)), 0)
	runtime.KeepAlive(&header)
	runtime.KeepAlive(&keep)
	if errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	return nil
}
