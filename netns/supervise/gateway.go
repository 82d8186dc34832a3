package supervise

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Gateway is this process, if a supervisor has started it.
type Gateway struct {
	// Reload says that the supervisor asks for the policy to be read anew. Asked
	// several times, it says so once.
	Reload <-chan struct{}
	// Orphaned is closed when the supervisor has ended. The kernel kills this process
	// then, if it can; otherwise it has to end by itself.
	Orphaned <-chan struct{}

	control  *os.File
	roles    []byte // of the descriptors from firstPassed on; 0: it is taken
	reload   chan struct{}
	orphaned chan struct{}
}

// Inherit takes over what the supervisor passed; it is called once, first. It is
// [ErrNoSupervisor] if there is none. From here on, other processes of the user cannot
// look into this one.
//
// The calling goroutine stays on its thread: it is the main one, of which /proc/self
// speaks, and which is kept from other work.
func Inherit() (*Gateway, error) {
	runtime.LockOSThread()
	roles, err := receivePassed(controlFD)
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(controlFD)
	for i := range roles {
		unix.CloseOnExec(firstPassed + i)
	}
	_ = unix.SetNonblock(controlFD, true) // to wait for it takes no processor
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("forbid others to look into the gateway: %w", err)
	}
	_ = os.WriteFile("/proc/thread-self/comm", []byte("appfw"), 0) // for ps(1); it says "exe" otherwise
	g := &Gateway{
		control: os.NewFile(controlFD, "control"), roles: roles,
		reload: make(chan struct{}, 1), orphaned: make(chan struct{}),
	}
	g.Reload, g.Orphaned = g.reload, g.orphaned
	return g, nil
}

// File takes the next file that was passed for a role; nil if there is none left.
// Errors of it have the given name.
func (g *Gateway) File(r Role, name string) *os.File {
	i := slices.Index(g.roles, byte(r))
	if i < 0 {
		return nil
	}
	g.roles[i] = 0
	return os.NewFile(uintptr(firstPassed+i), name)
}

// Start has the program started by a function that returns its process, a child of
// this one. Signals that mean the program do not end this process from here on; those
// that the supervisor passes on are sent to it.
func (g *Gateway) Start(start func() (pid int, err error)) (*Program, error) {
	p := &Program{gateway: g}
	p.catch()
	var err error
	if p.pid, err = start(); err != nil {
		return nil, err
	}
	go p.obey()
	return p, nil
}

// Program is the program that the gateway serves.
type Program struct {
	gateway *Gateway
	pid     int
	copies  copies
}

// Wait waits until the program has ended, and tells the supervisor whenever it stops.
// It is called once. It waits by signals: wait4(2) would keep a processor from the
// gateway, which may have only one, until the runtime notices, after up to 20 ms.
func (p *Program) Wait() (syscall.WaitStatus, error) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGCHLD)
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(p.pid, &status, syscall.WUNTRACED|syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil: // cannot be: it is our child and nobody else waits
			return 0, fmt.Errorf("wait for the program: %w", err)
		case got == 0:
			<-changed
		case status.Stopped():
			_ = send(p.gateway.control, stopped, byte(status.StopSignal()))
		default:
			return status, nil
		}
	}
}

// obey does what the supervisor says, until that is gone.
func (p *Program) obey() {
	defer close(p.gateway.orphaned)
	for {
		m, err := receive(p.gateway.control)
		if err != nil {
			return
		}
		switch sig := m.signal(); m.kind {
		case askReload:
			select {
			case p.gateway.reload <- struct{}{}:
			default: // it has been asked for
			}
		case passSignal:
			if sig != 0 && !p.copies.has(sig, time.Now()) {
				_ = unix.Kill(p.pid, sig) // not reaped yet, so the pid is the program's
			}
		}
	}
}

// catch keeps signals that mean the program from ending this process, and notes them.
func (p *Program) catch() {
	received := make(chan os.Signal, 64)
	notify(received)
	go func() {
		for s := range received {
			p.copies.note(s.(syscall.Signal), time.Now())
		}
	}()
}
