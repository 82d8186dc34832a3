package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// pair is a gateway and an app's namespace, whose gate records what it is
// shown and refuses it. Needs root.
type pair struct {
	t            *testing.T
	gateway, app *Namespace
	gate         *Gate
	shown        chan shown
}

type shown struct {
	Packet
	err error
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{t: t, shown: make(chan shown, 100)}
	var err error
	if p.gateway, err = New(); err != nil {
		t.Fatal(err)
	}
	if p.app, err = New(); err != nil {
		t.Fatal(err)
	}
	ipv6, err := Connect(p.gateway, p.app)
	if err != nil {
		t.Fatal(err)
	}
	if !ipv6 {
		t.Fatal("no IPv6")
	}
	gate, err := OpenGateway(p.gateway, ipv6)
	if err != nil {
		t.Fatal(err)
	}
	p.gate = gate
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- gate.Run(ctx, func(pkt Packet, err error) {
			pkt.IP = append([]byte(nil), pkt.IP...)
			p.shown <- shown{pkt, err}
			reply := pkt.Unreachable(Prohibited)
			if pkt.Proto == unix.IPPROTO_TCP && err == nil {
				reply = pkt.Reset()
			}
			_ = gate.Drop(pkt)
			_ = gate.Send(pkt, reply)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for _, c := range []interface{ Close() error }{gate, p.gateway, p.app} {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return p
}

// next waits for the next packet shown.
func (p *pair) next() shown {
	p.t.Helper()
	select {
	case s := <-p.shown:
		return s
	case <-time.After(5 * time.Second):
		p.t.Fatal("the gate was shown nothing")
		panic("unreachable")
	}
}

// sendRaw sends a whole IP packet from the app's namespace.
func (p *pair) sendRaw(packet []byte, to netip.Addr) {
	p.t.Helper()
	err := p.app.Do(func() error {
		domain := unix.AF_INET
		var sa unix.Sockaddr
		if to.Is6() {
			domain, sa = unix.AF_INET6, &unix.SockaddrInet6{Addr: to.As16()}
		} else {
			sa = &unix.SockaddrInet4{Addr: to.As4()}
		}
		fd, err := unix.Socket(domain, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1); err != nil {
			return err
		}
		return unix.Sendto(fd, packet, 0, sa)
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

var (
	far4 = netip.MustParseAddrPort("11.22.0.20:7")
	far6 = netip.MustParseAddrPort("[2a0d:aaaa::20]:7")
)

// from builds a packet that p's reply function makes: the other way round.
func from(src, dst netip.AddrPort) Packet { return Packet{Src: dst, Dst: src} }

// Whatever an app with every capability could send comes to the gate and no
// further, and the gate knows what it is.
func TestEverythingIsJudged(t *testing.T) {
	app4, app6 := netip.AddrPortFrom(App4, 4000), netip.AddrPortFrom(App6, 4000)
	spoofed4, spoofed6 := netip.MustParseAddrPort("11.1.1.1:4000"), netip.MustParseAddrPort("[2a0d::9]:4000")
	mapped := netip.MustParseAddrPort("[::ffff:11.1.1.1]:7")
	syn := make([]byte, 20)
	binary.BigEndian.PutUint16(syn, 4000)
	binary.BigEndian.PutUint16(syn[2:], 7)
	syn[12], syn[13] = 5<<4, 0x02
	fragment := from(app4, far4).Datagram([]byte("12345678"))
	fragment[6] = 0x20 // more fragments
	fragment[10], fragment[11] = 0, 0
	later := append([]byte(nil), fragment...)
	later[6], later[7] = 0, 1
	v6 := from(app6, far6).Datagram([]byte("x"))
	extended := func(header byte, ext []byte) []byte {
		b := append([]byte(nil), v6[:40]...)
		b[6] = header
		binary.BigEndian.PutUint16(b[4:], uint16(len(ext)+len(v6)-40))
		return append(append(b, ext...), v6[40:]...)
	}
	for name, c := range map[string]struct {
		packet   []byte
		to       netip.Addr
		proto    uint8
		src, dst netip.AddrPort
		err      error
	}{
		"udp":              {from(app4, far4).Datagram([]byte("x")), far4.Addr(), unix.IPPROTO_UDP, app4, far4, nil},
		"udp6":             {v6, far6.Addr(), unix.IPPROTO_UDP, app6, far6, nil},
		"spoofed udp":      {from(spoofed4, far4).Datagram([]byte("x")), far4.Addr(), unix.IPPROTO_UDP, spoofed4, far4, nil},
		"spoofed udp6":     {from(spoofed6, far6).Datagram([]byte("x")), far6.Addr(), unix.IPPROTO_UDP, spoofed6, far6, nil},
		"spoofed dns":      {from(spoofed4, netip.AddrPortFrom(far4.Addr(), 53)).Datagram([]byte("x")), far4.Addr(), unix.IPPROTO_UDP, spoofed4, netip.AddrPortFrom(far4.Addr(), 53), nil},
		"spoofed loopback": {from(netip.MustParseAddrPort("127.0.0.1:4000"), far4).Datagram([]byte("x")), far4.Addr(), unix.IPPROTO_UDP, netip.MustParseAddrPort("127.0.0.1:4000"), far4, nil},
		"spoofed gateway":  {from(netip.AddrPortFrom(Gateway4, 4000), far4).Datagram([]byte("x")), far4.Addr(), unix.IPPROTO_UDP, netip.AddrPortFrom(Gateway4, 4000), far4, nil},
		"syn":              {from(app4, far4).reply(unix.IPPROTO_TCP, syn, 16), far4.Addr(), unix.IPPROTO_TCP, app4, far4, nil},
		"syn to intake":    {from(app4, far4).reply(unix.IPPROTO_TCP, withPort(syn, intakePort), 16), far4.Addr(), unix.IPPROTO_TCP, app4, netip.AddrPortFrom(far4.Addr(), intakePort), nil},
		"gateway's own":    {from(app4, netip.AddrPortFrom(Gateway4, 7)).Datagram([]byte("x")), Gateway4, unix.IPPROTO_UDP, app4, netip.AddrPortFrom(Gateway4, 7), nil},
		"gre":              {from(app4, far4).reply(unix.IPPROTO_GRE, make([]byte, 8), 6), far4.Addr(), unix.IPPROTO_GRE, noPort(app4), noPort(far4), nil},
		"ipip":             {from(app4, far4).reply(unix.IPPROTO_IPIP, fragment, 6), far4.Addr(), unix.IPPROTO_IPIP, noPort(app4), noPort(far4), nil},
		"icmp timestamp":   {from(app4, far4).reply(unix.IPPROTO_ICMP, []byte{13, 0, 0, 0, 0, 0, 0, 0}, 2), far4.Addr(), unix.IPPROTO_ICMP, noPort(app4), noPort(far4), nil},
		"first fragment":   {fragment, far4.Addr(), unix.IPPROTO_UDP, noPort(app4), noPort(far4), ErrFragment},
		"later fragment":   {later, far4.Addr(), unix.IPPROTO_UDP, noPort(app4), noPort(far4), ErrFragment},
		"fragment6":        {extended(unix.IPPROTO_FRAGMENT, []byte{unix.IPPROTO_UDP, 0, 0, 1, 0, 0, 0, 9}), far6.Addr(), unix.IPPROTO_FRAGMENT, noPort(app6), noPort(far6), ErrFragment},
		"hop-by-hop":       {extended(unix.IPPROTO_HOPOPTS, []byte{unix.IPPROTO_UDP, 0, 1, 4, 0, 0, 0, 0}), far6.Addr(), unix.IPPROTO_HOPOPTS, noPort(app6), noPort(far6), ErrExtension},
		"routing header":   {extended(unix.IPPROTO_ROUTING, []byte{unix.IPPROTO_UDP, 0, 4, 0, 0, 0, 0, 0}), far6.Addr(), unix.IPPROTO_ROUTING, noPort(app6), noPort(far6), ErrExtension},
		"mapped":           {from(app6, mapped).Datagram([]byte("x")), mapped.Addr(), unix.IPPROTO_UDP, noPort(app6), noPort(mapped), ErrMapped},
		"broadcast":        {from(app4, netip.MustParseAddrPort("255.255.255.255:7")).Datagram([]byte("x")), netip.MustParseAddr("255.255.255.255"), unix.IPPROTO_UDP, app4, netip.MustParseAddrPort("255.255.255.255:7"), nil},
		"multicast":        {from(app4, netip.MustParseAddrPort("239.1.2.3:7")).Datagram([]byte("x")), netip.MustParseAddr("239.1.2.3"), unix.IPPROTO_UDP, app4, netip.MustParseAddrPort("239.1.2.3:7"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			p.sendRaw(c.packet, c.to)
			s := p.next()
			if s.Proto != c.proto || s.Src != c.src || s.Dst != c.dst || !errors.Is(s.err, c.err) {
				t.Errorf("shown as protocol %d, %v to %v, %v", s.Proto, s.Src, s.Dst, s.err)
			}
		})
	}
}

func noPort(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), 0) }

func withPort(tcp []byte, port uint16) []byte {
	b := append([]byte(nil), tcp...)
	binary.BigEndian.PutUint16(b[2:], port)
	return b
}

// A segment that belongs to no connection of the gateway's is refused by the
// kernel itself, and reaches no socket.
func TestStraySegments(t *testing.T) {
	p := newPair(t)
	ack := make([]byte, 20)
	binary.BigEndian.PutUint16(ack, 4000)
	binary.BigEndian.PutUint16(ack[2:], intakePort)
	ack[12], ack[13] = 5<<4, 0x10
	p.sendRaw(from(netip.AddrPortFrom(App4, 4000), far4).reply(unix.IPPROTO_TCP, ack, 16), far4.Addr())
	p.sendRaw(from(netip.AddrPortFrom(App4, 4000), far4).Datagram([]byte("after")), far4.Addr())
	if s := p.next(); s.Proto != unix.IPPROTO_UDP {
		t.Errorf("the gate was shown protocol %d", s.Proto)
	}
}

// Refused connections fail at once, with the errno of the refusal.
func TestRefusals(t *testing.T) {
	p := newPair(t)
	for _, network := range []string{"tcp4", "tcp6"} {
		address := map[string]netip.AddrPort{"tcp4": far4, "tcp6": far6}[network]
		err := p.app.Do(func() error {
			_, err := net.Dial(network, address.String())
			return err
		})
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v", network, err)
		}
		p.next()
	}
	for _, address := range []netip.AddrPort{far4, far6} {
		err := p.app.Do(func() error {
			c, err := net.Dial("udp", address.String())
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := c.Write([]byte("x")); err != nil {
				return err
			}
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
			_, err = c.Read(make([]byte, 1))
			return err
		})
		want := map[bool]error{true: unix.EHOSTUNREACH, false: unix.EACCES}[address.Addr().Is4()]
		if !errors.Is(err, want) {
			t.Errorf("udp %v: %v", address, err)
		}
		p.next()
	}
}

// As many packets as come at once while one is handled wait, and none is lost: a SYN
// that is takes a second to come again.
func TestQueueHoldsABurst(t *testing.T) {
	p := newPair(t)
	const burst = 1000 // many more than shown holds
	err := p.app.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		syn := make([]byte, 20)
		binary.BigEndian.PutUint16(syn[2:], far4.Port())
		syn[12], syn[13] = 5<<4, 0x02
		for i := range burst {
			app := netip.AddrPortFrom(App4, uint16(4000+i))
			binary.BigEndian.PutUint16(syn, app.Port())
			packet := from(app, far4).reply(unix.IPPROTO_TCP, append([]byte(nil), syn...), 16)
			if err := unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: far4.Addr().As4()}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range burst {
		if s := p.next(); s.Proto != unix.IPPROTO_TCP {
			t.Fatalf("the gate was shown protocol %d", s.Proto)
		}
	}
}

// Without a process at the queue, nothing passes: the gate fails closed.
func TestFailsClosed(t *testing.T) {
	gateway, err := New()
	if err != nil {
		t.Fatal(err)
	}
	app, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer gateway.Close()
	defer app.Close()
	if _, err := Connect(gateway, app); err != nil {
		t.Fatal(err)
	}
	gate, err := OpenGateway(gateway, true)
	if err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	err = gateway.Do(func() error { l, err = net.Listen("tcp4", "0.0.0.0:80"); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	gate.Close() // the rules stay
	err = app.Do(func() error {
		_, err := net.DialTimeout("tcp4", "11.22.0.20:80", 300*time.Millisecond)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("connect without a process at the gate: %v", err)
	}
}

func FuzzParsePacket(f *testing.F) {
	f.Add(from(netip.MustParseAddrPort("192.0.0.2:1"), far4).Datagram([]byte("x")))
	f.Add(from(netip.MustParseAddrPort("[fd61::2]:1"), far6).Datagram([]byte("x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePacket(b)
		if err != nil {
			return
		}
		if !p.Src.IsValid() || !p.Dst.IsValid() || p.Src.Addr().Is4() != p.Dst.Addr().Is4() || len(p.Payload) > len(b) {
			t.Fatalf("parsed as %+v", p)
		}
		for _, answer := range [][]byte{p.Reset(), p.Unreachable(NoPort), p.Datagram(p.Payload)} {
			back, err := ParsePacket(answer)
			src, dst := back.Src.Addr(), p.Dst.Addr()
			many := dst.IsMulticast() || dst == netip.MustParseAddr("255.255.255.255") // which never answer
			byGateway := many && (src == Gateway4 || src == Gateway6)
			if err != nil || back.Dst.Addr() != p.Src.Addr() || src != dst && !byGateway {
				t.Fatalf("answer %x parsed as %+v, %v", answer, back, err)
			}
		}
		if p.Echo() {
			if _, err := ParsePacket(p.EchoReply([]byte("x"))); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestSegments looks at how much TCP may send over the veth at once.
func TestSegments(t *testing.T) {
	p := newPair(t)
	for device, ns := range map[string]*Namespace{appDevice: p.app, gatewayDevice: p.gateway} {
		err := ns.links(func(h *netlink.Handle) error {
			link, err := h.LinkByName(device)
			if err != nil {
				return err
			}
			// A kernel that does not know it does not tell it.
			for _, got := range []uint32{link.Attrs().GSOMaxSize, link.Attrs().GSOIPv4MaxSize} {
				if got != 0 && got != segment {
					t.Errorf("%s: %d bytes at once, want %d", device, got, segment)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}
