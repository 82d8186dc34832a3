package supervise

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"appfw/netns/signals"
)

// EndTime bounds how long a run goes on once its program has ended, or has been told to
// end and does not run yet; longer only while what the program sent is being delivered
// and gets on.
const EndTime = 2 * time.Second

// hurryTime is how long the gateway has, after the program has ended, when the run is
// told to end besides.
const hurryTime = time.Second

// Supervisor is the process that was called.
type Supervisor struct {
	signals chan os.Signal
	ignored func() signals.Set // waits until it is known
	control *os.File
	theirs  *os.File      // the gateway's end; nil when it has it
	kept    []int         // descriptors that the program inherits
	cmd     *exec.Cmd     // the gateway; nil before Start
	heard   chan struct{} // closed when all that the gateway said was heard

	mu     sync.Mutex
	runs   bool           // the program is about to run, runs, or has ended
	ending *Ending        // of the program; nil before
	early  syscall.Signal // that ended the run before the program ran; 0: none
	late   *time.Timer    // kills the gateway; nil: it has time
	hurry  bool           // it gets no more time

	losing sync.Once
	lost   chan struct{} // closed when the gateway was killed, and that took no effect
}

// NewSupervisor makes this process a supervisor: from here on it survives the signals
// that mean the program, those that it does not ignore. It is an [*InheritedError] if
// the program would inherit a way past its isolation as standard input, output or error.
// What else this process inherited the program inherits, if it leads nowhere; the rest is
// closed when this process starts another.
//
// The calling goroutine stays on its thread, as the gateway ends with that
// (PR_SET_PDEATHSIG of prctl(2)); it is to call Start and Wait.
func NewSupervisor() (*Supervisor, error) {
	runtime.LockOSThread()
	kept, err := inherited()
	if err != nil {
		return nil, err
	}
	for _, f := range []*os.File{os.Stdin, os.Stdout, os.Stderr} {
		if err := checkInherited(f); err != nil {
			return nil, err
		}
	}
	s := &Supervisor{kept: kept, signals: make(chan os.Signal, 64), heard: make(chan struct{}), lost: make(chan struct{})}
	now := signals.IgnoredNow()
	s.ignored = sync.OnceValue(func() signals.Set { return signals.Ignored(now) })
	go s.ignored()
	notify(s.signals, now)
	signal.Ignore(unix.SIGPIPE) // that nobody reads stderr is no reason to end
	s.control, s.theirs, err = openControl()
	return s, err
}

// Start starts the gateway, which calls [Inherit], and passes it files, which are
// closed here. They are its ExtraFiles. A program of another user than this process's
// inherits no descriptors, as by sudo(8).
func (s *Supervisor) Start(cmd *exec.Cmd, passed Passed) error {
	if a := cmd.SysProcAttr; a == nil || a.Credential == nil || int(a.Credential.Uid) == os.Geteuid() {
		if err := passed.keep(s.kept); err != nil {
			return err
		}
	}
	if err := send(s.control, descriptors, rolesBody(passed.roles)...); err != nil {
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
	ignored := s.ignored()
	ignore(ignored)
	// An error means that the gateway has ended, which Wait tells.
	_ = send(s.control, ignoring, binary.LittleEndian.AppendUint64(nil, uint64(ignored))...)
	go s.passSignals(ignored)
	go s.listen()
	return nil
}

// KilledError says that the gateway was ended by a signal, or failed, while the program
// ran, which has ended with it.
type KilledError struct{ Ending Ending }

func (e *KilledError) Error() string {
	if e.Ending.Signal != 0 {
		return fmt.Sprintf("the gateway was ended by %v", e.Ending.Signal)
	}
	return fmt.Sprintf("the gateway failed, with exit code %d", e.Ending.Code)
}

// Wait waits until the gateway has ended, and returns how the program did; if it never
// ran, how the gateway did, which is as the program would have. It is a [*KilledError]
// if the program ended for want of a gateway, killed, too. It reaps what else is left to
// this process, which may be process 1.
func (s *Supervisor) Wait() (Ending, error) {
	var gateway Ending
	var err error
	reaped := make(chan struct{})
	go func() {
		defer close(reaped)
		gateway, err = s.reap()
		<-s.heard
	}()
	select {
	case <-reaped:
		if err != nil {
			return Ending{}, err
		}
	case <-s.lost: // it hangs in the kernel
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ending != nil:
		return *s.ending, nil
	case s.early != 0:
		return Ending{Signal: s.early}, nil
	case s.runs:
		return Ending{Signal: unix.SIGKILL}, &KilledError{gateway}
	}
	return gateway, nil
}

// reap waits until the gateway has ended. It reaps all that ends before. A gateway that
// was stopped goes on: when the program stops, it does not.
func (s *Supervisor) reap() (Ending, error) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WUNTRACED, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return Ending{}, fmt.Errorf("wait for the gateway: %w", err)
		case pid != s.cmd.Process.Pid:
		case status.Stopped():
			_ = s.cmd.Process.Signal(unix.SIGCONT) // by its pidfd
		default:
			return EndingOf(status), nil
		}
	}
}

// passSignals passes the signals on that this process alone got. SIGHUP asks for a
// reload, but for the hangup of a terminal, of which only its session's leader hears.
func (s *Supervisor) passSignals(ignored signals.Set) {
	leads := leadsTerminal()
	for received := range s.signals {
		sig := received.(syscall.Signal)
		if ignored.Has(sig) || ofTerminal[sig] && inForeground() {
			continue
		}
		var err error
		if sig == unix.SIGHUP && !(leads && !hasTerminal()) {
			err = send(s.control, askReload)
		} else {
			s.told(sig)
			err = send(s.control, passSignal, byte(sig))
		}
		if err != nil {
			return // the gateway has ended
		}
	}
}

// told sees to it that a signal which ends programs ends the run, if the program does
// not run, which would have to decide on that.
func (s *Supervisor) told(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Whether it runs by now, the gateway has said, if perhaps a moment ago.
	if raw, err := s.control.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { s.hear(int(fd)) })
	}
	switch {
	case !ends(sig):
	case !s.runs:
		s.early = sig
		s.endIn(0)
	case s.ending != nil && !s.hurry:
		s.hurry = true
		s.endIn(hurryTime)
	}
}

// endIn has the gateway killed if it has not ended after a time. mu is held.
func (s *Supervisor) endIn(d time.Duration) {
	if s.late == nil {
		s.late = time.AfterFunc(d, s.kill)
	} else {
		s.late.Reset(d)
	}
}

// killTime is how long a process that was killed may take to end.
const killTime = time.Second

func (s *Supervisor) kill() {
	_ = s.cmd.Process.Kill()
	time.AfterFunc(killTime, func() { s.losing.Do(func() { close(s.lost) }) })
}

// listen hears what the gateway says, until that has ended.
func (s *Supervisor) listen() {
	defer close(s.heard)
	raw, err := s.control.SyscallConn()
	if err == nil {
		_ = raw.Read(func(fd uintptr) (ended bool) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.hear(int(fd))
		})
	}
}

// hear hears what the gateway has said by now; it is false if there may come more. It
// stops this process when the program stopped, so that a shell sees its job stopped.
// SIGCONT continues both. mu is held.
func (s *Supervisor) hear(control int) (ended bool) {
	for {
		m, err := receive(control)
		if err != nil {
			return err != unix.EAGAIN
		}
		switch m.kind {
		case stopped:
			_ = unix.Kill(unix.Getpid(), unix.SIGSTOP) // itself
		case started:
			s.runs = true
		case failed:
			s.runs = false
		case programEnded:
			if e, ok := m.ending(); ok {
				s.ending = &e
				s.endIn(EndTime)
			}
		case delivering:
			if s.ending != nil && !s.hurry {
				s.endIn(EndTime)
			}
		}
	}
}

// Follow starts a command and waits until it has ended. Meanwhile it passes on to it
// those of the signals that this process alone got.
func Follow(cmd *exec.Cmd, passed ...os.Signal) (Ending, error) {
	received := make(chan os.Signal, 16)
	signal.Notify(received, passed...)
	defer signal.Stop(received)
	if err := cmd.Start(); err != nil {
		return Ending{}, err
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case s := <-received:
				if !(ofTerminal[s.(syscall.Signal)] && inForeground()) { // else it has got a copy
					_ = cmd.Process.Signal(s) // by its pidfd
				}
			case <-ended:
				return
			}
		}
	}()
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return EndingOf(exit.Sys().(syscall.WaitStatus)), nil
	}
	return Ending{}, err
}
