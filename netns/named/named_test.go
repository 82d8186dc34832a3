package named

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"appfw/netns"
)

func TestMain(m *testing.M) {
	if InOwner() { // started by TestOwner
		namespace, _ := os.Readlink("/proc/self/ns/user")
		fmt.Print(namespace, " ", os.Args[1:])
		return
	}
	os.Exit(m.Run())
}

func TestPath(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "a\x00b", strings.Repeat("a", 256)} {
		if path, err := Path(name); err == nil || !strings.HasSuffix(err.Error(), "is no name of a namespace") {
			t.Errorf("%q: %q, %v", name, path, err)
		}
		if _, err := Make(name); err == nil {
			t.Errorf("%q was made", name)
		}
		if Delete(name) == nil {
			t.Errorf("%q was deleted", name)
		}
	}
	if path, err := Path("a b"); path != "/run/netns/a b" || err != nil {
		t.Errorf("%q, %v", path, err)
	}
}

func TestIsNamespace(t *testing.T) {
	for path, want := range map[string]bool{"/proc/self/ns/net": true, "/proc/self/stat": false, "/nowhere": false} {
		if got := IsNamespace(path); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}

// Needs root.
func TestNamed(t *testing.T) {
	name := fmt.Sprintf("appfw-named-%d", os.Getpid())
	path, err := Make(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = Delete(name)
		_ = RemoveFiles(name)
	})
	inode := func() uint64 {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || !IsNamespace(path) {
			t.Fatalf("%s is no namespace: %v", path, err)
		}
		return st.Ino
	}
	first := inode()
	if _, err := Make(name); err != nil || inode() != first {
		t.Errorf("made again, it is another one: %v", err)
	}
	for range 2 {
		if err := WriteFiles(name, map[string][]byte{"/etc/hosts": []byte("text")}); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile("/etc/netns/" + name + "/hosts"); string(b) != "text" || FilesDir(name) != "/run/appfw/netns/"+name {
		t.Errorf("programs would see %q, %v", b, err)
	}

	ns, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if _, err := ns.Take(); err != nil {
		t.Fatal(err)
	}
	err = Delete(name)
	if served, ok := errors.AsType[*ServedError](err); !ok || served.Path != path || err.Error() != path+": another appfw has this namespace already" {
		t.Errorf("deleted though it is served: %v", err)
	}
	if err := ns.Leave(); err != nil {
		t.Fatal(err)
	}
	if err := Delete(name); err != nil {
		t.Error(err)
	}
	if err := Delete(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("deleted twice: %v", err)
	}
	// A file that was left is another namespace's, made anew.
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if _, err := Make(name); err != nil {
		t.Error(err)
	}
	inode()
	if err := errors.Join(Delete(name), RemoveFiles(name)); err != nil {
		t.Error(err)
	}
	for _, left := range []string{path, FilesDir(name), "/etc/netns/" + name} {
		if _, err := os.Lstat(left); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", left, err)
		}
	}
}

func TestOwner(t *testing.T) {
	owner := func(pid int) *Owner {
		t.Helper()
		file, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		o, err := OwnerOf(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { o.Close() })
		return o
	}
	if !owner(os.Getpid()).IsOurs() {
		t.Error("this process's namespace is another's")
	}
	cat := exec.Command("cat")
	stdin, err := cat.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cat.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stdin.Close(); _ = cat.Wait() }()
	theirs := owner(cat.Process.Pid)
	if theirs.IsOurs() {
		t.Error("another's namespace is this process's")
	}
	want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", cat.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	got, err := theirs.Command("a", "b c").Output()
	if err != nil || string(got) != want+" [a b c]" {
		t.Errorf("in there: %s, %v; want %s", got, err, want)
	}
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := OwnerOf(file); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("of /dev/null: %v", err)
	}
}
