package netns

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestUnreachableFor(t *testing.T) {
	for _, c := range []struct {
		err  error
		why  Unreachable
		told bool
	}{
		{unix.ECONNREFUSED, NoPort, true}, {unix.ENETUNREACH, NoNetwork, true}, {unix.EADDRNOTAVAIL, NoNetwork, true},
		{unix.EAFNOSUPPORT, NoNetwork, true}, {unix.EACCES, Prohibited, true}, {unix.EPERM, Prohibited, true},
		{unix.EHOSTUNREACH, NoHost, true}, {errors.New("other"), NoHost, true},
		{unix.ETIMEDOUT, 0, false}, {context.Canceled, 0, false},
	} {
		wrapped := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", c.err)}
		if why, told := UnreachableFor(wrapped); why != c.why || told != c.told {
			t.Errorf("%v: %v, %t", c.err, why, told)
		}
	}
}
