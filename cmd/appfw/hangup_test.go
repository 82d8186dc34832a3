package main

import (
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/testdata/internet"
)

// hangUp does what closing the terminal does.
func (s *terminal) hangUp() {
	s.t.Helper()
	tty, err := unix.IoctlRetInt(int(s.ptmx.Fd()), unix.TIOCGPTPEER) // 0 is O_RDONLY
	if err != nil {
		s.t.Fatal(err)
	}
	defer unix.Close(tty)
	if err := unix.IoctlSetInt(tty, unix.TIOCVHANGUP, 0); err != nil {
		s.t.Fatal(err)
	}
}

// waitHungUp waits for a command that has lost its terminal, and returns its exit code as a
// shell has it; ok is false if it does not end.
func waitHungUp(cmd *internet.Cmd) (code int, ok bool) {
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		_ = cmd.Process.Kill()
		<-done
		return 0, false
	}
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		return 128 + int(status.Signal()), true
	}
	return cmd.ProcessState.ExitCode(), true
}

// When its terminal is gone, a program ends as without appfw, whoever leads the
// session; appfw's SIGHUP does not swallow the app's.
func TestHangup(t *testing.T) {
	both(t, func(w *world) {
		policy := w.write("a.policy", "allow example.com\n")
		leaders := [][]string{
			nil, // for comparison
			{program, "run", "--"},
			{program, "run", "--policy", policy, "--"},
		}
		for _, c := range []struct {
			name string
			app  string
			code int
		}{
			{"handled", `trap "echo got > hangup; exit 3" HUP; echo up; while :; do sleep 0.05; done`, 3},
			{"not handled", `echo up; exec sleep 1000`, 129},
		} {
			for _, leader := range leaders {
				args := append(slices.Clone(leader), "sh", "-c", c.app)
				cmd := w.Command(t.Context(), w.user, args[0], args[1:]...)
				s := newTerminal(t, cmd)
				s.expect(`up\r\n`)
				s.hangUp()
				if code, ok := waitHungUp(cmd); !ok {
					t.Errorf("%s, session leader %q: it lives on", c.name, leader)
				} else if code != c.code {
					t.Errorf("%s, session leader %q: exit code %d, not %d", c.name, leader, code, c.code)
				}
			}
		}
	})
}

// As long as the terminal is there, SIGHUP is for appfw, session leader or not.
func TestHangupOfAppfwAlone(t *testing.T) {
	both(t, func(w *world) {
		cmd := w.Command(t.Context(), w.user, program, "run", "--policy", w.write("etc/a.policy", "allow example.com\n"), "--", "sh", "-c", "echo up; read x; echo got $x")
		s := newTerminal(t, cmd)
		s.expect(`up\r\n`)
		if err := cmd.Process.Signal(unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		s.expect(`appfw: the policy was [^\n]*read anew`)
		s.send("hello\n")
		s.expect(`got hello\r\n`)
	})
}

// Within a shell with job control, the shell tells its jobs.
func TestHangupOfShell(t *testing.T) {
	both(t, func(w *world) {
		shell := w.Command(t.Context(), w.user, "bash", "--norc", "--noprofile", "-i")
		shell.Env = append(shell.Env, "PS1=$ ", "TERM=dumb", "APPFW="+program)
		s := newTerminal(t, shell)
		s.expect(`\$ $`)
		s.send(`$APPFW run -- sh -c 'trap "echo got > hangup; exit 3" HUP; echo up; while :; do sleep 0.05; done'` + "\n")
		s.expect(`\nup\r\n`)
		s.hangUp()
		for started := time.Now(); ; {
			if b, _ := os.ReadFile(w.user.Home + "/hangup"); string(b) == "got\n" {
				break
			}
			if time.Since(started) > patience {
				t.Fatal("the app in a shell was not told")
			}
		}
	})
}
