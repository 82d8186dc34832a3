package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

func init() { probes["unix"] = probeUnix }

var kindsOfUnix = map[string]int{"stream": unix.SOCK_STREAM, "datagram": unix.SOCK_DGRAM, "seqpacket": unix.SOCK_SEQPACKET}

// probeUnix does with Unix sockets what the lines of its input say, and answers each
// with a line: ok, reached, or what failed.
func probeUnix([]string) error {
	var arrived atomic.Int64
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := append(strings.SplitN(lines.Text(), " ", 4), "", "", "")
		var err error
		switch a, b := words[1], words[2]; words[0] {
		case "listen": // NAME KIND, where \n in NAME is a newline
			err = listenUnix(strings.ReplaceAll(a, `\n`, "\n"), kindsOfUnix[b], &arrived)
		case "connect":
			if err = connectUnix(a); err == nil {
				fmt.Println("reached")
				continue
			}
		case "arrived":
			fmt.Println(arrived.Load())
			continue
		case "link":
			err = os.Link(a, b)
		case "rename":
			err = os.Rename(a, b)
		case "remove":
			err = os.Remove(a)
		case "chdir":
			err = os.Chdir(a)
		case "mkdir":
			err = os.MkdirAll(a, 0o755)
		case "list":
			names, lerr := filepath.Glob(a)
			fmt.Println(len(names), lerr)
			continue
		case "open":
			var f *os.File
			if f, err = os.Open(a); err == nil {
				f.Close()
			}
		default:
			err = errors.New("not understood")
		}
		if err == nil {
			fmt.Println("ok")
		} else {
			fmt.Println(strings.ReplaceAll(err.Error(), "\n", " "))
		}
	}
	return nil
}

// listenUnix binds a socket that anybody may reach, and counts what comes.
func listenUnix(name string, kind int, arrived *atomic.Int64) error {
	if kind == 0 {
		kind = unix.SOCK_STREAM
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		return err
	}
	_ = os.Chmod(name, 0o777)
	if kind == unix.SOCK_DGRAM {
		go func() {
			for {
				if _, _, err := unix.Recvfrom(fd, make([]byte, 100), 0); err != nil {
					return
				}
				arrived.Add(1)
			}
		}()
		return nil
	}
	if err := unix.Listen(fd, 10); err != nil {
		return err
	}
	go func() {
		for {
			c, _, err := unix.Accept(fd)
			if err != nil {
				return
			}
			arrived.Add(1)
			unix.Close(c)
		}
	}()
	return nil
}

// connectUnix sends something to a socket, of whatever kind that is.
func connectUnix(name string) (err error) {
	for _, kind := range kindsOfUnix {
		fd, serr := unix.Socket(unix.AF_UNIX, kind, 0)
		if serr != nil {
			return serr
		}
		cerr := unix.Connect(fd, &unix.SockaddrUnix{Name: name})
		if cerr == nil {
			_ = unix.Send(fd, []byte("hello"), unix.MSG_NOSIGNAL) // of a server that closes at once
		}
		unix.Close(fd)
		if cerr == nil {
			return nil
		}
		if err == nil || !errors.Is(cerr, unix.EPROTOTYPE) {
			err = cerr
		}
	}
	return err
}

func init() { probes["automount"] = probeAutomount }

// probeAutomount is an automounter for a directory: it mounts a file system at
// DIR/there, and prints what else it is asked for, and that is not there.
func probeAutomount(args []string) error {
	dir := args[0]
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	if err := unix.Setpgid(0, 0); err != nil && !errors.Is(err, unix.EPERM) {
		return err
	}
	options := fmt.Sprintf("fd=%d,pgrp=%d,minproto=5,maxproto=5,indirect", w.Fd(), unix.Getpgrp())
	if err := unix.Mount("automount", dir, "autofs", 0, options); err != nil {
		return err
	}
	there := filepath.Join(dir, "there")
	if err := errors.Join(os.Mkdir(there, 0o755), unix.Mount("tmpfs", there, "tmpfs", 0, "mode=0755"), os.WriteFile(there+"/file", nil, 0o644)); err != nil {
		return err
	}
	control, err := os.Open(dir)
	if err != nil {
		return err
	}
	fmt.Println("ok")
	packet := make([]byte, 304) // struct autofs_v5_packet
	for {
		if _, err := io.ReadFull(r, packet); err != nil {
			return err
		}
		fmt.Println("asked for", unix.ByteSliceToString(packet[44:]))
		const fail = 0x9361 // AUTOFS_IOC_FAIL
		_ = unix.IoctlSetInt(int(control.Fd()), fail, int(binary.NativeEndian.Uint32(packet[8:])))
	}
}
