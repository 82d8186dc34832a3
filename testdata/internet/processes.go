package internet

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a running process.
type Process struct {
	PID     int
	Command string // its arguments, separated by spaces
}

// Processes lists the processes in the simulated host or the internet, and in namespaces they made themselves as
// long as these still have the simulated host's mounts. Ended ones not yet waited for are not listed.
func (n *Internet) Processes() []Process {
	var ours []string
	for _, s := range []*space{n.host, n.world} {
		// An error means a closed space, in which is nothing.
		_ = s.do(func() error {
			name, err := os.Readlink("/proc/thread-self/ns/net")
			ours = append(ours, name)
			return err
		})
	}
	var found []Process
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is good
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		network, _ := os.Readlink(dir + "/ns/net") // none when it has ended, as below
		if (network != "" && (network == ours[0] || network == ours[1])) || strings.Contains(read(dir+"/mountinfo"), n.dir) {
			found = append(found, Process{pid, strings.TrimSpace(strings.ReplaceAll(read(dir+"/cmdline"), "\x00", " "))})
		}
	}
	return found
}

// sweep kills the processes still there and waits for their end.
func (n *Internet) sweep() {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		left := n.Processes()
		if len(left) == 0 {
			return
		}
		for _, p := range left {
			n.t.Logf("internet: killing process %d, left behind: %s", p.PID, p.Command)
			if err := kill(p.PID); err != nil {
				n.t.Errorf("internet: process %d: %v", p.PID, err)
			}
		}
	}
	n.t.Errorf("internet: processes left: %v", n.Processes())
}

// kill ends a process and waits for its end.
func kill(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("pidfd_send_signal: %w", err)
	}
	for {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("poll: %w", err)
		case ready == 0:
			return os.ErrDeadlineExceeded
		}
		return nil
	}
}
