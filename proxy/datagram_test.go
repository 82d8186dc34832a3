package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/netns/mmsg"
	"appfw/policy"
	"appfw/proxy/conntest"
	"appfw/proxy/journal"
	"appfw/proxy/sniff"
)

// quicHello is a client's datagrams with a ClientHello for a name.
func quicHello(t *testing.T, name string) [][]byte {
	t.Helper()
	var read sniff.QUIC
	return conntest.QUICHello(t, &tls.Config{ServerName: name, NextProtos: []string{"h3"}}, func(b []byte) (bool, error) {
		_, more, err := read.Read(b)
		return more, err
	})
}

// hears reads the next datagram, which is to be that.
func hears(t testing.TB, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, 1<<16)
	n, err := c.Read(b)
	if err != nil || string(b[:n]) != want {
		t.Errorf("received %.80q, %v; want %.80q", b[:n], err, want)
	}
}

// The first datagrams of a flow wait until it has its socket, and then come by that,
// in their order; more than there is room for are dropped.
func TestDatagramsWait(t *testing.T) {
	here := addrPort(echoUDP(t))
	for _, c := range []struct {
		name     string
		src, dst netip.AddrPort
	}{{"IPv4", app4, here}, {"loopback", addrPort("127.0.0.1:40000"), here}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, "allow 127.0.0.1")
			g := newFakeGate(t)
			opening, hold := make(chan struct{}), make(chan struct{})
			g.dialUDP = func() error { close(opening); <-hold; return nil }
			in, stop := w.served(g, nil)
			var numbers []uint16
			for i := range maxWaiting + 3 {
				numbers = append(numbers, g.show(udpPacket(c.src, c.dst, fmt.Sprint(i))))
				if i == 0 {
					receive(t, "the socket", opening)
				}
			}
			for i := range 3 {
				g.wantSettled(numbers[maxWaiting+i], false)
			}
			for _, n := range numbers[:maxWaiting] {
				g.waits(n)
			}
			close(hold)
			for _, n := range numbers[:maxWaiting] {
				g.wantSettled(n, true)
			}
			app := g.appUDP(c.src, c.dst)
			for i := range maxWaiting {
				hears(t, app, fmt.Sprint(i))
			}
			// What comes by the queue now came before the socket was there.
			g.wantSettled(g.show(udpPacket(c.src, c.dst, "late")), true)
			hears(t, app, "late")
			if in.scope.open != 1 || in.scope.opening != [4]int{} {
				t.Errorf("counted as open: %d, as opening: %v", in.scope.open, in.scope.opening)
			}
			sent := 10 + 2*(maxWaiting-10) + 4
			w.counted(int64(sent), int64(sent))
			stop()
			g.silent()
			w.wantStory(1, fmt.Sprintf("allow; stopped %d/%d", sent, sent))
		})
	}
}

// What a datagram of no flow is answered.
func TestDatagramRefused(t *testing.T) {
	quic := quicHello(t, "a.example")[0]
	for _, c := range []struct {
		name, rules string
		src, dst    netip.AddrPort
		data        string
		before      error // of the socket to the app
		story       string
		replies     []string
	}{
		{name: "denied", rules: "allow 192.0.2.1", src: app4, dst: addrPort("192.0.2.2:9"), story: "deny: no rule allows it", replies: []string{"prohibited"}},
		{name: "denied, IPv6", rules: "allow 192.0.2.1", src: app6, dst: addrPort("[2001:db8::2]:9"), story: "deny: no rule allows it", replies: []string{"prohibited"}},
		{name: "QUIC", rules: "allow 192.0.2.1", src: app4, dst: addrPort("192.0.2.2:443"), data: string(quic), story: "deny: no rule allows it", replies: []string{"datagram", "prohibited"}},
		{name: "multicast", rules: "allow any", src: app4, dst: addrPort("224.0.0.251:9"), story: "deny: multicast addresses are not carried", replies: []string{"prohibited"}},
		{name: "spoofed", rules: "allow any", src: addrPort("192.0.2.77:1"), dst: addrPort("192.0.2.2:9"), story: "deny: its source address 192.0.2.77 is not the app's"},
		{name: "without a descriptor", rules: "allow 127.0.0.1", src: app4, dst: addrPort("127.0.0.1:9"), before: unix.EMFILE,
			story:   "allow; allowed, deny: appfw has no file descriptor left for it (ulimit -n raises the limit); failed: too many open files",
			replies: []string{"prohibited"}},
		{name: "without a socket", rules: "allow 127.0.0.1", src: app4, dst: addrPort("127.0.0.1:9"), before: errors.New("it fails"),
			story: "allow; failed: it fails", replies: []string{"no host"}},
		{name: "by an upstream that carries none", rules: "allow 192.0.2.1\nupstream http://127.0.0.1:1", src: app4, dst: addrPort("192.0.2.1:9"),
			story: "allow; allowed, deny: the upstream carries no UDP; failed: the upstream carries no UDP", replies: []string{"prohibited"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.rules)
			w.via("", "http://127.0.0.1:1")
			g := newFakeGate(t)
			g.dialUDP = func() error { return c.before }
			_, stop := w.served(g, nil)
			g.wantSettled(g.show(udpPacket(c.src, c.dst, c.data)), false)
			w.waitStory(1, c.story)
			for _, want := range c.replies {
				if reply := g.reply(); kindOf(reply) != want {
					t.Errorf("answered by %s, not %s", kindOf(reply), want)
				}
			}
			stop()
			g.silent()
		})
	}
}

// All that waits is refused with its flow.
func TestWaitingRefused(t *testing.T) {
	here := addrPort(echoUDP(t))
	w := newWorld(t, "allow 127.0.0.1")
	g := newFakeGate(t)
	opening, hold := make(chan struct{}), make(chan struct{})
	g.dialUDP = func() error { close(opening); <-hold; return nil }
	_, stop := w.served(g, nil)
	first := g.show(udpPacket(app4, here, "one"))
	receive(t, "the socket", opening)
	numbers := []uint16{first, g.show(udpPacket(app4, here, "two")), g.show(udpPacket(app4, here, "three"))}
	eventually(t, "what waits", func() bool {
		a := w.all()[0].attempt.(*datagram)
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.waiting) == 3
	})
	w.reload("deny any")
	close(hold)
	for _, n := range numbers {
		g.wantSettled(n, false)
		if got := kindOf(g.reply()); got != "prohibited" {
			t.Errorf("answered by %s", got)
		}
	}
	stop()
	w.wantStory(1, "allow; allowed, deny: the rule deny any (p:1) denies it; cut: it was not wanted any more")
	g.silent()
}

// What is said when an open flow ends: that nobody is there, or that it is denied.
func TestOpenDatagramsEnd(t *testing.T) {
	t.Run("refused", func(t *testing.T) {
		nowhere, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		at := addrPort(nowhere.LocalAddr().String())
		nowhere.Close()
		w := newWorld(t, "allow 127.0.0.1")
		g := newFakeGate(t)
		_, stop := w.served(g, nil)
		first := udpPacket(app4, at, string(make([]byte, 200)))
		g.wantSettled(g.show(first), true)
		reply := g.reply()
		if kindOf(reply) != "no port" || !bytes.Equal(reply.Payload[8:], first[:128]) { // which is quoted
			t.Errorf("answered by %s: %x", kindOf(reply), reply.Payload)
		}
		w.wait("the end", func(events []journal.Event) bool { return len(events) == 2 && events[1].End == journal.Broken })
		stop()
	})
	t.Run("denied", func(t *testing.T) {
		here := addrPort(echoUDP(t))
		w := newWorld(t, "allow 127.0.0.1")
		g := newFakeGate(t)
		_, stop := w.served(g, nil)
		g.wantSettled(g.show(udpPacket(app4, here, "ping")), true)
		hears(t, g.appUDP(app4, here), "ping")
		w.counted(4, 4)
		w.reload("deny any")
		if got := kindOf(g.reply()); got != "prohibited" {
			t.Errorf("answered by %s", got)
		}
		w.waitStory(1, "allow; allowed, deny: the rule deny any (p:1) denies it; cut 4/4")
		stop()
		g.silent()
	})
	t.Run("denied for what it shows", func(t *testing.T) {
		here := addrPort(echoUDP(t))
		w := newWorld(t, "allow 127.0.0.1\ndeny b.example")
		g := newFakeGate(t)
		_, stop := w.served(g, nil)
		g.wantSettled(g.show(udpPacket(app4, here, "ping")), true)
		app := g.appUDP(app4, here)
		hears(t, app, "ping")
		w.counted(4, 4)
		for _, data := range quicHello(t, "b.example") {
			_, _ = app.Write(data)
		}
		b := make([]byte, 1<<16)
		if n, err := app.Read(b); err != nil || n < 20 { // QUIC's own refusal
			t.Errorf("received %d bytes, %v", n, err)
		}
		w.waitStory(1, "allow; allowed, deny: the rule deny b.example (p:2) denies it; cut 4/4")
		if got := kindOf(g.reply()); got != "prohibited" {
			t.Errorf("answered by %s", got)
		}
		stop()
		g.silent()
	})
}

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
	a := &gateSink{}
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
				if _, err := a.Deliver(datagrams); err != nil {
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

// Of flows of datagrams, as many are open as there is room for; the one that was idle
// for longest ends for another.
func TestDatagramsCrowded(t *testing.T) {
	here := addrPort(echoUDP(t))
	w := newWorld(t, "allow 127.0.0.1")
	g := newFakeGate(t)
	in, stop := w.served(g, nil)
	in.scope.Most = 2
	from := func(i int) netip.AddrPort { return netip.AddrPortFrom(netns.App4, uint16(1000+i)) }
	for i := range 3 {
		g.wantSettled(g.show(udpPacket(from(i), here, "ping")), true)
		hears(t, g.appUDP(from(i), here), "ping")
		eventually(t, "what is counted", func() bool {
			return !slices.ContainsFunc(w.all(), func(f *Flow) bool { return f.sent.Load() != 4 || f.received.Load() != 4 })
		})
	}
	w.waitStory(1, "allow; crowded 4/4")
	// It may come again, as a flow of its own.
	g.wantSettled(g.show(udpPacket(from(0), here, "again")), true)
	w.waitStory(2, "allow; crowded 4/4")
	if a := in.scope.Find(Key{Proto: policy.UDP, Src: from(1), Dst: here}); a != nil {
		t.Error("it is found")
	}
	stop()
	g.silent()
}
