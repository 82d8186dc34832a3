package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"appfw/netns/signals"
)

// Command is the app to start. It gets these files as descriptors 0 to 2, those of Kept,
// and no other descriptor.
type Command struct {
	Args  []string // Args[0] is looked up in the PATH of Env
	Env   []string
	Dir   string // absolute
	Files [3]*os.File
	Kept  map[int]*os.File // by the number in the app; closed here, once the app has them

	// View gives the calling thread the app's view of the host's files, in a mount
	// namespace of its own. It is called in the app's network namespace, before the
	// thread is confined. nil: the app sees what this process sees.
	View interface{ Mount() error }

	// Scope keeps the app's signals within its run, see [OpenScope]. nil: they reach
	// all that its user's signals reach.
	Scope *os.File

	// Refused hears of what the app was refused that it may be without appfw, once each.
	// It may be nil.
	Refused func(Refused)

	// Begun is called when the app may run from here on. It may be nil.
	Begun func()

	Ignored   signals.Set // by the app, as nohup(1) does it
	OpenFiles unix.Rlimit // see [OpenFilesLimit]
}

// Child is a process that was started here.
type Child struct {
	PID    int
	Handle *os.File // its pidfd, by which signals reach no other process (pidfd_send_signal(2))
}

// ExecError says that the app itself could not be started, as opposed to its
// isolation.
type ExecError struct {
	Name string
	Err  error
}

func (e *ExecError) Error() string { return fmt.Sprintf("%s: %v", e.Name, e.Err) }
func (e *ExecError) Unwrap() error { return e.Err }

// DirError says that the app's user cannot be in its working directory.
type DirError struct {
	Dir string
	Err error
}

func (e *DirError) Error() string { return fmt.Sprintf("enter the directory %s: %v", e.Dir, e.Err) }
func (e *DirError) Unwrap() error { return e.Err }

// Start starts the command in the namespace, confined: without capabilities and
// without a way to get any. It is a child of this process and in its process
// group, and it is killed when this process ends, however that is. Errors of the
// command itself are an [*ExecError]; on all others, such as a [*DirError], nothing
// was run.
func (ns *Namespace) Start(c Command) (child *Child, err error) {
	done := make(chan struct{})
	OnThread(func() {
		child, err = c.start(ns)
		close(done)
		if err == nil {
			select {} // the child ends with this thread (PR_SET_PDEATHSIG of prctl(2))
		}
	})
	<-done
	return child, err
}

func (c Command) start(ns *Namespace) (*Child, error) {
	if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter the app's network namespace: %w", err)
	}
	permit()
	if c.View != nil {
		if err := c.View.Mount(); err != nil {
			return nil, err
		}
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // the process keeps its working directory
		return nil, fmt.Errorf("unshare working directory: %w", err)
	}
	if err := confine(); err != nil {
		return nil, err
	}
	if err := judgeIDs(c.Refused); err != nil {
		return nil, err
	}
	// The working directory is found anew: the old one lies under the mounts.
	if err := unix.Chdir(c.Dir); err != nil {
		return nil, &DirError{c.Dir, err}
	}
	if c.Refused != nil && os.Geteuid() == 0 && errors.Is(unix.Faccessat(unix.AT_FDCWD, ".", unix.W_OK, unix.AT_EACCESS), unix.EACCES) {
		c.Refused(Directory)
	}
	path, err := lookPath(c.Args[0], c.Env)
	if err != nil {
		return nil, &ExecError{c.Args[0], err}
	}
	return c.execute(path)
}

// permit lets the app do in its own namespace what needs no capability on most
// hosts: send echo requests (icmp(7)), and what root expects: bind ports below
// 1024 (ip(7)). Where /proc/sys cannot be written, it has to do without.
func permit() {
	gid := os.Getegid()
	_ = os.WriteFile("/proc/sys/net/ipv4/ping_group_range", fmt.Appendf(nil, "%d %d", gid, gid), 0)
	_ = os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0)
	_ = os.WriteFile("/proc/sys/net/ipv4/tcp_congestion_control", []byte("reno"), 0) // see reno
}

// lookPath finds a program as execvp(3) does, with the rights of the calling
// thread: the first that is executable, or why the best candidate is not.
func lookPath(name string, env []string) (string, error) {
	if name == "" {
		return "", fs.ErrNotExist
	}
	if strings.Contains(name, "/") {
		return name, executable(name)
	}
	path := "/usr/local/bin:/usr/bin:/bin"
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	missing := error(fs.ErrNotExist)
	for _, dir := range filepath.SplitList(path) {
		candidate := filepath.Join(dir, name)
		if dir == "" || dir == "." {
			candidate = "./" + name
		}
		if _, err := os.Stat(candidate); err != nil {
			continue // also where the directory may not be searched
		}
		err := executable(candidate)
		if err == nil {
			return candidate, nil
		}
		missing = err
	}
	return "", missing
}

func executable(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EISDIR
	}
	return unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS)
}
