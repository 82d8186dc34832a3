package main

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"

	"appfw/netns/tcp"
)

// relayCommand makes this program a relay for a command: relay FROM TO COMMAND [ARG]
const relayCommand = "relay"

// relayAddr is where it listens, at the port of the loopback's server.
const relayAddr = "127.0.0.2"

// leastRelay is the least that a relay can be: one thread that waits in system calls, and takes in a connection, makes
// the other, passes on a request, then the answer and the end, and does nothing else. It asks no policy, and the
// client is connected before the destination is. What this costs, nothing that has two connections can save.
func (b *bench) leastRelay() tool {
	return tool{name: "least relay", loopback: relayAddr, only: "crr",
		wrap: prefix(b.self, relayCommand, relayAddr+":"+b.loopbackPort, local+":"+b.loopbackPort)}
}

func relayFor(args []string) error {
	if len(args) < 3 {
		return errors.New("usage: relay FROM TO COMMAND [ARG]")
	}
	from, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	to, err := netip.ParseAddrPort(args[1])
	if err != nil {
		return err
	}
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetsockoptInt(l, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = unix.Bind(l, tcp.Sockaddr(from))
	}
	if err == nil {
		err = unix.Listen(l, 1)
	}
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		for {
			if err := relayNext(l, tcp.Sockaddr(to)); err != nil {
				failed <- err
				return
			}
		}
	}()
	c := exec.Command(args[2], args[3:]...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	if err := c.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case err := <-ended:
		return err
	case err := <-failed:
		_ = c.Process.Kill() // it waits for an answer that will not come
		return err
	}
}

// relayNext relays one connection.
func relayNext(l int, to unix.Sockaddr) error {
	in, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	out, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(out)
	if err := unix.Connect(out, to); err != nil {
		return err
	}
	b := make([]byte, 64)
	n, err := unix.Read(in, b)
	for dst, src := out, out; n > 0 && err == nil; dst, src = in, out {
		if _, err = unix.Write(dst, b[:n]); err == nil {
			n, err = unix.Read(src, b)
		}
	}
	return err
}
