package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"golang.org/x/sys/unix"

	"appfw/dnsguard"
	"appfw/netns"
	"appfw/netns/mmsg"
	"appfw/policy"
)

// What the destination sends and what refuses the flow are delivered by two
// goroutines, and mix in no datagram.
func TestDeliverAtOnce(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		ends[i], err = net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer ends[i].Close()
	}
	a := &gatedUDP{}
	if a.outbox, err = mmsg.NewOutbox(ends[0].(*net.UnixConn)); err != nil {
		t.Fatal(err)
	}
	const rounds, each = 200, 20
	var work sync.WaitGroup
	for _, c := range []byte("ab") {
		work.Go(func() {
			for range rounds {
				var datagrams [][]byte
				for i := range each { // of other sizes, so that the kernel need not divide
					datagrams = append(datagrams, bytes.Repeat([]byte{c}, 1+i))
				}
				if _, err := a.deliver(datagrams); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	work.Go(func() {
		next := map[byte]int{}
		b := make([]byte, 1<<16)
		for range 2 * rounds * each {
			n, err := ends[1].Read(b)
			if c := b[0]; err != nil || n != 1+next[c]%each || len(bytes.Trim(b[:n], string(c))) > 0 {
				t.Errorf("the %d. datagram of %c is %q, %v", next[c], c, b[:n], err)
				ends[1].Close() // so that nobody waits for room
				return
			}
			next[b[0]]++
		}
	})
	within(t, "the delivery", work.Wait)
}

// deafUDP is an app's side that records what it is told.
type deafUDP struct{ told []netns.Unreachable }

func (a *deafUDP) deliver([][]byte) (int, error)     { return 0, nil }
func (a *deafUDP) unreachable(why netns.Unreachable) { a.told = append(a.told, why) }
func (a *deafUDP) Close() error                      { return nil }

// Of datagrams that are received at once, those before the one that is denied are
// sent, with what waited for them, and none after it; and those alone are counted.
func TestDeniedAmongMany(t *testing.T) {
	hello := handshake(sni("a.example"))
	client, denied := newClient(quicV1, "original"), newClient(quicV1, "another one")
	datagrams := [][]byte{
		[]byte("before"), client.initial(crypto(0, hello[:50])), client.initial(crypto(50, hello[50:])), {}, make([]byte, 65507),
		denied.initial(crypto(0, handshake(sni("b.example")))), []byte("after"),
	}
	const passed = 5

	lines, err := policy.ReadLines("p", strings.NewReader("allow a.example"))
	if err != nil {
		t.Fatal(err)
	}
	rules, err := policy.Compile(policy.Config{Lines: lines})
	if err != nil {
		t.Fatal(err)
	}
	p := New(Config{Policy: func() *policy.Policy { return rules }, Pins: new(dnsguard.Pins), Now: time.Now})
	dst := netip.MustParseAddrPort("11.0.0.1:443")
	for _, n := range []policy.Name{"a.example", "b.example"} {
		p.Pins.Give(n, nil, []netip.Addr{dst.Addr()}, time.Minute, time.Now())
	}

	listen := func() *net.UDPConn {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial := func(to *net.UDPConn) *net.UDPConn {
		c, err := net.DialUDP("udp4", nil, to.LocalAddr().(*net.UDPAddr))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	from, to := listen(), listen()
	app := new(deafUDP)
	f := &udpFlow{decision: p.decide(origin{}, policy.UDP, dst, nil), app: app, out: dial(to)}
	if f.outbox, err = mmsg.NewOutbox(f.out); err != nil || !f.looked {
		t.Fatal(err, f.verdict)
	}
	sender := dial(from)
	want := 0
	for i, data := range datagrams {
		if _, err := sender.Write(data); err != nil {
			t.Fatal(err)
		}
		if i < passed {
			want += len(data)
		}
	}
	in, err := mmsg.NewInbox(from, mmsg.AnySize, mmsg.Gather)
	if err != nil {
		t.Fatal(err)
	}
	f.used.Store(time.Now().UnixNano())
	within(t, "the denial", func() { p.upward(f, in) })
	if f.sent.Load() != int64(want) || len(app.told) == 0 || app.told[0] != netns.Prohibited {
		t.Errorf("sent %d bytes of %d, told %v", f.sent.Load(), want, app.told)
	}
	f.close()
	if _, err := dial(to).Write([]byte("end")); err != nil {
		t.Fatal(err)
	}
	_ = to.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 1<<16)
	for i, data := range append(datagrams[:passed:passed], []byte("end")) {
		if n, err := to.Read(b); err != nil || !bytes.Equal(b[:n], data) {
			t.Fatalf("the %d. of %d is another: %d bytes, %v", i, passed, n, err)
		}
	}
}

// udpPair is a socket that is connected to a peer.
func udpPair(t *testing.T) (conn, peer *net.UDPConn) {
	t.Helper()
	peer, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	if conn, err = net.DialUDP("udp", nil, peer.LocalAddr().(*net.UDPAddr)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, peer
}

// An answer that comes while the app's side is waited for makes the flow last longer.
func TestAnsweredFlowLasts(t *testing.T) {
	conn, peer := udpPair(t)
	in, err := mmsg.NewInbox(conn, mmsg.AnySize, mmsg.Gather)
	if err != nil {
		t.Fatal(err)
	}
	f := new(udpFlow)
	f.used.Store(time.Now().Add(-shortIdle).UnixNano())
	var asked atomic.Int32
	p := New(Config{Now: func() time.Time {
		if asked.Add(1) == 1 { // the wait has ended
			f.received.Store(1)
			_, _ = peer.WriteTo([]byte("more"), conn.LocalAddr())
		}
		return time.Now()
	}})
	if err := p.receive(f, in); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("it ended as if there had been no answer")
	} else if err != nil {
		t.Error(err)
	}
	if asked.Load() < 2 {
		t.Error("the wait did not end")
	}
	in.Release()
}

// delivered is an app that says where its datagrams were.
type delivered chan weak.Pointer[byte]

func (d delivered) deliver(datagrams [][]byte) (bytes int, err error) {
	d <- weak.Make(&datagrams[0][0])
	return len(datagrams[0]), nil
}
func (d delivered) unreachable(netns.Unreachable) {}
func (d delivered) Close() error                  { return nil }

// A flow that waits for more holds no room for datagrams.
func TestIdleFlowHoldsNothing(t *testing.T) {
	conn, peer := udpPair(t)
	app := make(delivered)
	f := &udpFlow{app: app, out: conn}
	f.used.Store(time.Now().UnixNano())
	ended := make(chan struct{})
	go func() {
		New(Config{Now: time.Now}).downward(f)
		close(ended)
	}()
	if _, err := peer.WriteTo([]byte("hello"), conn.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	room := <-app
	for deadline := time.Now().Add(5 * time.Second); room.Value() != nil; runtime.GC() { // the pool forgets it, too
		if time.Now().After(deadline) {
			t.Error("it holds what was delivered")
			break
		}
	}
	conn.Close()
	<-ended
}

func TestNamedZone(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string]string{
		fmt.Sprintf("[fe80::1%%%d]:9", lo.Index): "[fe80::1%lo]:9",
		"[fe80::1%nosuch]:9":                     "[fe80::1%nosuch]:9",
		"192.0.2.1:9":                            "192.0.2.1:9",
	} {
		if got := namedZone(netip.MustParseAddrPort(from)).String(); got != want {
			t.Errorf("%s: %s, not %s", from, got, want)
		}
	}
}
