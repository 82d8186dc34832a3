package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/testdata/internet"
)

func TestExitCodes(t *testing.T) {
	both(t, func(w *world) {
		dir := w.user.Home
		write := func(name, content string, mode os.FileMode) string {
			path := dir + "/" + name
			if err := os.WriteFile(path, []byte(content), mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			return path
		}
		for _, c := range []struct {
			args []string
			code int
			says string
		}{
			{[]string{"--", "true"}, 0, ""},
			{[]string{"true"}, 0, ""},
			{[]string{"--", "sh", "-c", "exit 42"}, 42, ""},
			{[]string{"--", "sh", "-c", "kill -9 $$"}, 137, ""},
			{[]string{"--", "sh", "-c", "kill -TERM $$"}, 143, ""},
			{[]string{"--", "nosuchprogram"}, 127, "appfw: nosuchprogram: file does not exist"},
			{[]string{"--", "/nosuch/program"}, 127, "no such file"},
			{[]string{"--", write("plain", "x", 0o644)}, 126, "permission denied"},
			{[]string{"--", dir}, 126, "is a directory"},
			{[]string{"--", write("noshebang", "exit 5\n", 0o755)}, 5, ""},
			{[]string{"--", write("nointerpreter", "#!/nosuch/sh\n", 0o755)}, 127, "nointerpreter: no such file or directory"},
			{[]string{"--", write("script", "#!/bin/sh\nexit 6\n", 0o755)}, 6, ""},
			{[]string{}, 125, "no command to run"},
			{[]string{"--alow", "x", "--", "true"}, 125, "unknown flag: --alow"},
			{[]string{"--allow", "", "--", "true"}, 125, "empty destination"},
			{[]string{"--allow", "localhst", "--", "true"}, 125, "did you mean localhost"},
			{[]string{"--policy", "/nosuch/file", "--", "true"}, 125, "no such file"},
			{[]string{"--log", "/nosuch/file", "--", "true"}, 125, "--log: open /nosuch/file: no such file or directory"},
		} {
			r := w.run(c.args...)
			if r.code != c.code || !strings.Contains(r.stderr, c.says) || c.says == "" && r.stderr != "" {
				t.Errorf("%q: exit code %d, want %d; stderr: %s", c.args, r.code, c.code, r.stderr)
			}
		}
	})
}

// A signal that only appfw gets reaches the app.
func TestSignals(t *testing.T) {
	both(t, func(w *world) {
		for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGUSR1, unix.SIGQUIT, unix.SIGABRT, unix.SIGPWR, 37} {
			c := w.Command(t.Context(), w.user, program, "run", "--", "sh", "-c",
				`trap 'echo got; exit 9' TERM INT USR1 QUIT ABRT PWR 37; echo ready; while :; do sleep 0.05; done`)
			c.SysProcAttr.Setpgid = true
			stdout, err := c.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			read := func(want string) {
				b := make([]byte, 16)
				if n, _ := stdout.Read(b); string(b[:n]) != want {
					t.Errorf("%v: the app said %q, not %q", sig, b[:n], want)
				}
			}
			read("ready\n")
			if err := c.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			read("got\n")
			_ = c.Wait()
			if code := c.ProcessState.ExitCode(); code != 9 {
				t.Errorf("%v: exit code %d", sig, code)
			}
		}
		// What the caller ignores, the app ignores.
		r := w.finish(w.Command(t.Context(), w.user, "sh", "-c", `trap '' HUP INT; exec "$0" run -- grep SigIgn /proc/self/status`, program))
		if !strings.HasSuffix(strings.TrimSpace(r.stdout), "3") {
			t.Errorf("ignored signals: %s", r.stdout)
		}
	})
}

func init() {
	probes["interrupts"] = func([]string) error {
		c := make(chan os.Signal, 10)
		signal.Notify(c, os.Interrupt)
		fmt.Println("up")
		<-c
		fmt.Println("interrupted")
		var line string
		_, _ = fmt.Scanln(&line)
		fmt.Println("more:", len(c))
		return nil
	}
}

// terminal is a shell on a pseudo-terminal.
type terminal struct {
	t    *testing.T
	ptmx *os.File
	mu   sync.Mutex
	more *sync.Cond
	text bytes.Buffer
	gone bool
}

func newTerminal(t *testing.T, c *internet.Cmd) *terminal {
	t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(ptmx.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77})
	}
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	c.Stdin, c.Stdout, c.Stderr = tty, tty, tty
	c.SysProcAttr.Setsid, c.SysProcAttr.Setctty = true, true
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	term := &terminal{t: t, ptmx: ptmx}
	term.more = sync.NewCond(&term.mu)
	go term.read()
	t.Cleanup(func() { ptmx.Close() })
	return term
}

func (s *terminal) read() {
	b := make([]byte, 4096)
	for {
		n, err := s.ptmx.Read(b)
		s.mu.Lock()
		s.text.Write(b[:n])
		s.gone = err != nil
		s.mu.Unlock()
		s.more.Broadcast()
		if err != nil {
			return
		}
	}
}

// expect waits until what the terminal shows matches, and forgets it up to there.
func (s *terminal) expect(pattern string) {
	s.t.Helper()
	re := regexp.MustCompile(pattern)
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	defer context.AfterFunc(ctx, s.more.Broadcast)()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if at := re.FindIndex(s.text.Bytes()); at != nil {
			s.text.Next(at[1])
			return
		}
		if s.gone || ctx.Err() != nil {
			s.t.Fatalf("no %q on the terminal:\n%q", pattern, s.text.String())
		}
		s.more.Wait()
	}
}

func (s *terminal) send(keys string) {
	s.t.Helper()
	if _, err := s.ptmx.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

const (
	ctrlC         = "\x03"
	ctrlZ         = "\x1a"
	ctrlBackslash = "\x1c"
)

// The terminal, job control and interactive shells behave as without appfw.
func TestTerminal(t *testing.T) {
	both(t, func(w *world) {
		shell := w.Command(t.Context(), w.user, "bash", "--norc", "--noprofile", "-i")
		shell.Env = append(shell.Env, "PS1=$ ", "TERM=dumb", "APPFW="+program, "INPUTRC=/dev/null")
		s := newTerminal(t, shell)
		s.expect(`\$ $`)

		s.send("$APPFW run -- sh -c 'stty size; test -t 0 && test -t 1 && test -t 2 && echo tty'\n")
		s.expect(`\n33 77\r\ntty\r\n\$ $`)

		// Ctrl-C, once.
		s.send("$APPFW run -- " + strings.Join(probing("interrupts"), " ") + "\n")
		s.expect(`\nup\r\n`)
		s.send(ctrlC)
		s.expect(`interrupted\r\n`)
		s.send("x\n")
		s.expect(`\nmore: 0\r\n\$ $`)
		s.send("$APPFW run -- sh -c 'echo up; exec sleep 100'\n")
		s.expect(`\nup\r\n`)
		s.send(ctrlC)
		s.expect(`\$ $`)
		s.send("echo code=$?\n")
		s.expect(`\ncode=130\r\n\$ $`)
		s.send("$APPFW run -- sh -c 'echo up; exec sleep 100'\n")
		s.expect(`\nup\r\n`)
		s.send(ctrlBackslash)
		s.expect(`\$ $`)
		s.send("echo code=$?\n")
		s.expect(`\ncode=131\r\n\$ $`)

		// Ctrl-Z, fg, bg.
		s.send("$APPFW run -- sh -c 'echo up; read x; echo got $x'\n")
		s.expect(`\nup\r\n`)
		s.send(ctrlZ)
		s.expect(`Stopped`)
		s.expect(`\$ $`)
		s.send("fg\n")
		s.expect(`read x`)
		s.send("hello\n")
		s.expect(`got hello\r\n\$ $`)
		s.send("$APPFW run -- sh -c 'read x; echo got $x' &\n")
		s.expect(`\$ `)
		s.send("\n") // it wants to read the terminal, and stops
		s.send("while jobs | grep -q Running; do :; done; jobs\n")
		s.expect(`Stopped`)
		s.send("fg\n")
		s.expect(`read x`)
		s.send("world\n")
		s.expect(`got world\r\n`)

		// An interactive shell under appfw, with jobs of its own.
		s.send("$APPFW run -- bash --norc --noprofile -i\n")
		s.expect(`\$ $`)
		s.send("sh -c 'echo up; exec sleep 100'\n")
		s.expect(`\nup\r\n`)
		s.send(ctrlZ)
		s.expect(`Stopped`)
		s.send("kill %1; wait; sh -c 'echo up; exec sleep 100'\n")
		s.expect(`\nup\r\n`)
		s.send(ctrlC)
		s.expect(`\$ $`)
		s.send("suspend\n") // the inner shell stops, the outer one is back
		s.expect(`Stopped`)
		s.send("fg\n")
		s.expect(`-i\r\n`)
		s.send("exit 7\n")
		s.expect(`\$ $`)
		s.send("echo code=$?\n")
		s.expect(`\ncode=7\r\n`)

		// Denied lines are whole lines on a raw terminal, too.
		s.send("$APPFW run -- sh -c 'stty raw; curl -s http://1.2.3.4; stty sane; echo end'\n")
		s.expect(`\nappfw: denied tcp 1\.2\.3\.4:80: [^\n]*\r\n`)
		s.expect(`end`)
		s.send("exit\n")
	})
}
