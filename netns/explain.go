package netns

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ExplainUserNamespace says in plain words why starting in a user namespace
// failed with err, and what to do about it; "" if it does not know.
func ExplainUserNamespace(err error) string {
	denied := errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)
	root := os.Geteuid() == 0
	switch {
	case denied && !root && sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
		exe, _ := os.Executable()
		return "AppArmor restricts user namespaces here (Ubuntu 23.10 and later do). Allow them to appfw by a profile:\n" +
			"  printf 'abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile appfw " + exe + " flags=(unconfined) {\\n  userns,\\n}\\n' | sudo tee /etc/apparmor.d/appfw\n" +
			"  sudo apparmor_parser -r /etc/apparmor.d/appfw"
	case denied && !root && sysctl("kernel/unprivileged_userns_clone") == "0":
		return "user namespaces are switched off for ordinary users. Switch them on: sudo sysctl kernel.unprivileged_userns_clone=1"
	case sysctl("user/max_user_namespaces") == "0":
		return "user namespaces are switched off. Switch them on: sudo sysctl user.max_user_namespaces=10000"
	case errors.Is(err, unix.ENOSPC):
		return "there are too many user namespaces, or they are nested too deep (32 at most). See /proc/sys/user/max_user_namespaces"
	case denied && !IsMapped(os.Geteuid()):
		return fmt.Sprintf("uid %d means nobody in this user namespace. Map it: unshare --map-current-user, or -r", os.Geteuid())
	case denied && root && !holds(unix.CAP_SETFCAP):
		return "root has no CAP_SETFCAP here, without which it cannot be in a user namespace. Start appfw as another user (docker run --user 1000), or give root that (--cap-add SETFCAP); within another appfw, start it as a user (--user)"
	case denied && status("Seccomp") == "2":
		return "a system call filter forbids user namespaces here. In a container: docker run --security-opt seccomp=unconfined"
	case denied:
		return "user namespaces are forbidden here, as they are in a chroot"
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return "this kernel has no user namespaces (CONFIG_USER_NS)"
	}
	return Explain(err)
}

// Explain says in plain words why what a program needs could not be made, and what to do
// about it; "" if it does not know.
func Explain(err error) string {
	switch {
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return "there are too few file descriptors (ulimit -n raises the limit)"
	case errors.Is(err, unix.EAGAIN):
		return "there are too many processes (ulimit -u, or pids.max of a control group)"
	case errors.Is(err, unix.EFBIG):
		return "files may not be as large as those of names, such as /etc/hosts (ulimit -f raises the limit)"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS):
		for _, kind := range []string{"net", "mnt", "user"} {
			if name := "user/max_" + kind + "_namespaces"; sysctl(name) == "0" {
				return "these namespaces are switched off. Switch them on: sudo sysctl " + strings.ReplaceAll(name, "/", ".") + "=10000"
			}
		}
		return "there are too many namespaces. See /proc/sys/user"
	case errors.Is(err, unix.ENOMEM):
		return "there is too little memory (ulimit -v, or memory.max of a control group)"
	}
	return ""
}

// What appfw needs when it starts. Go's runtime does not survive that it can have no
// thread, and not start with less address space.
const (
	descriptorsNeeded = 64
	processesNeeded   = 32
	addressesNeeded   = 1 << 30
)

// Scarce says which limit of this process is too low for appfw to start; "" if none is.
func Scarce() string {
	if _, err := os.Stat("/proc/self/exe"); err != nil {
		return "there is no /proc here, which appfw needs"
	}
	if n, ok := limit(unix.RLIMIT_NOFILE); ok && n < descriptorsNeeded {
		return fmt.Sprintf("%d open files are the limit here, and appfw needs %d (ulimit -n)", n, descriptorsNeeded)
	}
	if n, ok := limit(unix.RLIMIT_AS); ok && n < addressesNeeded {
		return fmt.Sprintf("%d MiB of address space are the limit here, and appfw needs %d (ulimit -v)", n>>20, addressesNeeded>>20)
	}
	const many = 4096 // fewer are counted
	if n, ok := limit(unix.RLIMIT_NPROC); ok && n < many && os.Geteuid() != 0 {
		if used := threads(os.Getuid()); used+processesNeeded > n {
			return fmt.Sprintf("%d processes are the limit here, %d run, and appfw needs %d more (ulimit -u)", n, used, processesNeeded)
		}
	}
	if n, used, ok := groupLimit(); ok && used+processesNeeded > n {
		return fmt.Sprintf("%d processes are the limit of the control group, %d run, and appfw needs %d more (pids.max; docker run --pids-limit)", n, used, processesNeeded)
	}
	return ""
}

// limit is a limit of this process; false if there is none.
func limit(resource int) (uint64, bool) {
	var l unix.Rlimit
	err := unix.Getrlimit(resource, &l)
	return l.Cur, err == nil && l.Cur != unix.RLIM_INFINITY
}

// threads counts those of a user, as far as /proc shows them.
func threads(uid int) (n uint64) {
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, process := range processes {
		var st unix.Stat_t
		if unix.Stat(process+"/task", &st) == nil && int(st.Uid) == uid {
			n += max(1, uint64(st.Nlink)-2)
		}
	}
	return n
}

// groupLimit is how many processes the control group of this one may have, and has; false
// if that is not limited (cgroups(7)).
func groupLimit() (limit, used uint64, ok bool) {
	groups, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(groups)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 || fields[1] != "" && fields[1] != "pids" {
			continue
		}
		dir := path.Join("/sys/fs/cgroup", fields[1], fields[2])
		of := func(name string) (uint64, error) {
			b, _ := os.ReadFile(path.Join(dir, name))
			return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
		}
		most, merr := of("pids.max") // else it is "max", or there is none
		now, nerr := of("pids.current")
		if merr == nil && nerr == nil {
			return most, now, true
		}
	}
	return 0, 0, false
}

// status is a field of proc_pid_status(5).
func status(name string) string {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
