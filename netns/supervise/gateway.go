package supervise

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"appfw/netns/signals"
)

// Gateway is this process, if a supervisor has started it.
type Gateway struct {
	// Reload says that the supervisor asks for the policy to be read anew. Asked
	// several times, it says so once.
	Reload <-chan struct{}
	// Orphaned is closed when the supervisor has ended. The kernel kills this process
	// then, if it can; otherwise it has to end by itself, at any time.
	Orphaned <-chan struct{}

	control  *os.File
	roles    []passedRole // of the descriptors from firstPassed on; 0: it is taken
	reload   chan struct{}
	orphaned chan struct{}
	hurry    chan struct{}
	told     chan struct{} // closed when ignored is known
	ignored  signals.Set
	copies   copies

	mu      sync.Mutex
	begun   bool             // the program may run
	program *Program         // that runs, or has ended; nil before
	waiting []syscall.Signal // for the program that is about to run
}

// Inherit takes over what the supervisor passed; it is called once, first. It is
// [ErrNoSupervisor] if there is none. From here on, other processes of the user cannot
// look into this one, and signals that mean the program do not end this process once
// that runs; those that the supervisor passes on are sent to it.
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
	_ = unix.SetNonblock(controlFD, true) // to wait for it takes no processor
	for i := range roles {
		unix.CloseOnExec(firstPassed + i)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("forbid others to look into the gateway: %w", err)
	}
	_ = os.WriteFile("/proc/thread-self/comm", []byte("appfw"), 0) // for ps(1); it says "exe" otherwise
	g := &Gateway{
		control: os.NewFile(controlFD, "control"), roles: roles,
		reload: make(chan struct{}, 1), orphaned: make(chan struct{}), hurry: make(chan struct{}), told: make(chan struct{}),
	}
	g.Reload, g.Orphaned = g.reload, g.orphaned
	signal.Ignore(unix.SIGPIPE) // that nobody reads stderr is no reason to end
	g.catch()
	go g.obey()
	return g, nil
}

// File takes the next file that was passed for a role; nil if there is none left.
// Errors of it have the given name.
func (g *Gateway) File(r Role, name string) *os.File {
	i := slices.Index(g.roles, passedRole{role: r})
	if i < 0 {
		return nil
	}
	g.roles[i].role = 0
	return os.NewFile(uintptr(firstPassed+i), name)
}

// Kept takes the descriptors beyond standard error that the program inherits from who
// called, by their numbers in the program: what a shell opened for it (diff <(a) <(b)), the
// pipes of make's jobserver, a lock. They are to be closed here when it has them: who
// waits for the end of a pipe waits for this process, too.
func (g *Gateway) Kept() map[int]*os.File {
	files := map[int]*os.File{}
	for i, r := range g.roles {
		if r.role == kept {
			g.roles[i].role = 0
			files[int(r.number)] = os.NewFile(uintptr(firstPassed+i), fmt.Sprintf("descriptor %d", r.number))
		}
	}
	return files
}

// Ignored are the signals that the program is to ignore. It waits for the supervisor to
// say so.
func (g *Gateway) Ignored() signals.Set {
	select {
	case <-g.told:
	case <-g.orphaned:
	}
	return g.ignored
}

// Start has the program started by a function, as a child of this process. That calls
// begun immediately before the program may run: from then on, it alone decides on what a
// signal means.
func (g *Gateway) Start(start func(begun func()) (Child, error)) (*Program, error) {
	child, err := start(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.begun = true
		_ = send(g.control, started) // an error means that the supervisor has ended
	})
	if err != nil {
		_ = send(g.control, failed)
		return nil, err
	}
	p := &Program{Hurry: g.hurry, gateway: g, child: child}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.program = p
	for _, sig := range g.waiting {
		_ = child.signal(sig)
	}
	return p, nil
}

// Program is the program that the gateway serves.
type Program struct {
	// Hurry is closed when this process is told to end after the program has ended.
	Hurry <-chan struct{}

	gateway *Gateway
	child   Child
	ended   bool // guarded by gateway.mu
}

// Wait waits until the program has ended, and tells the supervisor whenever it stops,
// and how it ended. It is called once. It waits by signals: wait4(2) would keep a
// processor from the gateway, which may have only one, until the runtime notices, after
// up to 20 ms.
func (p *Program) Wait() (Ending, error) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGCHLD)
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(p.child.PID, &status, syscall.WUNTRACED|syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil: // cannot be: it is our child and nobody else waits
			return Ending{}, fmt.Errorf("wait for the program: %w", err)
		case got == 0:
			<-changed
		case status.Stopped():
			_ = send(p.gateway.control, stopped, byte(status.StopSignal()))
		default:
			p.gateway.mu.Lock()
			p.ended = true
			p.gateway.mu.Unlock()
			e := EndingOf(status)
			return e, send(p.gateway.control, programEnded, endingBody(e)...)
		}
	}
}

// Delivering tells the supervisor that what the program sent is still being delivered,
// and gets on: it is to wait a little longer.
func (p *Program) Delivering() { _ = send(p.gateway.control, delivering) }

const (
	// drainedTime bounds the wait for what is served when the program has ended, and
	// heardTime that for who reads what is said.
	drainedTime = 150 * time.Millisecond
	heardTime   = 500 * time.Millisecond
)

// Finish ends the gateway of a program that has ended, step by step: drain delivers what
// is under way until its context ends, cancel ends what is served, serving waits for that,
// and report for who reads what is said. None of them takes longer than it may: together,
// they are within [EndTime] but for what drain delivers.
func (p *Program) Finish(drain func(context.Context), cancel func(), serving, report func()) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		select {
		case <-p.Hurry:
			stop()
		case <-ctx.Done():
		}
	}()
	drain(ctx)
	cancel()
	Within(drainedTime, serving)
	Within(heardTime, report)
}

// obey does what the supervisor says, until that is gone.
func (g *Gateway) obey() {
	defer close(g.orphaned)
	raw, err := g.control.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) (gone bool) {
		for {
			m, err := receive(int(fd))
			if err != nil {
				return err != unix.EAGAIN
			}
			g.do(m)
		}
	})
}

func (g *Gateway) do(m message) {
	switch m.kind {
	case ignoring:
		g.ignored = m.ignored()
		ignore(g.ignored)
		close(g.told)
	case askReload:
		select {
		case g.reload <- struct{}{}:
		default: // it has been asked for
		}
	case passSignal:
		g.pass(m.signal())
	}
}

// pass passes a signal on to the program. When that has ended, a signal that ends
// programs means this process.
func (g *Gateway) pass(sig syscall.Signal) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch p := g.program; {
	case sig == 0 || !g.begun && ends(sig): // which ends the supervisor then
	case p == nil:
		g.waiting = append(g.waiting, sig)
	case !p.ended:
		if !g.copies.has(sig, time.Now()) {
			_ = p.child.signal(sig)
		}
	case ends(sig):
		g.hasten()
	}
}

// hasten closes hurry. mu is held.
func (g *Gateway) hasten() {
	select {
	case <-g.hurry:
	default:
		close(g.hurry)
	}
}

// catch keeps signals that mean the program from ending this process while there is
// one, and notes them.
func (g *Gateway) catch() {
	received := make(chan os.Signal, 64)
	notify(received, signals.IgnoredNow())
	go func() {
		for s := range received {
			sig := s.(syscall.Signal)
			g.copies.note(sig, time.Now())
			g.mu.Lock()
			switch {
			case !g.begun && ends(sig):
				Ending{Signal: sig}.Exit() // as the program would
			case g.program == nil: // which may have been too late for a copy
				g.waiting = append(g.waiting, sig)
			case g.program.ended && ends(sig):
				g.hasten()
			}
			g.mu.Unlock()
		}
	}()
}
