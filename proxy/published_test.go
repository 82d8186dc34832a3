package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/policy"
	"appfw/proxy/conntest"
	"appfw/proxy/decide"
)

// published is a port of the host's that leads to the app's port 8080.
type published struct {
	*world
	at             netip.AddrPort
	veth, loopback *fakeGate
	stop           func()
}

func (w *world) publish(t *testing.T, proto policy.Proto) *published {
	t.Helper()
	p := &published{world: w, veth: newFakeGate(t), loopback: newFakeGate(t)}
	in := &Published{Proxy: w.Proxy, Port: 8080, To: Inward{Veth: p.veth, Loopback: p.loopback}}
	if proto == policy.UDP {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		in.UDP, p.at = c, addrPort(c.LocalAddr().String())
	} else {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		in.TCP, p.at = l, addrPort(l.Addr().String())
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- w.Serve(ctx, in) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := receive(t, "the end of the port", ended); err != nil {
			t.Error(err)
		}
		for _, c := range p.loopback.udp {
			c.Close()
		}
	})
	t.Cleanup(p.stop)
	return p
}

// listens has the app listen at an address.
func (p *published) listens(t *testing.T, at string, handler func(net.Conn)) {
	p.loopback.mu.Lock()
	defer p.loopback.mu.Unlock()
	p.loopback.inTo[addrPort(at)] = conntest.Server(t, handler)
}

func (p *published) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", p.at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// resets fails the test if a client is not reset. It may be before it knows that it
// is connected.
func (p *published) resets(t *testing.T) {
	t.Helper()
	c, err := net.Dial("tcp", p.at.String())
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("it is not reset: %v", err)
	}
}

func TestPublishedTCP(t *testing.T) {
	t.Run("done", func(t *testing.T) {
		p := newWorld(t, "deny any").publish(t, policy.TCP)
		p.listens(t, "127.0.0.1:8080", func(c net.Conn) {
			conntest.Receive(t, c, "hello")
			conntest.Send(t, c, "ok")
			_ = c.(*net.TCPConn).CloseWrite()
		})
		c := p.dial(t)
		conntest.Send(t, c, "hello")
		conntest.Receive(t, c, "ok")
		ends(t, c)
		p.waitStory(1, "allow; done 2/5") // as the app sees it
		client := addrPort(c.LocalAddr().String())
		for _, e := range p.recorded() {
			if !e.Ingress || e.Dst != netip.AddrPortFrom(client.Addr(), p.at.Port()) || e.Client != client.String() || e.Proto != "tcp" {
				t.Errorf("recorded %+v", e)
			}
		}
		if want := (inward{addrPort("127.0.0.1:0"), addrPort("127.0.0.1:8080")}); len(p.loopback.inward) != 1 || p.loopback.inward[0] != want {
			t.Errorf("connected %v", p.loopback.inward)
		}
	})
	t.Run("to IPv6 alone", func(t *testing.T) {
		p := newWorld(t, "deny any").publish(t, policy.TCP)
		p.listens(t, "[::1]:8080", conntest.Echo)
		c := p.dial(t)
		pings(t, c)
		ends(t, c)
		p.waitStory(1, "allow; done 4/4")
	})
	t.Run("nobody listens", func(t *testing.T) {
		p := newWorld(t, "deny any").publish(t, policy.TCP)
		p.resets(t)
		p.waitStory(1, "allow; failed: connection refused")
		if len(p.loopback.inward) != 2 {
			t.Errorf("connected %v", p.loopback.inward)
		}
	})
	t.Run("denied", func(t *testing.T) {
		p := newWorld(t, "deny-from 127.0.0.1").publish(t, policy.TCP)
		p.resets(t)
		p.waitStory(1, "deny: the rule deny-from 127.0.0.1 (p:1) denies it")
		if len(p.loopback.inward) > 0 {
			t.Error("the app heard of it")
		}
	})
	t.Run("cut", func(t *testing.T) {
		p := newWorld(t, "deny any").publish(t, policy.TCP)
		p.listens(t, "127.0.0.1:8080", conntest.Echo)
		c := p.dial(t)
		pings(t, c)
		p.reload("allow-from 192.0.2.1")
		conntest.ReceiveEnd(t, c, unix.ECONNRESET)
		p.waitStory(1, "allow; allowed, deny: no rule allows it; cut 4/4")
	})
	t.Run("crowded", func(t *testing.T) {
		p := newWorld(t, "deny any").publish(t, policy.TCP)
		for range maxInward {
			p.inward <- struct{}{}
		}
		p.resets(t)
		p.waitStory(1, "allow; failed: too many clients wait already")
		<-p.inward
		p.listens(t, "127.0.0.1:8080", conntest.Echo)
		pings(t, p.dial(t))
		if len(p.inward) != maxInward-1 {
			t.Errorf("%d are counted", len(p.inward))
		}
		p.stop()
		p.wantStory(2, "allow; stopped 4/4")
	})
}

func TestPublishedUDP(t *testing.T) {
	dial := func(t *testing.T, p *published) *net.UDPConn {
		t.Helper()
		c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(p.at))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	app := func(p *published) *net.UDPConn {
		p.t.Helper()
		return p.loopback.appUDP(addrPort("127.0.0.1:8080"), addrPort("127.0.0.1:0"))
	}
	t.Run("there and back", func(t *testing.T) {
		p := newWorld(t, "deny any").publish(t, policy.UDP)
		c := dial(t, p)
		for _, s := range []string{"hello", "there"} {
			conntest.Send(t, c, s)
			hears(t, app(p), s)
			conntest.Send(t, app(p), "ok")
			hears(t, c, "ok")
		}
		p.counted(4, 10) // as the app sees it: it sent 4 bytes and received 10
		p.stop()
		p.wantStory(1, "allow; stopped 4/10")
		for _, e := range p.recorded() {
			if client := addrPort(c.LocalAddr().String()); !e.Ingress || e.Dst != netip.AddrPortFrom(client.Addr(), p.at.Port()) || e.Client != client.String() {
				t.Errorf("recorded %+v", e)
			}
		}
	})
	t.Run("denied", func(t *testing.T) {
		const denied = "deny: the rule deny-from any (p:1) denies it"
		p := newWorld(t, "deny-from any").publish(t, policy.UDP)
		c := dial(t, p)
		conntest.Send(t, c, "one")
		p.waitStory(1, denied)
		eventually(t, "its end", func() bool { return len(p.all()) == 0 })
		conntest.Send(t, c, "two") // nothing more is said of it
		p.reload("deny-from any\nallow-from 192.0.2.1")
		conntest.Send(t, c, "three") // but of other rules
		p.waitStory(2, denied)
		eventually(t, "its end", func() bool { return len(p.all()) == 0 })
		p.reload("allow-from any")
		conntest.Send(t, c, "four")
		hears(t, app(p), "four")
		p.stop()
		if n := len(p.recorded()); n != 4 {
			t.Errorf("recorded:\n%s", tell(p.recorded()))
		}
	})
	// Who could not be served for want of a descriptor is served when there is one.
	t.Run("without a descriptor", func(t *testing.T) {
		p := newWorld(t, "allow-from any").publish(t, policy.UDP)
		var short sync.Once
		p.loopback.mu.Lock()
		p.loopback.dialUDP = func() (err error) {
			short.Do(func() { err = unix.EMFILE })
			return err
		}
		p.loopback.mu.Unlock()
		c := dial(t, p)
		conntest.Send(t, c, "one")
		p.waitStory(1, "allow; allowed, deny: appfw has no file descriptor left for it (ulimit -n raises the limit); failed: too many open files")
		eventually(t, "its end", func() bool { return len(p.all()) == 0 })
		conntest.Send(t, c, "two")
		hears(t, app(p), "two")
	})
}

// What clients of published ports are not for.
func TestVisitsAreOfOneProtocol(t *testing.T) {
	if _, err := new(client).DialUDP(); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if _, err := new(visitor).DialTCP(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

// Who was denied is not by rules that hold since: his next datagram is judged anew.
func TestDeniedBefore(t *testing.T) {
	w := newWorld(t, "deny-from any")
	v := &visitor{
		visit: visit{port: &Published{Proxy: w.Proxy}, from: addrPort("192.0.2.1:9")}, denied: new(decide.Denials), rules: w.rules.Load(),
	}
	w.rules.Store(compile(t, "allow-from any"))
	v.Refuse(&Denied{})
	if v.denied.Has(v.from.Addr(), w.rules.Load()) {
		t.Error("the new rules deny him")
	}
	if !v.denied.Has(v.from.Addr(), v.rules) {
		t.Error("it is forgotten")
	}
}

// AdmitsClient judges who comes to a port that appfw listens at, and says whom it
// does not let in.
func TestAdmitsClient(t *testing.T) {
	w := newWorld(t, "deny-from 192.0.2.1")
	at := addrPort("198.51.100.1:1080")
	if !w.AdmitsClient(addrPort("192.0.2.2:9"), at) || len(w.recorded()) > 0 {
		t.Errorf("recorded:\n%s", tell(w.recorded()))
	}
	if w.AdmitsClient(addrPort("192.0.2.1:9"), at) {
		t.Error("it is let in")
	}
	if got := tell(w.recorded()); got != "0 tcp from 192.0.2.1 to port 1080: deny: the rule deny-from 192.0.2.1 (p:1) denies it\n" {
		t.Errorf("recorded %q", got)
	}
	for _, a := range []netip.Addr{netns.App4, netns.Gateway6} {
		if w.AdmitsClient(netip.AddrPortFrom(a, 9), at) {
			t.Errorf("%s is let in", a)
		}
	}
}
