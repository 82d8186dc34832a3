package main

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What a datagram's first byte tells the server.
const (
	wantCounted = 'd'
	wantEcho    = 'e'
	wantEnd     = 'z' // comes after all that are to be counted
)

// datagrams counts those of one client at a time.
type datagrams struct {
	arrived atomic.Uint64
	ended   atomic.Bool
}

// receive takes datagrams in until the socket is closed.
func (d *datagrams) receive(c *net.UDPConn) {
	b := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		switch {
		case err != nil:
			return
		case n == 0:
		case b[0] == wantCounted:
			d.arrived.Add(1)
		case b[0] == wantEcho:
			_, _ = c.WriteToUDPAddrPort(b[:n], from) // the client is gone
		case b[0] == wantEnd:
			d.ended.Store(true)
		}
	}
}

// count starts anew, and then tells the client, whenever it asks, whether the end has arrived, and how many before it.
func (d *datagrams) count(conn net.Conn) {
	d.arrived.Store(0)
	d.ended.Store(false)
	for b := []byte{0}; ; {
		b = b[:1]
		if b[0] = 0; d.ended.Load() {
			b[0] = 1
		}
		b = binary.BigEndian.AppendUint64(b, d.arrived.Load())
		if _, err := conn.Write(b); err != nil {
			return
		}
		if _, err := io.ReadFull(conn, b[:1]); err != nil {
			return
		}
	}
}

// largeBuffer makes sure that what is lost was not lost by the server.
func largeBuffer(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) })
	return errors.Join(err, set)
}

// pace is how many datagrams a second most programs would call many.
const pace = 20000

// flood sends datagrams of N bytes, as fast as it can or paced, and returns how many arrived in a second, or how many
// Gbit, and what percentage did not.
func (j job) flood() ([]float64, error) {
	control, err := net.Dial("tcp", j.Addr)
	if err != nil {
		return nil, err
	}
	defer func() { _ = control.Close() }()
	conn, err := net.Dial("udp", j.Addr)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	datagram := make([]byte, j.N)
	datagram[0] = wantEcho // the first is for whoever decides
	if _, err := exchange(conn, datagram, make([]byte, j.N)); err != nil {
		return nil, err
	}
	answer := make([]byte, 9)
	ask := func() error {
		if _, err := control.Write([]byte{wantCount}); err != nil {
			return err
		}
		_, err := io.ReadFull(control, answer)
		return err
	}
	if err := ask(); err != nil {
		return nil, err
	}
	datagram[0] = wantCounted
	sent, began := 0., time.Now()
	for ; time.Since(began) < j.Span; sent++ {
		if j.Mode == "paced" {
			time.Sleep(time.Until(began.Add(time.Duration(sent / pace * float64(time.Second)))))
		}
		if _, err := conn.Write(datagram); err != nil && !errors.Is(err, syscall.ENOBUFS) {
			return nil, err
		}
	}
	for datagram[0] = wantEnd; answer[0] == 0; {
		if _, err := conn.Write(datagram); err != nil {
			return nil, err
		}
		if err := ask(); err != nil {
			return nil, err
		}
		if time.Since(began) > j.Span+patience/2 {
			return nil, errors.New("nothing arrives any more")
		}
	}
	arrived := float64(binary.BigEndian.Uint64(answer[1:]))
	rate := arrived / time.Since(began).Seconds()
	if j.Mode == "flood" {
		rate *= float64(j.N) * 8 / 1e9
	}
	return []float64{rate, 100 * (1 - arrived/sent)}, nil
}

// echo sends a datagram of N bytes and waits for the answer, again and again.
func (j job) echo() ([]float64, error) {
	conn, err := net.Dial("udp", j.Addr)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	datagram, answer := make([]byte, j.N), make([]byte, j.N)
	datagram[0] = wantEcho
	return again(j.Span, func() error {
		_, err := exchange(conn, datagram, answer)
		return err
	})
}

// exchange sends a datagram and reads the answer.
func exchange(conn net.Conn, datagram, answer []byte) (int, error) {
	if _, err := conn.Write(datagram); err != nil {
		return 0, err
	}
	_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second)) // fails only for a closed connection
	return conn.Read(answer)
}
