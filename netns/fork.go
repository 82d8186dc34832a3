package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"appfw/netns/signals"
)

// syscall.ForkExec does not do between fork(2) and execve(2) what has to be done there:
// enter a scope of Landlock, which a thread of this process must not, as the app could
// then send signals to it, and so to the whole process; and ignore signals that this
// process does not ignore. The three functions are the ones by which it tells Go's
// runtime; others may use them, too (go.dev/issue/67401).

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// image is what a child of this thread executes, and as what. All of it is made before
// fork(2): after it, a child of a process with threads allocates nothing.
type image struct {
	path, shell     *byte
	args, shellArgs []*byte // both end with nil
	env             []*byte
	files           []passed // of the child
	scope           int      // of Landlock; -1: none
	openFiles       unix.Rlimit
	parent          int
	ignored         signals.Set

	report int       // the pipe where the child says what failed; close-on-exec
	failed [8]byte   // that: step and errno
	pidfd  int32     // of the child
	action [4]uint64 // struct sigaction of the kernel's
}

// passed is a descriptor of the child, and what becomes it: close-on-exec, and of no
// number that one of the child's has.
type passed struct{ to, from int }

// Steps of a child, for what failed.
const (
	stepParent = iota
	stepSignals
	stepLimit
	stepScope
	stepFiles
	stepExec
)

var stepNames = [...]string{
	stepParent: "end with the gateway", stepSignals: "set up signals", stepLimit: "limit open files",
	stepScope: "keep signals within the run (landlock_restrict_self)", stepFiles: "pass descriptors",
}

// fork starts the image. The child ends when the calling thread does.
//
// From beforeFork on, it is as forkAndExecInChild1 of package syscall: the child calls
// nothing that could grow the stack. Unlike there, it has its own memory: what its calls
// leave on the stack does not matter to the parent.
//
//go:noinline
//go:norace
func (c *image) fork() (pid int, err syscall.Errno) {
	var e syscall.Errno
	var r uintptr
	var step, i int
	beforeFork()
	r, _, e = syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD)|unix.CLONE_PIDFD, 0, uintptr(unsafe.Pointer(&c.pidfd)), 0, 0, 0)
	if e != 0 || r != 0 {
		afterFork()
		return int(r), e
	}

	afterForkInChild()
	step = stepParent
	_, _, e = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	if e != 0 {
		goto fail
	}
	if r, _, _ = syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); int(r) != c.parent {
		e = unix.ESRCH // it had ended before
		goto fail
	}
	step = stepSignals
	for i = 1; i <= int(signals.Last); i++ {
		if i == int(unix.SIGKILL) || i == int(unix.SIGSTOP) {
			continue
		}
		c.action[0] = uint64(c.ignored>>(i-1)) & 1 // SIG_DFL is 0, SIG_IGN is 1
		_, _, e = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(i), uintptr(unsafe.Pointer(&c.action)), 0, 8, 0, 0)
		if e != 0 {
			goto fail
		}
	}
	if c.scope >= 0 {
		step = stepScope
		_, _, e = syscall.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(c.scope), 0, 0)
		if e != 0 {
			goto fail
		}
	}
	step = stepFiles
	for i = 0; i < len(c.files); i++ {
		_, _, e = syscall.RawSyscall(unix.SYS_DUP3, uintptr(c.files[i].from), uintptr(c.files[i].to), 0)
		if e != 0 {
			goto fail
		}
	}
	step = stepLimit // it may be below the numbers of descriptors
	_, _, e = syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&c.openFiles)), 0, 0, 0)
	if e != 0 {
		goto fail
	}
	step = stepExec
	_, _, e = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(c.path)), uintptr(unsafe.Pointer(&c.args[0])), uintptr(unsafe.Pointer(&c.env[0])))
	if e == unix.ENOEXEC { // a script without "#!" is run by the shell, as execvp(3) does
		_, _, e = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(c.shell)), uintptr(unsafe.Pointer(&c.shellArgs[0])), uintptr(unsafe.Pointer(&c.env[0])))
	}
fail:
	c.failed[0], c.failed[4], c.failed[5] = byte(step), byte(e), byte(e>>8)
	_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, uintptr(c.report), uintptr(unsafe.Pointer(&c.failed)), uintptr(len(c.failed)))
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 253, 0, 0)
	}
}

// pass makes ready what becomes the descriptors of the child. release closes it here, and
// what the child has kept.
func (c *image) pass(command Command) (release func(), err error) {
	for to := range command.Kept {
		c.files = append(c.files, passed{to, -1})
	}
	for to := range command.Files {
		c.files = append(c.files, passed{to, -1})
	}
	release = func() {
		for _, p := range c.files {
			unix.Close(p.from)
		}
		for _, f := range command.Kept {
			f.Close()
		}
	}
	for i, p := range c.files {
		file := command.Kept[p.to]
		if p.to < len(command.Files) {
			file = command.Files[p.to]
		}
		if c.files[i].from, err = c.beside(file); err != nil {
			return release, err
		}
	}
	return release, nil
}

// beside duplicates a file to a descriptor that has no number of the child's.
func (c *image) beside(f *os.File) (fd int, err error) {
	for next := 3; ; next = fd + 1 {
		if fd, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, next); err != nil {
			return -1, fmt.Errorf("pass %s: %w", f.Name(), err)
		}
		if !slices.ContainsFunc(c.files, func(p passed) bool { return p.to == fd }) {
			return fd, nil
		}
		unix.Close(fd)
	}
}

// execute has a child of the calling thread execute a program, and returns when it has,
// or cannot: an [*ExecError] then, if that is the program's fault. The child ends when the
// thread does.
func (c Command) execute(path string) (*Child, error) {
	m := &image{scope: -1, openFiles: c.OpenFiles, parent: os.Getpid(), ignored: c.Ignored}
	if c.Scope != nil {
		m.scope = int(c.Scope.Fd())
	}
	var errs [5]error
	m.path, errs[0] = unix.BytePtrFromString(path)
	m.shell, errs[1] = unix.BytePtrFromString("/bin/sh")
	m.args, errs[2] = syscall.SlicePtrFromStrings(c.Args)
	m.shellArgs, errs[3] = syscall.SlicePtrFromStrings(append([]string{"sh", path}, c.Args[1:]...))
	m.env, errs[4] = syscall.SlicePtrFromStrings(c.Env)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, &ExecError{c.Args[0], err}
	}
	release, err := m.pass(c)
	defer release()
	if err != nil {
		return nil, err
	}
	hear, say, err := os.Pipe() // close-on-exec
	if err != nil {
		return nil, err
	}
	defer hear.Close()
	m.report, err = m.beside(say)
	say.Close()
	if err != nil {
		return nil, err
	}
	if c.Begun != nil {
		c.Begun()
	}
	syscall.ForkLock.Lock()
	pid, errno := m.fork()
	syscall.ForkLock.Unlock()
	unix.Close(m.report)
	if errno != 0 {
		return nil, fmt.Errorf("fork: %w", errno)
	}
	handle := os.NewFile(uintptr(m.pidfd), "app")
	if _, err := io.ReadFull(hear, m.failed[:]); err != nil {
		return &Child{pid, handle}, nil // it was closed by execve(2)
	}
	handle.Close()
	for {
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != syscall.EINTR {
			break
		}
	}
	errno = syscall.Errno(binary.LittleEndian.Uint16(m.failed[4:]))
	if m.failed[0] == stepExec {
		return nil, &ExecError{c.Args[0], errno}
	}
	return nil, fmt.Errorf("%s: %w", stepNames[m.failed[0]], errno)
}

// OpenFilesLimit is the limit of open files that this process was started with. Go's
// runtime raises it at once, for this process, and has package syscall restore it when
// it executes something: so that does not come to pass, but the limit is restored. It is
// called early, as it is that low for a moment; then it is as high as may be.
func OpenFilesLimit() (limit unix.Rlimit, err error) {
	_ = syscall.Exec("", nil, nil) // there is no such file
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return limit, fmt.Errorf("limit of open files: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit.Max, Max: limit.Max}); err != nil {
		return limit, fmt.Errorf("raise the limit of open files: %w", err)
	}
	return limit, nil
}
