package internet_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/testdata/internet"
)

// traces is by what the things are known that a test has made: whatever else is on the machine, and comes and goes
// meanwhile, has none of it.
type traces struct {
	t        *testing.T
	dir      string // TMPDIR: all files are in it, and the paths of all of them begin with it
	children map[string]bool
	held     map[string]*os.File // its namespaces; an open one's number is given to no other
}

// newTraces makes a directory for what the test makes, and looks at what is there before.
func newTraces(t *testing.T) *traces {
	t.Helper()
	dir, err := os.MkdirTemp("", "appfw-leftovers-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // as /tmp is
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	return &traces{t, dir, children(), map[string]*os.File{}}
}

// hold has the namespaces looked for that a process is in.
func (l *traces) hold(whose string, pid int, kinds ...string) {
	l.t.Helper()
	for _, kind := range kinds {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			l.t.Fatal(err)
		}
		l.t.Cleanup(func() { _ = f.Close() })
		l.held[whose+" "+kind] = f
	}
}

// find lists what is there.
func (l *traces) find() (found []string) {
	l.t.Helper()
	files, err := os.ReadDir(l.dir)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, f := range files {
		found = append(found, "file "+f.Name())
	}
	for pid := range children() {
		if !l.children[pid] {
			found = append(found, "child "+pid)
		}
	}
	spaces := map[string]string{}
	for name, f := range l.held {
		link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if err != nil {
			l.t.Fatal(err)
		}
		spaces[link] = name
	}
	// A process may end at any time: what cannot be read of it is none.
	tasks, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*")
	for _, task := range tasks {
		for _, kind := range []string{"net", "mnt"} {
			if link, _ := os.Readlink(task + "/ns/" + kind); spaces[link] != "" {
				found = append(found, fmt.Sprintf("%s, in %s", task, spaces[link]))
			}
		}
		for _, file := range []string{"mountinfo", "environ", "cmdline"} {
			if b, _ := os.ReadFile(filepath.Join(task, file)); strings.Contains(string(b), l.dir) {
				found = append(found, fmt.Sprintf("%s, by its %s", task, file))
			}
		}
	}
	return found
}

// children are the processes that this one has not waited for.
func children() map[string]bool {
	found := map[string]bool{}
	files, _ := filepath.Glob("/proc/self/task/*/children")
	for _, file := range files {
		b, _ := os.ReadFile(file)
		for pid := range strings.FieldsSeq(string(b)) {
			found[pid] = true
		}
	}
	return found
}

// populate makes an internet with processes in all its corners, also in namespaces of their own, and leaves them to
// cleanup.
func (l *traces) populate(t *testing.T) {
	n := internet.New(t)
	succeed(t, n, n.Root(), "sh", "-c", "sleep 1001 >/dev/null 2>&1 & unshare -nm sleep 1002 >/dev/null 2>&1 &")
	c := n.Command(t.Context(), n.Ordinary(), "sleep", "1003")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	server := n.Server("sh", "-c", "sleep 1004 & exec sleep 1005")
	other := n.ServerWithFiles(nil, "sleep", "1006")
	if p := n.Processes(); len(p) < 3 {
		t.Errorf("processes: %v", p)
	}
	l.hold("the host's", c.Process.Pid, "net", "mnt")
	l.hold("the servers'", server.Process.Pid, "net")
	l.hold("the other server's", other.Process.Pid, "mnt")
	if found := strings.Join(l.find(), "\n"); strings.Count(found, "\n") < 10 {
		t.Errorf("of all this, it finds\n%s", found)
	}
}

func TestNoLeftovers(t *testing.T) {
	l := newTraces(t)
	t.Run("internet", l.populate)
	if found := l.find(); len(found) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(found, "\n"))
	}
}

// What is left behind is found, each by itself.
func TestLeftovers(t *testing.T) {
	l := newTraces(t)
	t.Run("internet", l.populate)
	sleep := func(env []string, command ...string) func() {
		c := exec.Command(command[0], append(command[1:], "sleep", "1007")...)
		c.Env, c.ExtraFiles = append(os.Environ(), env...), []*os.File{l.held["the host's net"], l.held["the host's mnt"], l.held["the other server's mnt"]}
		c.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		return func() {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	}
	for _, c := range []struct {
		name  string
		leave func() (undo func())
		want  string
	}{
		{"file", func() func() {
			f, err := os.CreateTemp("", "left-")
			if err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
			return func() { _ = os.Remove(f.Name()) }
		}, "file left-"},
		{"child", func() func() { return sleep([]string{"TMPDIR=/tmp"}, "env") }, "child "},
		{"process in a network", func() func() { return sleep(nil, "nsenter", "--net=/proc/self/fd/3") }, "in the host's net"},
		{"process in a mount namespace", func() func() { return sleep(nil, "nsenter", "--mount=/proc/self/fd/5") }, "in the other server's mnt"},
		{"process in a copy of a mount namespace", func() func() {
			return sleep([]string{"TMPDIR=/tmp"}, "nsenter", "--mount=/proc/self/fd/4", "unshare", "--mount")
		}, "by its mountinfo"},
		{"process with the environment of one there", func() func() { return sleep([]string{"HOME=" + l.dir + "/x"}, "env") }, "by its environ"},
		{"thread", func() func() {
			entered, leave, left := make(chan error), make(chan bool), make(chan bool)
			go func() {
				defer close(left)
				runtime.LockOSThread() // and never unlocked: it ends with the goroutine
				home, err := os.Open("/proc/thread-self/ns/net")
				if err == nil {
					err = unix.Setns(int(l.held["the servers' net"].Fd()), unix.CLONE_NEWNET)
				}
				entered <- err
				<-leave
				_ = unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)
				_ = home.Close()
			}()
			if err := <-entered; err != nil {
				t.Fatal(err)
			}
			return func() { close(leave); <-left }
		}, "in the servers' net"},
	} {
		undo := c.leave()
		has := func() bool {
			return slices.ContainsFunc(l.find(), func(line string) bool { return strings.Contains(line, c.want) })
		}
		for late := time.Now().Add(10 * time.Second); !has(); time.Sleep(time.Millisecond) {
			if time.Now().After(late) {
				t.Errorf("%s: not found", c.name)
				break
			}
		}
		undo()
		if found := l.find(); len(found) > 0 {
			t.Errorf("%s: still there:\n%s", c.name, strings.Join(found, "\n"))
		}
	}
}
