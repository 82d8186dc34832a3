package netns

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A socket that is bound for a flow, and not connected yet, gets nobody's datagrams;
// none is lost, and none goes unjudged. Connected, it gets its own.
func TestFlowSocket(t *testing.T) {
	for name, c := range map[string]struct {
		app netip.Addr
		far netip.AddrPort
	}{
		"IPv4": {App4, far4},
		"IPv6": {App6, far6},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			mine, other := netip.AddrPortFrom(c.app, 4000), netip.AddrPortFrom(c.app, 4001)
			send := func(from netip.AddrPort, text string) {
				t.Helper()
				p.sendRaw(Packet{Src: c.far, Dst: from}.Datagram([]byte(text)), c.far.Addr())
			}
			judged := func(from netip.AddrPort, text string) {
				t.Helper()
				if s := p.next(); s.Src != from || string(s.Payload) != text {
					t.Errorf("the gate was shown %q from %v, not %q from %v", s.Payload, s.Src, text, from)
				}
			}
			var fd int
			err := p.gateway.Do(func() (err error) { fd, err = bindFlow(mine, c.far); return err })
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			if v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST); v != 0 || err != nil {
				t.Errorf("SO_BROADCAST: %d, %v", v, err)
			}
			send(mine, "mine")
			judged(mine, "mine")
			send(other, "other's")
			judged(other, "other's")
			if err := connectFlow(fd, mine); err != nil {
				t.Fatal(err)
			}
			send(other, "other's again")
			judged(other, "other's again")
			if n, err := unix.Read(fd, make([]byte, 100)); err != unix.EAGAIN {
				t.Errorf("the flow's socket got %d bytes, %v", n, err)
			}
			if err := own(fd, false); err != nil { // as marker does
				t.Fatal(err)
			}
			send(other, "other's at last")
			judged(other, "other's at last")
			send(mine, "mine again")
			for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
				b := make([]byte, 100)
				n, err := unix.Read(fd, b)
				if err == unix.EAGAIN && time.Now().Before(deadline) {
					continue
				}
				if err != nil || string(b[:n]) != "mine again" {
					t.Errorf("the flow's socket got %q, %v", b[:max(n, 0)], err)
				}
				break
			}
		})
	}
}

// What comes from others while it is bound only, and no gate is before it, it does
// not get either.
func TestFlowSocketFilters(t *testing.T) {
	p := newPair(t)
	for _, at := range []string{"127.0.0.1", "::1"} {
		err := p.app.Do(func() error {
			var sources []*net.UDPConn
			for range 2 {
				c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(at)})
				if err != nil {
					return err
				}
				defer c.Close()
				sources = append(sources, c)
			}
			mine := sources[0].LocalAddr().(*net.UDPAddr).AddrPort()
			mine = netip.AddrPortFrom(mine.Addr().Unmap(), mine.Port())
			to := netip.AddrPortFrom(mine.Addr(), 4000)
			fd, err := bindFlow(mine, to)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			for i, text := range []string{"mine", "other's"} {
				if _, err := sources[i].WriteToUDPAddrPort([]byte(text), to); err != nil {
					return err
				}
			}
			b := make([]byte, 100)
			if n, err := unix.Read(fd, b); err != nil || string(b[:n]) != "mine" {
				t.Errorf("%s: it got %q, %v", at, b[:max(n, 0)], err)
			}
			if n, err := unix.Read(fd, b); err != unix.EAGAIN {
				t.Errorf("%s: it got %q, too, %v", at, b[:max(n, 0)], err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
