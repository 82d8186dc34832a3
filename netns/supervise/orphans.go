package supervise

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// ReapOrphans reaps, from here on, the processes that others leave to this one, if it is
// process 1, as in a container: it is for commands that start no processes themselves.
func ReapOrphans() {
	if os.Getpid() != 1 {
		return
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGCHLD)
	go func() {
		for range changed {
			for {
				pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
				if err != syscall.EINTR && pid <= 0 {
					break
				}
			}
		}
	}()
}
