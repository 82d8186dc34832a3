package supervise

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Supervisor is the process that was called.
type Supervisor struct {
	signals chan os.Signal
	control *os.File
	theirs  *os.File  // the gateway's end; nil when it has it
	cmd     *exec.Cmd // the gateway; nil before Start
}

// NewSupervisor makes this process a supervisor: from here on it survives the signals
// that mean the program, those that it does not ignore. It is an [*InheritedError] if
// the program would inherit a way past its isolation; what else this process inherited
// is closed when it starts another.
//
// The calling goroutine stays on its thread, as the gateway ends with that
// (PR_SET_PDEATHSIG of prctl(2)); it is to call Start and Wait.
func NewSupervisor() (*Supervisor, error) {
	runtime.LockOSThread()
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("close inherited descriptors: %w", err)
	}
	for _, f := range []*os.File{os.Stdin, os.Stdout, os.Stderr} {
		if err := checkInherited(f); err != nil {
			return nil, err
		}
	}
	s := &Supervisor{signals: make(chan os.Signal, 64)}
	notify(s.signals)
	var err error
	s.control, s.theirs, err = openControl()
	return s, err
}

// Start starts the gateway, which calls [Inherit], and passes it files, which are
// closed here. They are its ExtraFiles.
func (s *Supervisor) Start(cmd *exec.Cmd, passed Passed) error {
	if err := send(s.control, descriptors, passed.roles...); err != nil {
		return fmt.Errorf("pass descriptors: %w", err)
	}
	cmd.ExtraFiles = append([]*os.File{s.theirs}, passed.files...)
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	if err := cmd.Start(); err != nil {
		return err
	}
	for _, f := range cmd.ExtraFiles {
		f.Close() // with the gateway, they are gone
	}
	s.cmd, s.theirs = cmd, nil
	go s.passSignals()
	go s.mirrorStops()
	return nil
}

// KilledError says that a signal ended the gateway. The program has no network now.
type KilledError struct{ Signal syscall.Signal }

func (e *KilledError) Error() string { return fmt.Sprintf("the gateway was ended by %v", e.Signal) }

// Wait waits until the gateway has ended, and returns its exit code. It is a
// [*KilledError] if it has none.
func (s *Supervisor) Wait() (code int, err error) {
	err = s.cmd.Wait()
	if status, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 0, &KilledError{status.Signal()}
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// passSignals passes the signals on that this process alone got. SIGHUP asks for a
// reload, but for the hangup of a terminal, of which only its session's leader hears.
func (s *Supervisor) passSignals() {
	leads := leadsTerminal()
	for received := range s.signals {
		sig := received.(syscall.Signal)
		if ofTerminal[sig] && inForeground() {
			continue
		}
		var err error
		if sig == unix.SIGHUP && !(leads && !hasTerminal()) {
			err = send(s.control, askReload)
		} else {
			err = send(s.control, passSignal, byte(sig))
		}
		if err != nil {
			return // the gateway has ended
		}
	}
}

// mirrorStops stops this process whenever the program stopped, so that a shell sees
// its job stopped. SIGCONT continues both.
func (s *Supervisor) mirrorStops() {
	for {
		m, err := receive(s.control)
		if err != nil {
			return
		}
		if m.kind == stopped {
			_ = unix.Kill(unix.Getpid(), unix.SIGSTOP)
		}
	}
}

// Follow starts a command and waits until it has ended. Meanwhile it passes on to it
// those of the signals that this process alone got.
func Follow(cmd *exec.Cmd, signals ...os.Signal) error {
	received := make(chan os.Signal, 16)
	signal.Notify(received, signals...)
	defer signal.Stop(received)
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case s := <-received:
				if !(ofTerminal[s.(syscall.Signal)] && inForeground()) { // else it has got a copy
					_ = cmd.Process.Signal(s)
				}
			case <-ended:
				return
			}
		}
	}()
	return cmd.Wait()
}
