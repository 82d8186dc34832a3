package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func init() {
	probes["close"] = probeClose
}

// probeClose talks to a server in the way that args[0] says.
func probeClose(args []string) error {
	c, err := net.Dial("tcp", args[1])
	if err != nil {
		return err
	}
	tcp := c.(*net.TCPConn)
	switch args[0] {
	case "half": // ends its direction, and still reads the other
		if _, err := io.WriteString(c, "question"); err != nil {
			return err
		}
		if err := tcp.CloseWrite(); err != nil {
			return err
		}
		b, err := io.ReadAll(c)
		fmt.Printf("%s %v\n", b, err)
	case "reset": // resets
		_, _ = io.WriteString(c, "x")
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // the server has it
			return err
		}
		_ = tcp.SetLinger(0)
	case "read":
		if _, err := io.WriteString(c, "x"); err != nil {
			return err
		}
		b, err := io.ReadAll(c)
		fmt.Printf("%s %v\n", b, errors.Is(err, unix.ECONNRESET))
	}
	return c.Close()
}

// Half-close is kept, and a reset is passed on as one, in both directions.
func TestEnds(t *testing.T) {
	both(t, func(w *world) {
		ended := make(chan error, 1)
		w.example.ServeTCP(1001, func(c net.Conn) {
			b, err := io.ReadAll(c) // until the app ends its direction
			fmt.Fprintf(c, "answer to %s %v", b, err)
		})
		w.example.ServeTCP(1002, func(c net.Conn) {
			b := make([]byte, 1)
			_, _ = c.Read(b)
			_, _ = c.Write(b)
			_, err := c.Read(b)
			ended <- err
		})
		w.example.ServeTCP(1003, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1))
			_ = c.(*net.TCPConn).SetLinger(0)
		})
		w.example.ServeTCP(1004, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1))
			_, _ = io.WriteString(c, "whole")
		})
		close := func(how, port string) string {
			return w.ok(w.run(append([]string{"--allow", "example.com", "--"}, probing("close", how, "example.com:"+port)...)...))
		}
		if out := close("half", "1001"); out != "answer to question <nil> <nil>\n" {
			t.Errorf("half-close: %q", out)
		}
		close("reset", "1002")
		if err := <-ended; !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the app's reset came as %v", err)
		}
		if out := close("read", "1003"); !strings.HasSuffix(out, "true\n") {
			t.Errorf("the server's reset: %q", out)
		}
		if out := close("read", "1004"); out != "whole false\n" {
			t.Errorf("the server's end: %q", out)
		}
	})
}

func descriptors(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// child is the one child of a process.
func child(t *testing.T, pid int) int {
	t.Helper()
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		var child int
		if _, err := fmt.Sscan(string(b), &child); err == nil {
			return child
		}
	}
	t.Fatalf("process %d has no child", pid)
	return 0
}
