package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// udpSocket is a port of UDP at an address of the loopback.
func udpSocket(t testing.TB, addr string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(addr)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

func (s *service) associate(t testing.TB, request string) (control *net.TCPConn, at netip.AddrPort) {
	t.Helper()
	control = s.dial(t)
	b := make([]byte, 12)
	if _, err := io.WriteString(control, hello5+request); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(control, b); err != nil || string(b[:6]) != open5+"\x05\x00\x00\x01" {
		t.Fatalf("%q, %v", b, err)
	}
	return control, netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[6:10])), uint16(b[10])<<8|uint16(b[11]))
}

func header(t testing.TB, host string, to net.Addr) string {
	t.Helper()
	_, raw := port(t, to.String())
	b := appendAddress([]byte{0, 0, 0}, host, 0)
	return string(b[:len(b)-2]) + raw
}

func sendTo(t testing.TB, c *net.UDPConn, at netip.AddrPort, s string) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte(s), at); err != nil {
		t.Fatal(err)
	}
}

// hears reads a datagram.
func hears(t testing.TB, c *net.UDPConn, want string) (from netip.AddrPort) {
	t.Helper()
	b := make([]byte, 1000)
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil || string(b[:n]) != want {
		t.Fatalf("%q, %v; want %q", b[:n], err, want)
	}
	return from
}

// Datagrams go by an association from its client alone, whole, and to what is
// allowed, and come back from there with where they are from.
func TestAssociate(t *testing.T) {
	noLeak(t)
	to, denied := udpSocket(t, "127.0.0.1"), udpSocket(t, "127.0.0.2")
	x := newTenant(t, "allow 127.0.0.1\nallow a.example\nallow far.example")
	s := newService(t, x.Proxy, nil)
	client, other, far := udpSocket(t, "127.0.0.1"), udpSocket(t, "127.0.0.1"), udpSocket(t, "127.0.0.3")
	_, own := port(t, client.LocalAddr().String())
	for what, request := range map[string]string{
		"any address and port": socksTo(3, "0.0.0.0", "\x00\x00"),
		"its port":             socksTo(3, "0.0.0.0", own),
		"its address and port": socksTo(3, "127.0.0.1", own),
		"another address":      socksTo(3, "127.0.0.3", own),
		"a name":               socksTo(3, "a.example", "\x00\x00"),
	} {
		control, at := s.associate(t, request)
		h := header(t, "127.0.0.1", to.LocalAddr())
		sendTo(t, far, at, h+"from another address")
		sendTo(t, client, at, h+"a")
		if !strings.HasSuffix(what, "port") {
			sendTo(t, client, at, h+"a")
			hears(t, to, "a") // its port is known by now
		}
		sendTo(t, other, at, h+"from another port")
		sendTo(t, client, at, h[:2]+"\x01"+h[3:]+"a fragment")
		for n := range h {
			sendTo(t, client, at, h[:n])
		}
		sendTo(t, client, at, "\x00\x00\x00\x05"+h[4:]+"an address of no type")
		hears(t, to, "a")
		sendTo(t, client, at, h+"b")
		from := hears(t, to, "b")
		if _, err := to.WriteToUDPAddrPort([]byte("c"), from); err != nil {
			t.Fatal(err)
		}
		hears(t, client, h+"c")
		for _, host := range []string{"127.0.0.2", "denied.example", "far.example", "::ffff:127.0.0.2", "0.0.0.0"} {
			reports := x.denials()
			sendTo(t, client, at, header(t, host, denied.LocalAddr())+"denied")
			eventually(t, what+": a denial of "+host, func() bool { return x.denials() > reports })
		}
		byName := header(t, "a.example", to.LocalAddr())
		sendTo(t, client, at, byName+"d")
		from = hears(t, to, "d")
		if _, err := to.WriteToUDPAddrPort([]byte("e"), from); err != nil {
			t.Fatal(err)
		}
		hears(t, client, h+"e") // an address is what it was sent to
		control.Close()
	}
	_ = denied.SetReadDeadline(time.Unix(1, 0))
	if n, err := denied.Read(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a denied destination got %d bytes, %v", n, err)
	}
}

// denials is how many flows were reported as denied.
func (x *tenant) denials() (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.events {
		if !e.Verdict.Allowed() {
			n++
		}
	}
	return n
}

// ends is how many flows were reported as ended.
func (x *tenant) ends() (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.events {
		if e.Closed {
			n++
		}
	}
	return n
}

// An association ends with its connection, and its flows when they are denied.
func TestAssociationEnds(t *testing.T) {
	noLeak(t)
	to := udpSocket(t, "127.0.0.1")
	x := newTenant(t, "allow 127.0.0.1")
	s := newService(t, x.Proxy, nil)
	client := udpSocket(t, "127.0.0.1")
	control, at := s.associate(t, socksTo(3, "0.0.0.0", "\x00\x00"))
	h := header(t, "127.0.0.1", to.LocalAddr())
	sendTo(t, client, at, h+"a")
	hears(t, to, "a")
	x.become(t, "deny 127.0.0.1")
	x.Recheck()
	eventually(t, "the flow is cut", func() bool { return x.ends() == 1 })
	reports := x.denials()
	eventually(t, "it is denied", func() bool { // datagrams may be lost at its end
		sendTo(t, client, at, h+"b")
		return x.denials() > reports
	})
	x.become(t, "allow 127.0.0.1")
	eventually(t, "it is allowed again", func() bool {
		sendTo(t, client, at, h+"c")
		_ = to.SetReadDeadline(time.Now().Add(time.Millisecond))
		n, err := to.Read(make([]byte, 9))
		return n == 1 && err == nil
	})
	// By a socket that hears of errors.
	probe, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	if _, err := probe.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	control.Close()
	eventually(t, "the port is closed", func() bool {
		_, err := probe.Write([]byte("x"))
		return errors.Is(err, unix.ECONNREFUSED)
	})
	eventually(t, "the flow is, too", func() bool { return x.ends() == 2 })
}

// However many destinations there are, only so many are kept, whether they are
// open, denied, or being opened.
func TestAssociationIsBounded(t *testing.T) {
	noLeak(t)
	to := udpSocket(t, "127.0.0.1")
	_, raw := port(t, to.LocalAddr().String())
	for _, tt := range []struct {
		about, rules string
		held         bool
		host         func(i int) string
	}{
		{"open", "allow localhost", false, func(i int) string { return fmt.Sprintf("127.1.%d.%d", i/200, 1+i%200) }},
		{"denied", "allow a.example", false, func(i int) string { return fmt.Sprintf("127.1.%d.%d", i/200, 1+i%200) }},
		{"asked for", "allow *.example.com", true, func(i int) string { return fmt.Sprintf("n%d.example.com", i) }},
	} {
		t.Run(tt.about, func(t *testing.T) {
			noLeak(t)
			x := newTenant(t, tt.rules)
			if tt.held {
				x.dns.hold = make(chan struct{})
			}
			conn := udpSocket(t, "127.0.0.1")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			d := &datagrams{client: &client{asker: asker{Proxy: x.Proxy, ctx: ctx}}, conn: conn, flows: make(map[string]*askedUDP)}
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 9)
			d.from.Store(&from)
			data := make([]byte, 30<<10)
			for i := range 2 * maxAsked {
				b := appendAddress(nil, tt.host(i), 0)
				h := append(b[:len(b)-2], raw...)
				for range 4 { // more than may wait
					d.datagram(ctx, h, data)
				}
				d.mu.Lock()
				held := 0
				for _, x := range d.flows {
					x.mu.Lock()
					for _, w := range x.waiting {
						held += len(w)
					}
					x.mu.Unlock()
				}
				if n := len(d.flows); n > maxAsked || held > maxAsked*maxHeld {
					t.Fatalf("%d destinations, %d bytes held after %d", n, held, i)
				}
				d.mu.Unlock()
			}
			if tt.held {
				close(x.dns.hold)
			}
			cancel()
			d.mu.Lock()
			flows := slices.Collect(maps.Values(d.flows))
			d.mu.Unlock()
			for _, x := range flows {
				x.end()
			}
			within(t, "the end", d.work.Wait)
		})
	}
}

// FuzzAddress: a header is what its parts make, and what they make is read as them.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{
		"\x00\x00\x00\x01\x01\x02\x03\x04\x00\x35data", "\x00\x00\x00\x03\x09a.example\x00\x35", "\x00\x00\x00\x03\x00\x00\x35", "\x00\x00\x00\x03\x071.2.3.4\x00\x35",
		"\x00\x00\x00\x04" + strings.Repeat("\x00", 10) + "\xff\xff\x01\x02\x03\x04\x00\x35", "\x00\x00\x00\x03\xffshort", "\x00\x00\x01\x01\x01\x02\x03\x04\x00\x35",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		source, data, ok := payload(b)
		if !ok {
			return
		}
		if 3+len(source)+len(data) != len(b) {
			t.Fatalf("%q and %q of %q", source, data, b)
		}
		host, port := splitAddress(string(source))
		made := appendAddress(nil, host, port)
		want := host
		addr, err := netip.ParseAddr(host)
		if err == nil && addr.Zone() == "" {
			want = addr.String() // as a name, it may have been spelled in another way
		}
		if again, p := splitAddress(string(made)); again != want || p != port {
			t.Fatalf("%q, %d is %q, %d", host, port, again, p)
		}
		// But that an address may have been written as a name.
		if (err != nil || source[0] != addressName) && string(made) != string(source) {
			t.Fatalf("%q is %q", source, made)
		}
	})
}
