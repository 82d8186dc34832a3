package relay

import (
	"net"
	"net/netip"
	"syscall"
)

// Stream is a connection that has two directions, of which each ends by itself, and
// that the kernel can splice. One that has a method Cause says by that why it ended, if
// that was not in order.
type Stream interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

// Dialled is a connection that was dialled as a Stream, which is nil if there is an error.
func Dialled[S Stream](conn S, err error) (Stream, error) {
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// Reset closes a connection, of TCP by a reset instead of a FIN.
func Reset(c net.Conn) {
	if tcp, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	c.Close()
}

// AddrPort is the address of a socket of TCP or UDP; invalid for others. One of IPv4
// is never mapped to IPv6.
func AddrPort(a net.Addr) netip.AddrPort {
	at, ok := a.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return netip.AddrPort{}
	}
	ap := at.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
