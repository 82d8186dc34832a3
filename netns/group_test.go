package netns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A socket is found while it connects, and its user is told.
func TestGroup(t *testing.T) {
	ns, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		var l net.Listener
		var c net.Conn
		err := ns.Do(func() (err error) {
			lo, err := netlink.LinkByName("lo")
			if err == nil {
				err = netlink.LinkSetUp(lo)
			}
			if err != nil {
				return err
			}
			if l, err = net.Listen("tcp", at); err == nil {
				c, err = net.Dial("tcp", l.Addr().String())
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		src, dst := c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
		if got := ns.Group(unix.IPPROTO_TCP, src, dst); !strings.HasPrefix(got, fmt.Sprintf("%d ", os.Getuid())) {
			t.Errorf("%v: %q", src, got)
		}
		c.Close()
		l.Close()
		if got := ns.Group(unix.IPPROTO_TCP, netip.AddrPortFrom(src.Addr(), 1), dst); got != "" {
			t.Errorf("of a socket that is not there: %q", got)
		}
	}
}
