// Package netns is the mechanism beneath appfw: network namespaces, the veth
// between them, the rules that steer packets, and the start of the app. It
// never decides what may pass; package proxy does.
//
// A [Namespace] is a network namespace that one locked thread lives in. All
// that must happen inside it (sockets, netlink, nftables) happens there:
//
//	gateway, err := netns.New()
//	err = gateway.Do(func() error {
//		l, err = net.Listen("tcp4", "0.0.0.0:53") // an IP literal: no resolver runs here
//		return err
//	})
//
// A socket stays in the namespace it was made in, so the rest of the process
// uses it without changing namespace. Nothing here touches the namespace that
// the process was started in.
package netns

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrClosed is returned by [Namespace.Do] after Close.
var ErrClosed = errors.New("network namespace is closed")

// Namespace is a network namespace held by one locked thread. It lives until
// Close, or longer while a socket made in it is open.
type Namespace struct {
	calls chan call
	quit  chan struct{} // closed by Close
	gone  chan struct{} // closed when the thread has ended
	once  sync.Once

	file *os.File  // the namespace itself: /proc/thread-self/ns/net
	lock io.Closer // of one that was taken; nil otherwise
}

type call struct {
	fn  func() error
	err chan error
}

// New makes a network namespace. It needs CAP_SYS_ADMIN in the caller's user
// namespace, which owns the new one (unshare(2)).
func New() (*Namespace, error) {
	return start(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace: %w", err)
		}
		return nil
	})
}

// start starts the thread of a namespace, which it enters by the given function.
func start(enter func() error) (*Namespace, error) {
	ns := &Namespace{calls: make(chan call), quit: make(chan struct{}), gone: make(chan struct{})}
	ready := make(chan error)
	OnThread(func() { ns.serve(enter, ready) })
	if err := <-ready; err != nil {
		return nil, err
	}
	return ns, nil
}

// OnThread runs fn on a thread of its own, which ends with it: fn may change
// the thread's namespaces and credentials. It is never the main thread, which
// cannot end and which /proc/self speaks of.
func OnThread(fn func()) {
	go func() {
		runtime.LockOSThread() // without unlocking, the thread ends with the goroutine
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		started := make(chan struct{})
		OnThread(func() {
			close(started) // on another thread, as this one is taken
			fn()
		})
		<-started
		runtime.UnlockOSThread()
	}()
}

// serve is the thread of the namespace.
func (ns *Namespace) serve(enter func() error, ready chan<- error) {
	defer close(ns.gone)
	if err := enter(); err != nil {
		ready <- err
		return
	}
	file, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		ready <- fmt.Errorf("open the network namespace: %w", err)
		return
	}
	ns.file = file
	ready <- nil
	for {
		select {
		case c := <-ns.calls:
			c.err <- c.fn()
		case <-ns.quit:
			return
		}
	}
}

// Do runs fn on the namespace's thread and returns its error. Calls run one
// after another. What fn dials or listens on must be an IP literal: a resolver
// would use other threads, which are in another namespace.
func (ns *Namespace) Do(fn func() error) error {
	c := call{fn: fn, err: make(chan error, 1)}
	select {
	case ns.calls <- c:
		return <-c.err
	case <-ns.quit:
		return ErrClosed
	}
}

// File is the namespace as setns(2) and netlink want it. It is open until Close.
func (ns *Namespace) File() *os.File { return ns.file }

// Close ends the thread. The kernel removes the namespace with its last socket.
func (ns *Namespace) Close() error {
	ns.once.Do(func() { close(ns.quit) })
	<-ns.gone
	return ns.file.Close()
}
