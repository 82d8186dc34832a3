package netns

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// filterSyscalls refuses the calling thread, and all it starts, the few system
// calls that reach past a network namespace (seccomp(2)):
//
//   - sockets of families that namespaces do not divide: AF_VSOCK talks to the
//     hypervisor, AF_QIPCRTR and AF_SMC to devices;
//   - io_uring, whose IORING_OP_SOCKET no filter sees;
//   - request_key(2), which has the host look names up (dns_resolver);
//   - prlimit(2) on other processes, by which the app could starve the gateway;
//   - the ioctls that type into the terminal (TIOCSTI, TIOCLINUX), by which a
//     program has the user's shell run what it likes.
func filterSyscalls() error {
	archs := instructionSets[runtime.GOARCH]
	if archs == nil {
		return fmt.Errorf("no system call filter for %s", runtime.GOARCH)
	}
	program := syscallFilter(archs, hasVsock())
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(program)
	if e != 0 {
		return fmt.Errorf("install system call filter: %w", e)
	}
	return nil
}

// instructionSet is how one of them numbers the calls (linux/audit.h,
// asm/unistd.h).
type instructionSet struct {
	audit, socket, ioctl uint32
	requestKey, prlimit  uint32
	socketcall           uint32 // socket(2) of old 32-bit x86 programs; 0: none
	limit                uint32 // numbers from here on are of another ABI (x32); 0: none
}

// instructionSets lists what a machine may execute besides its native one.
var instructionSets = map[string][]instructionSet{
	"amd64": {
		{audit: unix.AUDIT_ARCH_X86_64, socket: 41, ioctl: 16, requestKey: 249, prlimit: 302, limit: 0x40000000},
		{audit: unix.AUDIT_ARCH_I386, socket: 359, ioctl: 54, requestKey: 287, prlimit: 340, socketcall: 102},
	},
	"arm64": {
		{audit: unix.AUDIT_ARCH_AARCH64, socket: 198, ioctl: 29, requestKey: 218, prlimit: 261},
		{audit: unix.AUDIT_ARCH_ARM, socket: 281, ioctl: 54, requestKey: 310, prlimit: 369},
	},
	"riscv64": {
		{audit: unix.AUDIT_ARCH_RISCV64, socket: 198, ioctl: 29, requestKey: 218, prlimit: 261},
	},
}

// ioUringSetup has one number on all of them.
const ioUringSetup = 425

// dividedFamilies are those that network namespaces divide or that lead nowhere.
var dividedFamilies = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_PACKET, unix.AF_ALG}

// hasVsock tells whether this kernel has AF_VSOCK. Unsure is yes.
func hasVsock() bool {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return !errors.Is(err, unix.EAFNOSUPPORT)
}

// Offsets in struct seccomp_data (linux/seccomp.h); the low half of an argument.
const (
	dataNumber = 0
	dataArch   = 4
	dataArg0   = 16
	dataArg1   = 24
)

// syscallFilter assembles the classic BPF program. socketcall(2) has its
// arguments in memory, where a filter cannot look: with a vsock to protect it is
// refused to make sockets, else it is let be.
func syscallFilter(archs []instructionSet, vsock bool) []unix.SockFilter {
	var program []unix.SockFilter
	for _, a := range archs {
		var sockets []unix.SockFilter
		for _, f := range dividedFamilies {
			sockets = append(sockets, when(f, ret(unix.SECCOMP_RET_ALLOW))...)
		}
		sockets = append(sockets, ret(refuse(unix.EAFNOSUPPORT)))

		block := []unix.SockFilter{load(dataNumber)}
		if a.limit != 0 {
			block = append(block, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, Jf: 1, K: a.limit}, ret(refuse(unix.ENOSYS)))
		}
		block = append(block, when(ioUringSetup, ret(refuse(unix.ENOSYS)))...)
		block = append(block, when(a.requestKey, ret(refuse(unix.ENOSYS)))...)
		block = append(block, when(a.prlimit, append(append([]unix.SockFilter{load(dataArg0)},
			when(0 /* itself */, ret(unix.SECCOMP_RET_ALLOW))...), ret(refuse(unix.EPERM)))...)...)
		block = append(block, when(a.socket, append([]unix.SockFilter{load(dataArg0)}, sockets...)...)...)
		typing := append(when(unix.TIOCSTI, ret(refuse(unix.EPERM))), when(unix.TIOCLINUX, ret(refuse(unix.EPERM)))...)
		block = append(block, when(a.ioctl, append(append([]unix.SockFilter{load(dataArg1)}, typing...), ret(unix.SECCOMP_RET_ALLOW))...)...)
		if a.socketcall != 0 && vsock {
			block = append(block, when(a.socketcall, append(append([]unix.SockFilter{load(dataArg0)},
				when(1 /* SYS_SOCKET */, ret(refuse(unix.EAFNOSUPPORT)))...), ret(unix.SECCOMP_RET_ALLOW))...)...)
		}
		block = append(block, ret(unix.SECCOMP_RET_ALLOW))

		program = append(program, load(dataArch))
		program = append(program, when(a.audit, block...)...)
	}
	return append(program, ret(refuse(unix.ENOSYS))) // an instruction set not listed
}

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func ret(action uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
}

func refuse(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }

// when runs the block if the loaded word is value, and skips it otherwise.
func when(value uint32, block ...unix.SockFilter) []unix.SockFilter {
	jump := unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: uint8(len(block)), K: value}
	return append([]unix.SockFilter{jump}, block...)
}
