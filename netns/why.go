package netns

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

// UnreachableFor translates the error of connecting to what the app is told; ok is
// false if it is told nothing, and waits like any other client.
func UnreachableFor(err error) (why Unreachable, ok bool) {
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return NoPort, true
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EAFNOSUPPORT):
		return NoNetwork, true
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return Prohibited, true // the host's own firewall
	case errors.Is(err, unix.ETIMEDOUT), errors.Is(err, context.Canceled):
		return 0, false
	}
	return NoHost, true
}
