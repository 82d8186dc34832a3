package conntest

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// UDP is a port of UDP at an IPv4 address of this host, any if that is 0.0.0.0. What
// is waited for there has to come within Patience.
func UDP(t testing.TB, addr string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(addr)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(Patience))
	return c
}

// SendTo sends a datagram.
func SendTo(t testing.TB, c *net.UDPConn, to netip.AddrPort, data string) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte(data), to); err != nil {
		t.Fatal(err)
	}
}

// Hear reads a datagram, which is to be want, and returns where it is from.
func Hear(t testing.TB, c *net.UDPConn, want string) (from netip.AddrPort) {
	t.Helper()
	b := make([]byte, 1000)
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil || string(b[:n]) != want {
		t.Fatalf("%q, %v; want %q", b[:n], err, want)
	}
	return from
}
