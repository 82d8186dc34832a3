package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"appfw/policy"
	"appfw/proxy/conntest"
	"appfw/proxy/decide"
)

// fakeSOCKS is a SOCKS5 server that associates (RFC 1928), and sends datagrams back as
// they came. What came is in got.
func fakeSOCKS(t *testing.T) (url string, got chan []byte) {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	got = make(chan []byte, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			got <- bytes.Clone(b[:n])
			_, _ = c.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	port := addrPort(c.LocalAddr().String()).Port()
	at := conntest.Server(t, func(c net.Conn) {
		b := make([]byte, 512)
		for _, answer := range []string{"\x05\x00", "\x05\x00\x00\x01\x7f\x00\x00\x01" + string([]byte{byte(port >> 8), byte(port)})} {
			if _, err := c.Read(b); err != nil {
				return
			}
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
		_, _ = io.Copy(io.Discard, c)
	})
	return "socks5h://" + at, got
}

// reaching is an attempt that is told where its datagrams go.
type reaching struct {
	*attempt
	host string
	port uint16
}

func (r *reaching) Reached(host string, port uint16) { r.host, r.port = host, port }

// Datagrams by an upstream go to a name that is resolved there.
func TestDatagramsByUpstream(t *testing.T) {
	url, got := fakeSOCKS(t)
	w := newWorld(t, "upstream up="+url+"\nallow a.example via=up\nallow 11.0.0.1 via=up\nisolate destination")
	w.via("up", url)
	v4, _, err := w.Guard.Synthetic.For("a.example")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dst    netip.AddrPort
		host   string
		header string
	}{
		{netip.AddrPortFrom(v4, 53), "a.example", "\x00\x00\x00\x03\x09a.example\x00\x35"},
		{addrPort("11.0.0.1:53"), "11.0.0.1", "\x00\x00\x00\x01\x0b\x00\x00\x01\x00\x35"},
	} {
		sink := newSink()
		ctx, cancel := context.WithCancel(t.Context())
		a := &reaching{attempt: newAttempt(t, Facts{Facts: decide.Facts{Proto: policy.UDP, Dst: c.dst}, Scope: w.NewScope()}, func(context.Context) (Endpoint, error) {
			return Endpoint{Datagrams: sink}, nil
		})}
		ended := w.started(ctx, a)
		sink.say("ping")
		if b := receive(t, "the datagram", got); string(b) != c.header+"ping" {
			t.Errorf("%s: sent %q", c.host, b)
		}
		if s := receive(t, "the answer", sink.got); s != "ping" {
			t.Errorf("%s: received %q", c.host, s)
		}
		w.counted(4, 4)
		cancel()
		receive(t, "the end", ended)
		if a.host != c.host || a.port != 53 {
			t.Errorf("%s: reached %s %d", c.host, a.host, a.port)
		}
	}
	w.wantStory(1, "allow; stopped 4/4")
	w.wantStory(2, "allow; stopped 4/4")
}

// A name that has another way out at other ports was not resolved before: it is when
// a flow goes there directly, to those of its addresses that are allowed.
func TestNameDirectly(t *testing.T) {
	here, hereUDP := addrPort(conntest.Server(t, conntest.Echo)), addrPort(echoUDP(t))
	const names = "upstream up=http://192.0.2.1:1\nallow a.example:1 via=up\nallow a.example:2-65535\n"
	begin := func(t *testing.T, proto policy.Proto, port uint16, rules string, accept func(context.Context) (Endpoint, error)) (*world, *attempt, <-chan struct{}, func()) {
		w := newWorld(t, names+rules)
		w.names.set("a.example", "11.0.0.1", "127.0.0.1") // of which only the second may be
		v4, _, err := w.Guard.Synthetic.For("a.example")
		if err != nil {
			t.Fatal(err)
		}
		a := newAttempt(t, Facts{Facts: decide.Facts{Proto: proto, Dst: netip.AddrPortFrom(v4, port)}, Scope: w.NewScope()}, accept)
		ctx, cancel := context.WithCancel(t.Context())
		return w, a, w.started(ctx, a), cancel
	}
	const deny = "deny 11.0.0.1\n"
	t.Run("tcp", func(t *testing.T) {
		app, accept := stream(t)
		w, _, ended, cancel := begin(t, policy.TCP, here.Port(), deny+"allow 127.0.0.1", accept)
		defer cancel()
		pings(t, app)
		w.reload(names + "deny 127.0.0.1") // where it went in truth
		conntest.ReceiveEnd(t, app, unix.ECONNRESET)
		receive(t, "the end", ended)
		w.wantStory(1, "allow; allowed, deny: the rule deny 127.0.0.1 (p:4) denies it; cut 4/4")
	})
	t.Run("udp", func(t *testing.T) {
		sink := newSink()
		w, _, ended, cancel := begin(t, policy.UDP, hereUDP.Port(), deny+"allow 127.0.0.1", func(context.Context) (Endpoint, error) {
			return Endpoint{Datagrams: sink}, nil
		})
		sink.say("ping")
		receive(t, "the answer", sink.got)
		w.counted(4, 4)
		cancel()
		receive(t, "the end", ended)
		w.wantStory(1, "allow; stopped 4/4")
	})
	for _, proto := range []policy.Proto{policy.TCP, policy.UDP} {
		t.Run("to none, "+proto.String(), func(t *testing.T) {
			w, a, ended, cancel := begin(t, proto, here.Port(), deny, nil)
			defer cancel()
			receive(t, "the end", ended)
			w.wantStory(1, "allow; failed: no route to host")
			if err := receive(t, "the refusal", a.refused); !errors.Is(err, unix.EHOSTUNREACH) {
				t.Error(err)
			}
		})
	}
}

// A proxy that hangs is not alive.
func TestAlive(t *testing.T) {
	w := newWorld(t, "allow any")
	within(t, "life", w.Alive)
	w.Proxy.mu.Lock()
	ended := make(chan struct{})
	go func() { defer close(ended); w.Alive() }()
	still(t, ended)
	w.Proxy.mu.Unlock()
	receive(t, "life", ended)
}

// What isolates flows from each other.
func TestIsolation(t *testing.T) {
	owner := func() string { return "process" }
	for _, c := range []struct {
		rules string
		from  Subject
		want  string // "?": random
	}{
		{"", Subject{Credentials: "alice"}, "alice"},
		{"isolate run", Subject{Credentials: "alice", Owner: owner}, "alice"},
		{"isolate destination", Subject{Credentials: "alice", Owner: owner}, "host\x00alice"},
		{"isolate process", Subject{Credentials: "alice", Owner: owner}, "process\x00alice"},
		{"isolate process", Subject{Credentials: "alice", Owner: func() string { return "" }}, "?"},
		{"isolate process", Subject{Credentials: "alice"}, "?"},
	} {
		f := &Flow{rules: compile(t, c.rules), facts: Facts{Subject: c.from}}
		one, other := f.isolation("host"), f.isolation("host")
		switch {
		case c.want == "?" && (one == other || len(one) < 20):
			t.Errorf("%+v: %q and %q", c, one, other)
		case c.want != "?" && (one != c.want || other != c.want):
			t.Errorf("%+v: %q and %q", c, one, other)
		}
	}
}
