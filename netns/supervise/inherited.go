package supervise

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strconv"

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
		return e.Name + " is a directory, by which the program would see files that are hidden from it; redirect it"
	}
	return e.Name + " is a socket, by which the program would reach the network; put a pipe before it: cat | appfw run … | cat"
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

// mostKept bounds the descriptors that the program inherits; those with the highest
// numbers are closed.
const mostKept = 1024

// inherited are the numbers of the descriptors beyond standard error that this process
// was started with and that the program may have; all are close-on-exec from here on.
// What this process has opened by itself is that already.
func inherited() (numbers []int, err error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, fmt.Errorf("list inherited descriptors: %w", err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("limit of open files: %w", err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 || uint64(fd) >= limit.Max { // no process could be given that again
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 && leadsNowhere(fd) {
			numbers = append(numbers, fd)
		}
	}
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("close inherited descriptors: %w", err)
	}
	slices.Sort(numbers)
	return numbers[:min(len(numbers), mostKept)], nil
}

// keep adds the descriptors that the program inherits, by numbers as low as may be: what is
// started has them above its own, and may have fewer than they say (RLIMIT_NOFILE).
func (p *Passed) keep(numbers []int) error {
	for _, n := range numbers {
		fd, err := unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return fmt.Errorf("pass descriptor %d: %w", n, err)
		}
		unix.Close(n)
		p.files = append(p.files, os.NewFile(uintptr(fd), fmt.Sprintf("descriptor %d", n)))
		p.roles = append(p.roles, passedRole{kept, uint32(n)})
	}
	return nil
}

// leadsNowhere tells whether a descriptor that nobody may know of is one that the program
// could have opened in its own view: a pipe, a file that has content, a terminal, or one
// of the likes of /dev/null. A socket is a way into the network, a directory and what is
// found only by its path (O_PATH) into the host's files, other devices may be either, and
// the kernel's own files (kernelFiles) more than content.
func leadsNowhere(fd int) bool {
	var st unix.Stat_t
	var fs unix.Statfs_t
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_PATH != 0 || unix.Fstat(fd, &st) != nil || unix.Fstatfs(fd, &fs) != nil {
		return false
	}
	major, minor := unix.Major(st.Rdev), unix.Minor(st.Rdev)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFIFO:
		return true
	case unix.S_IFREG:
		return !slices.Contains(kernelFiles, int64(fs.Type))
	case unix.S_IFCHR: // admin-guide/devices.txt
		const memory, terminals, slaves, lastSlaves = 1, 5, 136, 143
		return major == memory && (minor == 3 || minor == 5 || minor >= 7 && minor <= 9) ||
			major == terminals && minor == 0 || major >= slaves && major <= lastSlaves
	}
	return false
}

// kernelFiles are file systems whose files are the kernel's own: to write to one may have it
// start programs, or move processes, beyond the run.
var kernelFiles = []int64{
	unix.PROC_SUPER_MAGIC, unix.NSFS_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC,
	unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC,
}

// passedRole says of a descriptor what it is passed for; its number in the program, if it is
// that one's.
type passedRole struct {
	role   Role
	number uint32
}

const roleSize = 1 + 4

// rolesBody is the body of the message that says them.
func rolesBody(roles []passedRole) (b []byte) {
	for _, r := range roles {
		b = binary.LittleEndian.AppendUint32(append(b, byte(r.role)), r.number)
	}
	return b
}

// rolesOf reads it.
func rolesOf(body []byte) (roles []passedRole) {
	for r := range slices.Chunk(body, roleSize) {
		if len(r) == roleSize {
			roles = append(roles, passedRole{Role(r[0]), binary.LittleEndian.Uint32(r[1:])})
		}
	}
	return roles
}
