package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Who gives a file to somebody else, or becomes somebody else, and may not, expects EPERM,
// and many programs go on then: fakeroot(1), dpkg, cp -a. In a user namespace the kernel
// says EINVAL for ids that are not mapped (user_namespaces(7)), and an ordinary user can
// have one mapped. So these calls wait for appfw, which refuses them in the app's own
// namespace; what they do in namespaces that the app makes, the kernel decides
// (seccomp_unotify(2)).

// Refused is what an app was refused for the first time.
type Refused int

const (
	// Group: to give a file to another group, which may be one of its user's.
	Group Refused = 1 + iota
	// Capability: to give a file to another user, or to become one, as root.
	Capability
	// Directory: to write in its working directory, as root.
	Directory
)

// idCall is a system call that has ids for arguments.
type idCall struct {
	number     uint32
	users      []int // arguments that are a user's
	groups     []int // a group's
	setsGroups bool  // setgroups(2): always asked about
}

// idCalls are those of an instruction set, by its number in linux/audit.h.
var idCalls = map[uint32][]idCall{
	unix.AUDIT_ARCH_X86_64: idCallsOf(92, 94, 93, 260, 105, 106, 113, 114, 117, 119, 116),
	unix.AUDIT_ARCH_I386:   idCallsOf(212, 198, 207, 298, 213, 214, 203, 204, 208, 210, 206),
	unix.AUDIT_ARCH_ARM:    idCallsOf(212, 198, 207, 325, 213, 214, 203, 204, 208, 210, 206),
	// The generic numbers have neither chown nor lchown.
	unix.AUDIT_ARCH_AARCH64: idCallsOf(0, 0, 55, 54, 146, 144, 145, 143, 147, 149, 159),
	unix.AUDIT_ARCH_RISCV64: idCallsOf(0, 0, 55, 54, 146, 144, 145, 143, 147, 149, 159),
}

// idCallsOf are the calls of these numbers; 0: there is none.
func idCallsOf(chown, lchown, fchown, fchownat, setuid, setgid, setreuid, setregid, setresuid, setresgid, setgroups uint32) (calls []idCall) {
	for _, c := range []idCall{
		{number: chown, users: []int{1}, groups: []int{2}}, {number: lchown, users: []int{1}, groups: []int{2}},
		{number: fchown, users: []int{1}, groups: []int{2}}, {number: fchownat, users: []int{2}, groups: []int{3}},
		{number: setuid, users: []int{0}}, {number: setgid, groups: []int{0}},
		{number: setreuid, users: []int{0, 1}}, {number: setregid, groups: []int{0, 1}},
		{number: setresuid, users: []int{0, 1, 2}}, {number: setresgid, groups: []int{0, 1, 2}},
		{number: setgroups, setsGroups: true},
	} {
		if c.number != 0 {
			calls = append(calls, c)
		}
	}
	return calls
}

// ids are the user's own. -1 stands for no change (chown(2)).
type ids struct{ user, group uint32 }

const unchanged = ^uint32(0)

// filter has the calls wait whose ids are others than these.
func (own ids) filter(archs []instructionSet) (program []unix.SockFilter) {
	equal := func(k uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: skip, K: k}
	}
	for _, a := range archs {
		block := []unix.SockFilter{load(dataNumber)}
		for _, c := range idCalls[a.audit] {
			var look []unix.SockFilter
			other := func(args []int, id uint32) {
				for _, n := range args {
					look = append(look, load(dataArg0+8*uint32(n)), equal(unchanged, 2), equal(id, 1), ret(unix.SECCOMP_RET_USER_NOTIF))
				}
			}
			other(c.users, own.user)
			other(c.groups, own.group)
			last := ret(unix.SECCOMP_RET_ALLOW)
			if c.setsGroups {
				last = ret(unix.SECCOMP_RET_USER_NOTIF)
			}
			block = append(block, when(c.number, append(look, last)...)...)
		}
		block = append(block, ret(unix.SECCOMP_RET_ALLOW))
		program = append(program, load(dataArch))
		program = append(program, when(a.audit, block...)...)
	}
	return append(program, ret(unix.SECCOMP_RET_ALLOW))
}

// judgeIDs has calls of the calling thread, and of all that it starts, that are about other
// ids judged by this process, until it ends. refused hears of what was refused, once each, and must not wait.
// Where the kernel cannot do that, or another listens to the app's calls, they are as the
// kernel has them.
func judgeIDs(refused func(Refused)) error {
	own := ids{uint32(os.Getuid()), uint32(os.Getgid())}
	single := !IsMapped(65534) && own.user != 65534 // of all ids, none but the user's
	if !single && own.user != 0 {
		return nil // the kernel says EPERM
	}
	program := own.filter(instructionSets[runtime.GOARCH])
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(program)
	switch {
	case e == unix.EINVAL, e == unix.EBUSY:
		return nil
	case e != 0:
		return fmt.Errorf("listen for calls with ids: %w", e)
	}
	if refused == nil {
		refused = func(Refused) {}
	}
	l := &idListener{fd: fd, own: own, single: single, refused: refused, said: map[Refused]bool{}}
	OnThread(l.run)
	return nil
}

// idListener judges the calls.
type idListener struct {
	fd      uintptr
	own     ids
	single  bool // only these ids are mapped; else all that matter
	refused func(Refused)
	said    map[Refused]bool
}

// notification and response are struct seccomp_notif and seccomp_notif_resp (linux/seccomp.h).
type notification struct {
	id         uint64
	pid, flags uint32
	number     int32
	arch       uint32
	pointer    uint64
	args       [6]uint64
}

type response struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

const (
	notifReceive  = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
	notifSend     = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
	notifContinue = 1          // SECCOMP_USER_NOTIF_FLAG_CONTINUE
)

// run judges until nobody is left who could call.
func (l *idListener) run() {
	defer unix.Close(int(l.fd))
	for {
		poll := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err != nil && !errors.Is(err, unix.EINTR) || poll[0].Revents&unix.POLLHUP != 0 {
			return
		}
		var n notification
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, l.fd, notifReceive, uintptr(unsafe.Pointer(&n))); e != 0 {
			continue // it was interrupted, or has ended
		}
		r := response{id: n.id, flags: notifContinue}
		if l.single && l.inNamespace(n.pid) && !l.sets(n) {
			r.errno, r.flags = -int32(unix.EPERM), 0
		}
		// Before it goes on: it may be the last that the program does.
		if what := l.refusal(n); what != 0 && !l.said[what] && l.inNamespace(n.pid) {
			l.said[what] = true
			l.refused(what)
		}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, l.fd, notifSend, uintptr(unsafe.Pointer(&r))) // an error: it has ended
	}
}

// call is what was called; nil: none of these.
func (n notification) call() *idCall {
	for _, c := range idCalls[n.arch] {
		if c.number == uint32(n.number) {
			return &c
		}
	}
	return nil
}

// sets tells setgroups(2), which the kernel refuses by itself.
func (l *idListener) sets(n notification) bool {
	c := n.call()
	return c == nil || c.setsGroups
}

// refusal is what a call is refused that users wonder about; 0: none.
func (l *idListener) refusal(n notification) Refused {
	c := n.call()
	switch {
	case c == nil:
		return 0
	case l.own.user == 0:
		return Capability
	case len(c.users) == 1 && len(c.groups) == 1: // chown(2)
		if user := uint32(n.args[c.users[0]]); user == unchanged || user == l.own.user {
			return Group
		}
	}
	return 0
}

// inNamespace tells whether a process, as /proc numbers it, is in the app's own user
// namespace, which is this process's, too.
func (l *idListener) inNamespace(pid uint32) bool {
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", pid))
	own, ownErr := os.Readlink("/proc/self/ns/user")
	return err == nil && ownErr == nil && theirs == own
}

// IsMapped tells whether a user id means something in this user namespace.
func IsMapped(id int) bool {
	content, _ := os.ReadFile("/proc/self/uid_map")
	for line := range strings.Lines(string(content)) {
		var first, outside, count int
		if _, err := fmt.Sscan(line, &first, &outside, &count); err == nil && id >= first && id-first < count {
			return true
		}
	}
	return false
}
