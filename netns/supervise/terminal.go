package supervise

import (
	"os"

	"golang.org/x/sys/unix"
)

// openTerminal opens the terminal of this session; an error if there is none, or it
// has hung up.
func openTerminal() (*os.File, error) { return os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0) }

// leadsTerminal tells whether this process leads the session of a terminal.
func leadsTerminal() bool {
	session, err := unix.Getsid(0)
	return err == nil && session == os.Getpid() && hasTerminal()
}

// hasTerminal tells whether there is a terminal that has not hung up.
func hasTerminal() bool {
	tty, err := openTerminal()
	if err == nil {
		tty.Close()
	}
	return err == nil
}

// inForeground tells whether the process group is the terminal's foreground one.
func inForeground() bool {
	tty, err := openTerminal()
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
