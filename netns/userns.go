package netns

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// capabilities are what the process in the user namespace holds there: to make
// namespaces and to mount, to configure networks, to send whole packets, to
// bind port 53, to take everything from the app, to read a policy that root alone
// may read, and to enter the app's mount namespace (setns(2) asks for CAP_SYS_CHROOT).
var capabilities = []uintptr{
	unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE,
	unix.CAP_SETPCAP, unix.CAP_DAC_READ_SEARCH, unix.CAP_SYS_CHROOT,
}

// User is who a process runs as.
type User struct {
	UID, GID   uint32
	Groups     []uint32
	Name, Home string // of passwd(5); empty without an entry
}

// InUserNamespace sets cmd up to start in a new user namespace (and in the
// caller's network namespace) with the capabilities that this package needs
// there, as user u; nil is the caller. User and group ids mean the same inside
// as outside: an ordinary user's own are mapped, and of root, if it has its capabilities,
// all (user_namespaces(7)).
func InUserNamespace(cmd *exec.Cmd, u *User) {
	size := 1
	uid, gid := os.Getuid(), os.Getgid()
	setgroups := false
	if os.Geteuid() == 0 && holds(unix.CAP_SETUID) && holds(unix.CAP_SETGID) {
		uid, gid, size = 0, 0, 1<<32-1
		setgroups = maySetGroups()
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 unix.CLONE_NEWUSER,
		UidMappings:                identity(uid, size, "/proc/self/uid_map"),
		GidMappings:                identity(gid, size, "/proc/self/gid_map"),
		GidMappingsEnableSetgroups: setgroups,
		AmbientCaps:                capabilities,
	}
	if u != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
	}
}

// identity maps size ids from first on to themselves. In a user namespace that
// has fewer than all, as in a container, those that file lists are mapped.
func identity(first, size int, file string) []syscall.SysProcIDMap {
	if size == 1 {
		return []syscall.SysProcIDMap{{ContainerID: first, HostID: first, Size: 1}}
	}
	var maps []syscall.SysProcIDMap
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		var inside, outside, n int
		if _, err := fmt.Sscan(line, &inside, &outside, &n); err == nil {
			maps = append(maps, syscall.SysProcIDMap{ContainerID: inside, HostID: inside, Size: n})
		}
	}
	return maps
}

// holds tells whether this process has a capability.
func holds(capability uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[capability/32].Effective&(1<<(capability%32)) != 0
}

// maySetGroups tells whether user namespaces below this one may have setgroups(2): not
// where an ordinary user made this one (unshare -r).
func maySetGroups() bool {
	b, err := os.ReadFile("/proc/self/setgroups")
	return err != nil || strings.TrimSpace(string(b)) == "allow"
}

// sysctl reads a value of /proc/sys; "" if it is not there.
func sysctl(name string) string {
	b, _ := os.ReadFile("/proc/sys/" + name)
	return strings.TrimSpace(string(b))
}
