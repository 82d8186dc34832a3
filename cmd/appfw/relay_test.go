package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	probes["close"] = probeClose
	probes["idle"] = probeIdle
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

// probeIdle opens connections, says so, waits for a line, and closes them.
func probeIdle(args []string) error {
	var n int
	if _, err := fmt.Sscan(args[1], &n); err != nil {
		return err
	}
	var conns []net.Conn
	for range n {
		c, err := net.Dial("tcp", args[0])
		if err != nil {
			return fmt.Errorf("after %d connections: %w", len(conns), err)
		}
		conns = append(conns, c)
	}
	fmt.Println("open")
	var line string
	_, _ = fmt.Scanln(&line)
	for _, c := range conns {
		c.Close()
	}
	fmt.Println("closed")
	_, _ = fmt.Scanln(&line)
	return nil
}

// Ten thousand idle connections cost bounded memory, and leave nothing.
func TestIdleConnections(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	conns := int(min(10_000, (limit.Max-500)/2)) // a connection has two descriptors in the gateway
	w := newWorld(t)
	w.user = w.Ordinary()
	var mu sync.Mutex
	var held []net.Conn
	for port := range 2 { // the host has 28,000 ephemeral ports a destination
		w.example.ServeTCP(2001+port, func(c net.Conn) {
			mu.Lock()
			held = append(held, c)
			mu.Unlock()
			_, _ = c.Read(make([]byte, 1))
		})
	}
	c := w.Command(t.Context(), w.user, program, append([]string{"run", "--allow", "11.22.0.10", "--allow", "example.com", "--"}, probing("idle", "11.22.0.10:2001", fmt.Sprint(conns))...)...)
	stdin, _ := c.StdinPipe()
	stdout, _ := c.StdoutPipe()
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		b := make([]byte, 200)
		if n, err := stdout.Read(b); string(b[:n]) != want {
			t.Fatalf("the app said %q, %v", b[:n], err)
		}
	}
	expect("open\n")
	gateway := child(t, c.Process.Pid)
	if kb := residentKB(t, gateway); kb > memoryLimitKB {
		t.Errorf("%d connections: %d KiB resident", conns, kb)
	} else {
		t.Logf("%d connections: %d KiB resident", conns, kb)
	}
	fmt.Fprintln(stdin)
	expect("closed\n")
	deadline := time.Now().Add(30 * time.Second)
	for descriptors(t, gateway) > 100 {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors are left", descriptors(t, gateway))
		}
	}
	fmt.Fprintln(stdin)
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
}

func descriptors(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func residentKB(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	var kb int
	if _, err := fmt.Sscan(after, &kb); err != nil {
		t.Fatal(err)
	}
	return kb
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
