package netns

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Shortage tells errors that say nothing of a destination: this process, or this host, is
// short of descriptors or memory.
func Shortage(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM)
}
