package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/policy"
	"appfw/proxy/decide"
	"appfw/proxy/relay"
)

func TestShortage(t *testing.T) {
	for _, err := range []error{
		unix.ECONNREFUSED, unix.ENETUNREACH, unix.EADDRNOTAVAIL, unix.EAFNOSUPPORT, unix.EACCES, unix.EPERM,
		unix.EHOSTUNREACH, errors.New("other"), unix.ETIMEDOUT, context.Canceled,
	} {
		if wrapped := (&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", err)}); netns.Shortage(wrapped) {
			t.Errorf("%v is no shortage", err)
		}
	}
	for _, err := range []syscall.Errno{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM} {
		if !netns.Shortage(fmt.Errorf("dial: %w", err)) {
			t.Errorf("%v is a shortage", err)
		}
	}
}

// knowing is an attempt that knows the way.
type knowing struct {
	*attempt
	dial func(context.Context) (relay.Stream, error)
}

func (k *knowing) DialTCP(ctx context.Context) (relay.Stream, error) { return k.dial(ctx) }
func (k *knowing) DialUDP() (*net.UDPConn, error)                    { return nil, errors.ErrUnsupported }

// Who attempts a flow for which appfw has no descriptor is told that, and not that it
// is denied.
func TestShort(t *testing.T) {
	w := newWorld(t, "allow 192.0.2.1")
	a := &knowing{
		newAttempt(t, Facts{Scope: w.NewScope(), Facts: decide.Facts{Proto: policy.TCP, Dst: addrPort("192.0.2.1:80")}}, nil),
		func(context.Context) (relay.Stream, error) { return nil, os.NewSyscallError("socket", unix.EMFILE) },
	}
	w.Admit(t.Context(), a)
	w.wantStory(1, "allow; allowed, deny: appfw has no file descriptor left for it (ulimit -n raises the limit); failed: socket: too many open files")
	err := receive(t, "the refusal", a.refused)
	if _, denied := errors.AsType[*Denied](err); denied || !netns.Shortage(err) {
		t.Error(err)
	}
}
