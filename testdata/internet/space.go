package internet

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// space is a set of namespaces, kept by an operating system thread that lives in them.
type space struct {
	calls chan func()
	quit  chan struct{} // closed by close
	ended chan struct{} // closed when the thread has left the namespaces
}

// newSpace starts a thread in new namespaces: flags are those of unshare(2).
func newSpace(flags int) (*space, error) {
	s := &space{calls: make(chan func()), quit: make(chan struct{}), ended: make(chan struct{})}
	started := make(chan error, 1)
	go s.run(flags, started)
	if err := <-started; err != nil {
		<-s.ended
		return nil, err
	}
	return s, nil
}

// do runs f on the space's thread and returns its error. Sockets f opens and processes it starts are in the
// space and stay there. f must neither call do nor end its goroutine (t.Fatal).
func (s *space) do(f func() error) error {
	result := make(chan error, 1)
	select {
	case s.calls <- func() { result <- f() }:
		return <-result
	case <-s.ended:
		return errors.New("internet: already closed")
	}
}

// close makes the thread leave its namespaces, which end when nothing else is in them. Call it once.
func (s *space) close() {
	close(s.quit)
	<-s.ended
}

func (s *space) run(flags int, started chan<- error) {
	runtime.LockOSThread() // and never unlocked, so that the thread ends with the goroutine
	if unix.Gettid() == unix.Getpid() {
		// The main thread would outlive its goroutine and is what /proc/self shows: hold it, use another.
		go s.run(flags, started)
		<-s.ended
		runtime.UnlockOSThread()
		return
	}
	defer close(s.ended)
	leave, err := enter(flags)
	started <- err
	if err != nil {
		return
	}
	defer leave()
	for {
		select {
		case call := <-s.calls:
			call()
		case <-s.quit:
			return
		}
	}
}

// enter moves the thread to new namespaces. leave moves it back, so that they do not last until the thread,
// whose end nobody can wait for, is gone.
func enter(flags int) (leave func(), err error) {
	var origins []*os.File
	leave = func() {
		for _, f := range origins {
			// An error leaves the namespace to the end of the thread, which is near.
			_ = unix.Setns(int(f.Fd()), 0)
			_ = f.Close()
		}
	}
	for name, flag := range map[string]int{"net": unix.CLONE_NEWNET, "mnt": unix.CLONE_NEWNS} {
		if flags&flag == 0 {
			continue
		}
		f, err := os.Open("/proc/thread-self/ns/" + name)
		if err != nil {
			return nil, err
		}
		origins = append(origins, f)
	}
	if err := unix.Unshare(flags); err != nil {
		leave()
		return nil, fmt.Errorf("unshare: %w", err)
	}
	return leave, nil
}

// netNamespace opens the space's network namespace.
func (s *space) netNamespace() (f *os.File, err error) {
	err = s.do(func() error {
		f, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return f, err
}
