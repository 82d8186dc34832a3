package proxy

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/netns/route"
)

// mayPing tells whether the user of this test may send echo requests
// (net.ipv4.ping_group_range of icmp(7)).
func mayPing(t *testing.T) bool {
	t.Helper()
	_, err := netns.Ping(t.Context(), netip.MustParseAddr("127.0.0.1"), []byte{8, 0, 0, 0, 0, 0, 0, 1})
	if err != nil && !errors.Is(err, netns.ErrNoPing) {
		t.Fatal(err)
	}
	return err == nil
}

// An echo request is answered when its destination answers, or refused if the host
// does not let appfw's user send any. Either way it does not wait on in the queue.
func TestEcho(t *testing.T) {
	w := newWorld(t, "allow 127.0.0.1")
	g := newFakeGate(t)
	_, stop := w.served(g, nil)
	here := netip.MustParseAddr("127.0.0.1")
	for seq := byte(1); seq <= 2; seq++ {
		g.wantSettled(g.show(echoPacket(netns.App4, here, 7, seq, "ping")), false)
		reply := g.reply()
		id := uint64(seq)
		if !mayPing(t) {
			const why = "this host does not let its user send echo requests"
			w.waitStory(id, "allow; allowed, deny: "+why+" (appfw doctor says how); failed: "+why+": permission denied")
			if kindOf(reply) != "prohibited" {
				t.Errorf("answered by %s", kindOf(reply))
			}
			continue
		}
		w.waitStory(id, "allow; done 4/4")
		if kindOf(reply) != "echo reply" || string(reply.Payload[4:]) != string([]byte{0, 7, 0, seq})+"ping" || reply.Src.Addr() != here {
			t.Errorf("answered by %s: %q from %s", kindOf(reply), reply.Payload, reply.Src)
		}
	}
	stop()
	g.silent()
}

// What an echo request is answered that does not leave.
func TestEchoRefused(t *testing.T) {
	for _, c := range []struct {
		name, rules string
		src, dst    string
		story       string
	}{
		{"denied", "allow 192.0.2.1", "192.0.0.2", "192.0.2.2", "deny: no rule allows it"},
		{"denied, IPv6", "allow 192.0.2.1", netns.App6.String(), "2001:db8::2", "deny: no rule allows it"},
		{"by an upstream", "allow 192.0.2.1\nupstream http://127.0.0.1:1", "192.0.0.2", "192.0.2.1", "deny: upstreams carry no ICMP"},
		{"to a multicast address", "allow any", "192.0.0.2", "224.0.0.1", "deny: multicast addresses are not carried"},
		{"anycast", "allow any", "192.0.0.2", "192.0.2.9", "deny: anycast addresses are not carried"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.rules)
			w.routes.set(func(netip.Addr) route.Kind { return route.Anycast })
			g := newFakeGate(t)
			_, stop := w.served(g, nil)
			g.wantSettled(g.show(echoPacket(netip.MustParseAddr(c.src), netip.MustParseAddr(c.dst), 7, 1, "ping")), false)
			w.waitStory(1, c.story)
			if got := kindOf(g.reply()); got != "prohibited" {
				t.Errorf("answered by %s", got)
			}
			stop()
			g.silent()
		})
	}
}

// The policy changes between the decision on an echo request and its leaving: it does
// not leave.
func TestEchoCut(t *testing.T) {
	w := newWorld(t, "allow 127.0.0.1")
	g := newFakeGate(t)
	_, stop := w.served(g, nil)
	let := make(chan struct{})
	g.onSettle = func() { w.reload("deny any"); close(let) }
	g.wantSettled(g.show(echoPacket(netns.App4, netip.MustParseAddr("127.0.0.1"), 7, 1, "ping")), false)
	receive(t, "the change", let)
	w.waitStory(1, "allow; allowed, deny: the rule deny any (p:1) denies it; cut: it was not wanted any more")
	if got := kindOf(g.reply()); got != "prohibited" {
		t.Errorf("answered by %s", got)
	}
	stop()
	g.silent()
}

// What is no flow is refused, and recorded as what it is: there is no answer to what
// was not sent by the app, or says of itself that it is an error.
func TestNoFlows(t *testing.T) {
	fragment := func(p []byte) []byte { p[6] |= 0x20; return p } // more fragments (RFC 791, 3.1)
	dst, dst6 := addrPort("192.0.2.1:80"), addrPort("[2001:db8::1]:80")
	raw := func(proto uint8, payload string) []byte {
		return ipPacket(proto, netns.App4, dst.Addr(), []byte(payload))
	}
	const only = "deny: only TCP, UDP and ICMP echo are carried"
	for _, c := range []struct {
		name   string
		packet []byte
		story  string
		what   string
		reply  string
	}{
		{"a fragment of TCP", fragment(synPacket(app4, dst)), "deny: it hides where it goes: fragment", "tcp 192.0.2.1", "prohibited"},
		{"a fragment of UDP", fragment(udpPacket(app4, dst, "x")), "deny: it hides where it goes: fragment", "udp 192.0.2.1", "prohibited"},
		{"an extension header", ipPacket(unix.IPPROTO_DSTOPTS, netns.App6, dst6.Addr(), make([]byte, 40)),
			"deny: it hides where it goes: IPv6 extension header", "protocol-60 2001:db8::1", "prohibited"},
		{"a mapped address", ipPacket(unix.IPPROTO_TCP, netns.App6, netip.MustParseAddr("::ffff:192.0.2.1"), make([]byte, 20)),
			"deny: it hides where it goes: IPv4 address within IPv6", "tcp ::ffff:192.0.2.1", "prohibited"},
		{"a short header", ipPacket(unix.IPPROTO_TCP, netns.App4, dst.Addr(), make([]byte, 4)), "deny: it hides where it goes: truncated packet", "tcp 192.0.2.1", "prohibited"},
		{"no IP", make([]byte, 20), "deny: it hides where it goes: truncated packet", "protocol-0 packet", ""},
		{"SCTP", raw(unix.IPPROTO_SCTP, "12345678"), only, "sctp 192.0.2.1", "prohibited"},
		{"IGMP", ipPacket(unix.IPPROTO_IGMP, netns.App4, netip.MustParseAddr("224.0.0.22"), make([]byte, 8)), only, "igmp 224.0.0.22", "prohibited"},
		{"protocol 200", raw(200, ""), only, "protocol-200 192.0.2.1", "prohibited"},
		{"an ICMP timestamp", raw(unix.IPPROTO_ICMP, "\x0d\x00\x00\x00\x00\x00\x00\x00"), only, "icmp 192.0.2.1", "prohibited"},
		{"an ICMP error", raw(unix.IPPROTO_ICMP, "\x03\x03\x00\x00\x00\x00\x00\x00"), only, "icmp 192.0.2.1", ""},
		{"an ICMPv6 error", ipPacket(unix.IPPROTO_ICMPV6, netns.App6, dst6.Addr(), []byte{1, 0, 0, 0, 0, 0, 0, 0}), only, "icmp 2001:db8::1", ""},
		{"spoofed", ipPacket(unix.IPPROTO_SCTP, dst.Addr(), netns.App4, make([]byte, 8)), "deny: its source address 192.0.2.1 is not the app's", "sctp " + netns.App4.String(), ""},
		{"spoofed loopback", synPacket(addrPort("127.0.0.1:1"), dst), "deny: its source address 127.0.0.1 is not the app's", "tcp 192.0.2.1:80", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, "default allow\nallow any")
			g := newFakeGate(t)
			_, stop := w.served(g, nil)
			g.wantSettled(g.show(c.packet), false)
			w.waitStory(1, c.story)
			if got := w.recorded()[0].What(); got != c.what {
				t.Errorf("recorded of %s, not %s", got, c.what)
			}
			if c.reply != "" {
				if got := kindOf(g.reply()); got != c.reply {
					t.Errorf("answered by %s", got)
				}
			}
			stop()
			g.silent()
		})
	}
}
