package named

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// Owner is the user namespace that a network namespace belongs to. Who has
// capabilities there may do everything in the latter (network_namespaces(7)).
type Owner struct{ file *os.File }

// OwnerOf asks whose a namespace is, a file as /proc/PID/ns/net (NS_GET_USERNS of
// ioctl_nsfs(2)). It is EPERM if that is out of the caller's sight: not the user
// namespace of the caller, nor one below.
func OwnerOf(ns *os.File) (*Owner, error) {
	fd, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return nil, err
	}
	return &Owner{os.NewFile(uintptr(fd), "user namespace")}, nil
}

// IsOurs tells whether this process is in it. If that cannot be told, it is not.
func (o *Owner) IsOurs() bool {
	var theirs, ours unix.Stat_t
	return unix.Fstat(int(o.file.Fd()), &theirs) == nil && unix.Stat("/proc/self/ns/user", &ours) == nil &&
		theirs.Dev == ours.Dev && theirs.Ino == ours.Ino
}

// Close forgets it.
func (o *Owner) Close() error { return o.file.Close() }

// inOwner tells a process that Command started it.
const inOwner = "APPFW_IN_OWNER"

// Command is this program with the given arguments, in the user namespace, which a
// process of several threads cannot enter by itself (setns(2)). It is there with all
// capabilities, and ends with its parent. The owner is to be closed after its start.
func (o *Owner) Command(args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		self = "/proc/self/exe"
	}
	cmd := exec.Command("nsenter", append([]string{"--user=/proc/self/fd/3", "--preserve-credentials", self}, args...)...)
	cmd.Env = append(os.Environ(), inOwner+"=1")
	cmd.ExtraFiles = []*os.File{o.file}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGTERM}
	return cmd
}

// InOwner tells whether this process was started by [Owner.Command].
func InOwner() bool { return os.Getenv(inOwner) != "" }
