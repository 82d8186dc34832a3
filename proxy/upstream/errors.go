package upstream

import (
	"context"
	"errors"
	"net"

	"golang.org/x/sys/unix"

	"appfw/policy"
)

// ErrNoUDP says that a chain carries no datagrams.
var ErrNoUDP = errors.New("the upstream carries no UDP")

// chainError is a failure of a chain. errno is what the app is told.
type chainError struct {
	hop   string
	errno unix.Errno
	err   error // may be nil: errno says it
	own   bool  // it is the chain's own failure, not the destination's

	noTunnel bool // it is of the tunnel, and not of what would go by it
}

func (e *chainError) Error() string { return e.hop + ": " + e.cause() }
func (e *chainError) Unwrap() error { return e.errno }

func (e *chainError) cause() string {
	if e.err == nil {
		return e.errno.Error()
	}
	return Plain(e.err)
}

// failed is the error of a chain that fails itself. If nobody wants its connection
// any more, that is all there is to say.
func failed(ctx context.Context, hop string, err error) error {
	if ctx.Err() == context.Canceled {
		return ctx.Err()
	}
	return &chainError{hop: hop, errno: unix.ENETUNREACH, err: err, own: true}
}

// errCredentials says that a proxy refuses who asks. given tells whether the URL has
// a user.
func errCredentials(given bool) error {
	if given {
		return errors.New("it does not take the user and password")
	}
	return errors.New("it wants a user and a password, which the URL does not have (USER:PASSWORD@ before the host)")
}

// Failure says for people what a chain did, if it failed itself or refuses who asks;
// "" if the error is the destination's.
func Failure(err error) string {
	e, ok := errors.AsType[*chainError](err)
	switch {
	case ok && e.own:
		return "the upstream failed: " + e.Error()
	case ok && e.errno == unix.EACCES:
		return "the upstream refuses it: " + e.Error()
	}
	return ""
}

// Plain is what an error says, without what is said around it already: a line of
// moderate length, as the other side may have had its say in it (a certificate's
// names).
func Plain(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return policy.Printable(err.Error(), maxErrorText)
}

// maxErrorText bounds what is told of an error, in bytes.
const maxErrorText = 300
