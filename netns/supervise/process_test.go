package supervise

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestCheckInherited(t *testing.T) {
	socket := func(domain, kind int) *os.File {
		t.Helper()
		fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "it")
		t.Cleanup(func() { f.Close() })
		return f
	}
	pair := func(kind int) *os.File {
		t.Helper()
		fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fds[0]), "it")
		t.Cleanup(func() { f.Close(); unix.Close(fds[1]) })
		return f
	}
	open := func(name string) *os.File {
		t.Helper()
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	closed := open(os.DevNull)
	closed.Close()
	const isSocket = "it is a socket, by which the program would reach the network; put a pipe before it: cat | appfw run … | cat"
	for _, tt := range []struct {
		what string
		file *os.File
		want string
	}{
		{"a directory", open("/"), "/ is a directory, by which the program would see files that are hidden from it; redirect it"},
		{"TCP", socket(unix.AF_INET, unix.SOCK_STREAM), isSocket},
		{"UDP", socket(unix.AF_INET, unix.SOCK_DGRAM), isSocket},
		{"a stream that is not connected", socket(unix.AF_UNIX, unix.SOCK_STREAM), isSocket},
		{"a pair of datagrams", pair(unix.SOCK_DGRAM), isSocket},
		{"a pair of streams", pair(unix.SOCK_STREAM), "<nil>"},
		{"a device", open(os.DevNull), "<nil>"},
		{"closed", closed, "<nil>"},
	} {
		if got := fmt.Sprint(checkInherited(tt.file)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.what, got, tt.want)
		}
	}
}

func TestProcess(t *testing.T) {
	cat := exec.Command("cat")
	stdin, err := cat.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	open := func() (*Process, chan bool) {
		t.Helper()
		p, err := OpenProcess(cat.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan bool)
		go func() { ended <- p.Ended() }()
		return p, ended
	}
	forgotten, given := open()
	waited, ended := open()
	defer waited.Close()
	select {
	case <-ended:
		t.Error("it has ended")
	case <-time.After(10 * time.Millisecond):
	}
	if !waited.Lives() {
		t.Error("it does not live")
	}
	forgotten.Close()
	if <-given {
		t.Error("what was closed has ended")
	}
	stdin.Close()
	if !<-ended {
		t.Error("its end was not seen")
	}
	if waited.Lives() || forgotten.Lives() {
		t.Error("it lives on")
	}
	_ = cat.Wait()
	if _, err := OpenProcess(cat.Process.Pid); !errors.Is(err, unix.ESRCH) {
		t.Errorf("one that is gone: %v", err)
	}
}

func TestFollow(t *testing.T) {
	c := exec.Command("sh", "-c", `trap 'exit 5' USR2; echo ready; while :; do sleep 0.01; done`)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = bufio.NewReader(out).ReadString('\n')
		_ = unix.Kill(os.Getpid(), unix.SIGUSR2)
	}()
	if e, err := Follow(c, unix.SIGUSR2); err != nil || e != (Ending{Code: 5}) {
		t.Error(e, err)
	}
	if e, err := Follow(exec.Command("sh", "-c", "kill -TERM $$")); err != nil || e != (Ending{Signal: unix.SIGTERM}) {
		t.Error(e, err)
	}
	if _, err := Follow(exec.Command("/nowhere")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
