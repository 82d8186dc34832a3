package journal

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// write writes all of b. The file may be shared with the app, which may have made it
// non-blocking, as Node.js does with pipes: it is waited for by hand then.
func write(file *os.File, b []byte) (n int, err error) {
	if t := terminal(file); t != nil && t.Lflag&unix.TOSTOP != 0 {
		defer blockStop()()
	}
	for {
		var wrote int
		wrote, err = file.Write(b[n:])
		if n += wrote; !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
		if err := control(file, func(fd int) error {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, -1)
			return err
		}); err != nil && err != unix.EINTR {
			return n, err
		}
	}
}

// blockStop has writes to a terminal go through from the background, too: SIGTTOU would
// stop the app, which has written nothing, and this process, which catches it, would
// try again and again. A thread that blocks it may write (termios(3), TOSTOP).
func blockStop() (undo func()) {
	runtime.LockOSThread()
	var stop, before unix.Sigset_t
	stop.Val[0] = 1 << (unix.SIGTTOU - 1) // a word has 32 bits at least
	err := unix.PthreadSigmask(unix.SIG_BLOCK, &stop, &before)
	return func() {
		if err == nil {
			_ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
		}
		runtime.UnlockOSThread()
	}
}

// newline is what ends a line on stderr: a terminal that the app put into raw
// mode does not return its carriage by itself.
func newline(file *os.File) string {
	if t := terminal(file); t != nil && t.Oflag&unix.OPOST == 0 {
		return "\r\n"
	}
	return "\n"
}

// terminal is the mode of a terminal; nil of another file.
func terminal(file *os.File) (t *unix.Termios) {
	err := control(file, func(fd int) (err error) {
		t, err = unix.IoctlGetTermios(fd, unix.TCGETS)
		return err
	})
	if err != nil {
		return nil
	}
	return t
}

// control does something with a file's descriptor. [os.File.Fd] would make it blocking,
// for the app, too.
func control(file *os.File, do func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = do(int(fd)) }); err != nil {
		return err
	}
	return failed
}
