package explicit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/policy"
	"appfw/proxy"
	"appfw/proxy/journal"
	"appfw/proxy/upstream/socks"
)

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
	b := socks.AppendAddress([]byte{0, 0, 0}, host, 0)
	return string(b[:len(b)-2]) + raw
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
			reports := x.Denials()
			sendTo(t, client, at, header(t, host, denied.LocalAddr())+"denied")
			eventually(t, what+": a denial of "+host, func() bool { return x.Denials() > reports })
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
	eventually(t, "the flow is cut", func() bool { return len(x.Ends()) == 1 })
	reports := x.Denials()
	eventually(t, "it is denied", func() bool { // datagrams may be lost at its end
		sendTo(t, client, at, h+"b")
		return x.Denials() > reports
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
	eventually(t, "the flow is, too", func() bool { return len(x.Ends()) == 2 })
}

// However many destinations there are, only so many are kept, whether they are
// open, denied, or being opened.
func TestAssociationIsBounded(t *testing.T) {
	noLeak(t)
	to := udpSocket(t, "127.0.0.1")
	_, raw := port(t, to.LocalAddr().String())
	const maxWaits = 64 << 10 // bytes of a destination that is being opened
	for _, tt := range []struct {
		about, rules string
		held         bool
		host         func(i int) string
	}{
		{"open", "allow localhost", false, func(i int) string { return fmt.Sprintf("127.1.%d.%d", i/200, 1+i%200) }},
		{"denied", "allow a.example", false, func(i int) string { return fmt.Sprintf("127.1.%d.%d", i/200, 1+i%200) }},
		{"asked for", "allow *.example.com\nallow 127.0.0.1", true, func(i int) string { return fmt.Sprintf("n%d.example.com", i) }},
	} {
		t.Run(tt.about, func(t *testing.T) {
			noLeak(t)
			x := newTenant(t, tt.rules)
			if tt.held {
				x.dns.Hold = make(chan struct{})
			}
			hungUp, hangUp := context.WithCancel(t.Context())
			defer hangUp()
			a := newAssociation(hungUp, &client{by: x.Proxy}, udpSocket(t, "127.0.0.1"))
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 9)
			a.peer.Store(&from)
			data := make([]byte, 30<<10)
			var keys []proxy.Key
			for i := range 2 * maxAsked {
				x.dns.Set(tt.host(i)+".", "127.0.0.1")
				b := socks.AppendAddress(nil, tt.host(i), 0)
				h := append(b[:len(b)-2], raw...)
				for range 4 { // more than may wait
					a.datagram(t.Context(), h, data)
				}
				keys = append(keys, proxy.Key{Proto: policy.UDP, Text: string(h)})
				n := 0
				for _, k := range keys {
					if a.scope.Find(k) != nil {
						n++
					}
				}
				a.mu.Lock()
				if n > maxAsked || len(a.denied) > maxAsked {
					t.Fatalf("%d destinations and %d that are denied after %d", n, len(a.denied), i)
				}
				a.mu.Unlock()
			}
			if tt.held {
				close(x.dns.Hold)
				if n, err := to.Read(make([]byte, 1<<16)); n != len(data) {
					t.Errorf("what waited is %d bytes, %v", n, err)
				}
				eventually(t, "all that is kept is decided on", func() bool {
					return x.Count(func(e journal.Event) bool { return e.Flow != 0 }) >= maxAsked
				})
			}
			hangUp()
			within(t, "the end", a.scope.Wait)
			ends := x.Ends()
			for _, e := range ends {
				if tt.held && (len(ends) > maxAsked || e.Sent > maxWaits) {
					t.Errorf("one of %d destinations held %d bytes", len(ends), e.Sent)
				}
			}
		})
	}
}

// For one destination more than are kept, the one ends that has been idle for longest.
func TestAssociationEvicts(t *testing.T) {
	noLeak(t)
	to := udpSocket(t, "0.0.0.0")
	x := newTenant(t, "allow 127.0.0.0/8")
	s := newService(t, x.Proxy, nil)
	client := udpSocket(t, "127.0.0.1")
	_, at := s.associate(t, socksTo(3, "0.0.0.0", "\x00\x00"))
	host := func(i int) string { return fmt.Sprintf("127.2.%d.%d", i/200, 1+i%200) }
	say := func(i int) (from netip.AddrPort) {
		sendTo(t, client, at, header(t, host(i), to.LocalAddr())+"a")
		return hears(t, to, "a")
	}
	var from []netip.AddrPort
	for i := range maxAsked {
		from = append(from, say(i))
	}
	if again := say(0); again != from[0] { // so that the second is the idlest
		t.Errorf("the first comes from %v, and then %v", from[0], again)
	}
	if ends := x.Ends(); len(ends) > 0 {
		t.Errorf("ended: %+v", ends)
	}
	say(maxAsked)
	if e := x.ended(t, "the idlest"); e.End != journal.Crowded || e.Dst.Addr().String() != host(1) || e.Proto != "udp" || e.Sent != 1 {
		t.Errorf("%+v", e)
	}
	if again := say(0); again != from[0] {
		t.Errorf("the first comes from %v, and then %v", from[0], again)
	}
	if n := len(x.Ends()); n != 1 {
		t.Errorf("%d have ended", n)
	}
	say(1) // and the third is the idlest
	eventually(t, "another end", func() bool { return len(x.Ends()) == 2 })
	if e := x.Ends()[1]; e.End != journal.Crowded || e.Dst.Addr().String() != host(2) {
		t.Errorf("%+v", e)
	}
}

// What is denied is said once, however many datagrams come at once, until there is
// another policy. So it is with a name.
func TestAssociationDeniedOnce(t *testing.T) {
	noLeak(t)
	to, denied := udpSocket(t, "127.0.0.1"), udpSocket(t, "127.0.0.2")
	x := newTenant(t, "allow 127.0.0.1")
	s := newService(t, x.Proxy, nil)
	client := udpSocket(t, "127.0.0.1")
	_, at := s.associate(t, socksTo(3, "0.0.0.0", "\x00\x00"))
	for round, policy := range []string{"allow 127.0.0.1", "allow 127.0.0.1\ndeny 127.0.0.2"} {
		x.become(t, policy)
		x.Recheck()
		for range 300 {
			for _, host := range []string{"127.0.0.2", "denied.example"} {
				sendTo(t, client, at, header(t, host, denied.LocalAddr())+"denied")
			}
			sendTo(t, client, at, header(t, "127.0.0.1", to.LocalAddr())+"allowed")
			hears(t, to, "allowed") // so that no datagram is lost for want of room
		}
		eventually(t, "the denials", func() bool { return x.Denials() >= 2*(round+1) })
		if n := x.Denials(); n != 2*(round+1) {
			t.Errorf("%d denials in round %d", n, round)
		}
	}
	if n := len(x.Ends()); n != 0 {
		t.Errorf("%d ends", n)
	}
	_ = denied.SetReadDeadline(time.Unix(1, 0))
	if n, err := denied.Read(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a denied destination got %d bytes, %v", n, err)
	}
}

// Of a name's addresses, datagrams go to the first that there is a way to, and answers
// say that they are from there.
func TestAssociationAnswers(t *testing.T) {
	noLeak(t)
	to := udpSocket(t, "127.0.0.1")
	x := newTenant(t, "allow many.example\nallow 127.0.0.0/8")
	x.dns.Set("many.example.", "127.255.255.255 127.0.0.1") // the socket is for no broadcast
	s := newService(t, x.Proxy, nil)
	client := udpSocket(t, "127.0.0.1")
	control, at := s.associate(t, socksTo(3, "0.0.0.0", "\x00\x00"))
	sendTo(t, client, at, header(t, "many.example", to.LocalAddr())+"ping")
	sendTo(t, to, hears(t, to, "ping"), "pong")
	hears(t, client, header(t, "127.0.0.1", to.LocalAddr())+"pong")
	control.Close()
	if e := x.ended(t, "the client hangs up"); e.End != journal.Done || e.Name != "many.example" || e.Dst.String() != to.LocalAddr().String() || e.Sent != 4 || e.Received != 4 {
		t.Errorf("%v %+v", e.End, e)
	}
}

// What goes by an upstream is from the name that it was sent to: nobody here knows an
// address.
func TestAssociationByUpstream(t *testing.T) {
	noLeak(t)
	to := udpSocket(t, "127.0.0.1")
	_, raw := port(t, to.LocalAddr().String())
	chained := newTenant(t, "allow 127.0.0.1\nallow a.example")
	behind := newService(t, chained.Proxy, nil)
	x := newTenant(t, "upstream socks5h://"+behind.addr+"\nallow a.example")
	x.by(t, "socks5h://"+behind.addr)
	s := newService(t, x.Proxy, nil)
	client := udpSocket(t, "127.0.0.1")
	control, at := s.associate(t, socksTo(3, "0.0.0.0", "\x00\x00"))
	sendTo(t, client, at, header(t, "a.example", to.LocalAddr())+"ping")
	sendTo(t, to, hears(t, to, "ping"), "pong")
	hears(t, client, "\x00\x00\x00\x03\x09a.example"+raw+"pong")
	control.Close()
	x.ended(t, "the client hangs up")
	chained.ended(t, "the upstream's client hangs up")
}

// By a socket of AF_UNIX there is no address to send datagrams to.
func TestUnixClient(t *testing.T) {
	noLeak(t)
	at, _ := counter(t, "127.0.0.1:0")
	_, raw := port(t, at)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	x := newTenant(t, "allow 127.0.0.1\ndeny-from any") // of hosts
	s := New(Config{Proxy: x.Proxy})
	ended := make(chan struct{})
	go func() { s.ServeListener(t.Context(), l); close(ended) }()
	for what, turns := range map[string][]turn{
		"ASSOCIATE": {{hello5, open5}, {socksTo(3, "0.0.0.0", "\x00\x00"), refuse5(7)}},
		"CONNECT":   {{hello5, open5}, {socksTo(1, "127.0.0.1", raw), granted5}, {"ping", "ping"}},
	} {
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		talk(t, what, c, turns, 0)
		c.Close()
	}
	l.Close()
	within(t, "the end", func() { <-ended })
	if e := x.ended(t, "CONNECT"); e.Client != "unix" || e.End != journal.Done {
		t.Errorf("%+v", e)
	}
}
