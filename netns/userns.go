package netns

import (
	"errors"
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
// as outside: an ordinary user's own are mapped, and root's all
// (user_namespaces(7)).
func InUserNamespace(cmd *exec.Cmd, u *User) {
	size := 1
	uid, gid := os.Getuid(), os.Getgid()
	setgroups := false
	if os.Geteuid() == 0 {
		uid, gid, size, setgroups = 0, 0, 1<<32-1, true
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

// ExplainUserNamespace says in plain words why starting in a user namespace
// failed with err, and what to do about it; "" if it does not know.
func ExplainUserNamespace(err error) string {
	if sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1" && os.Geteuid() != 0 {
		exe, _ := os.Executable()
		return "AppArmor restricts user namespaces here (Ubuntu 23.10 and later do). Allow them to appfw by a profile:\n" +
			"  printf 'abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile appfw " + exe + " flags=(unconfined) {\\n  userns,\\n}\\n' | sudo tee /etc/apparmor.d/appfw\n" +
			"  sudo apparmor_parser -r /etc/apparmor.d/appfw"
	}
	if sysctl("kernel/unprivileged_userns_clone") == "0" && os.Geteuid() != 0 {
		return "user namespaces are switched off for ordinary users. Switch them on: sudo sysctl kernel.unprivileged_userns_clone=1"
	}
	if sysctl("user/max_user_namespaces") == "0" {
		return "user namespaces are switched off. Switch them on: sudo sysctl user.max_user_namespaces=10000"
	}
	switch {
	case errors.Is(err, unix.ENOSPC):
		return "there are too many user namespaces, or they are nested too deep (32 at most). See /proc/sys/user/max_user_namespaces"
	case errors.Is(err, unix.EPERM):
		return "user namespaces are forbidden here. In a container, its seccomp profile does that: docker run --security-opt seccomp=unconfined. In a chroot, they cannot be had"
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return "this kernel has no user namespaces (CONFIG_USER_NS)"
	}
	return ""
}

// sysctl reads a value of /proc/sys; "" if it is not there.
func sysctl(name string) string {
	b, _ := os.ReadFile("/proc/sys/" + name)
	return strings.TrimSpace(string(b))
}
