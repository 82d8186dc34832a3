package explicit

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"

	"appfw/proxy/conntest"
	"appfw/proxy/journal"
)

// requests are for a connection to a host, by all that is spoken.
func requests(host string, port uint16) map[string]string {
	raw := string([]byte{byte(port >> 8), byte(port)})
	at := fmt.Sprintf("%s:%d", host, port)
	socks4 := "\x04\x01" + raw + "\x00\x00\x00\x01\x00" + host + "\x00"
	if a, err := netip.ParseAddr(host); err == nil {
		socks4 = "\x04\x01" + raw + string(a.AsSlice()) + "\x00"
	}
	return map[string]string{
		"SOCKS5":  hello5 + socksTo(1, host, raw),
		"SOCKS4":  socks4,
		"CONNECT": "CONNECT " + at + " HTTP/1.1\r\n\r\n",
		"GET":     "GET http://" + at + "/ HTTP/1.1\r\nHost: " + at + "\r\n\r\n",
	}
}

// wantLeft wants a flow to have ended because its client has left.
func (x *tenant) wantLeft(t testing.TB, what string) {
	t.Helper()
	if e := x.ended(t, what); e.End != journal.Left || e.Failed != "it was not wanted any more" || e.Sent+e.Received > 0 {
		t.Errorf("%s: %+v", what, e)
	}
}

// A client that hangs up while its destination is dialled is not waited for, and
// neither is the destination.
func TestClientLeaves(t *testing.T) {
	noLeak(t)
	for what, request := range requests("a.example", 80) {
		for range 8 { // as it was a matter of chance
			// An upstream that takes connections and says nothing.
			asked := make(chan struct{})
			gone := make(chan struct{})
			silent := server(t, func(c net.Conn) {
				close(asked)
				_, _ = io.Copy(io.Discard, c)
				close(gone)
			})
			x := newTenant(t, "upstream socks5h://"+silent+"\nallow a.example")
			x.by(t, "socks5h://"+silent)
			s := newService(t, x.Proxy, nil)
			c := s.dial(t)
			send(t, c, request)
			within(t, "dialling", func() { <-asked })
			c.Close()
			within(t, "hanging up", func() { <-gone })
			x.wantLeft(t, what)
		}
	}
}

// The same where the destination itself does not answer, and one of many does.
func TestClientLeavesSilence(t *testing.T) {
	noLeak(t)
	silent := conntest.Silent(t, "127.0.0.3", 0)
	for _, host := range []string{"127.0.0.3", "many.example"} {
		for what, request := range requests(host, silent.Port()) {
			x := newTenant(t, "allow many.example\nallow 127.0.0.3")
			x.dns.Set("many.example.", "127.0.0.3 127.0.0.3")
			s := newService(t, x.Proxy, nil)
			c := s.dial(t)
			send(t, c, request)
			eventually(t, "it is dialled", func() bool {
				return x.reported(func(e journal.Event) bool { return e.Flow != 0 && e.Verdict.Allowed() })
			})
			c.Close()
			x.wantLeft(t, what+" to "+host)
		}
	}
}

// A client that hangs up while the name is resolved that it asks for takes the answer
// from no other one.
func TestClientLeavesQuestion(t *testing.T) {
	noLeak(t)
	at, _ := counter(t, "127.0.0.1:0")
	listens := netip.MustParseAddrPort(at)
	asks := requests("a.example", listens.Port())
	_, raw := port(t, at)
	for what, request := range asks {
		x := newTenant(t, "allow a.example\nallow 127.0.0.1")
		x.dns.Hold = make(chan struct{})
		s := newService(t, x.Proxy, nil)
		first := s.dial(t)
		send(t, first, request)
		eventually(t, "its question", func() bool { return len(x.dns.Asked()) == 2 }) // A and AAAA
		control, datagrams := s.associate(t, socksTo(3, "0.0.0.0", "\x00\x00"))
		sendTo(t, udpSocket(t, "127.0.0.1"), datagrams, header(t, "a.example", net.UDPAddrFromAddrPort(listens))+"x")
		second := s.dial(t)
		talk(t, what, second, []turn{{hello5, open5}, {socksTo(1, "a.example", raw), ""}}, 0)
		first.Close()
		control.Close()
		talk(t, "meanwhile", s.dial(t), []turn{{hello5, open5}, {socksTo(1, "denied.example", raw), refuse5(2)}}, 0)
		close(x.dns.Hold)
		talk(t, what, second, []turn{{"", granted5}, {"ping", "ping"}}, 0)
		eventually(t, "the end of what nobody waits for", func() bool {
			return x.reported(func(e journal.Event) bool {
				return e.Closed && e.Client == first.LocalAddr().String() && (e.End == journal.Left || e.End == journal.Done)
			})
		})
	}
}

// So many connections may be made at a time; one more is refused, and there is room
// again when a client has left.
func TestTooManyRequests(t *testing.T) {
	noLeak(t)
	silent := conntest.Silent(t, "127.0.0.3", 0)
	at, _ := counter(t, "127.0.0.1:0")
	_, raw := port(t, at)
	x := newTenant(t, "allow 127.0.0.0/8")
	x.Asked().MaxOpening = 1
	s := newService(t, x.Proxy, nil)
	c := s.dial(t)
	send(t, c, requests("127.0.0.3", silent.Port())["SOCKS5"])
	eventually(t, "it is dialled", func() bool { return len(x.All()) == 1 })
	talk(t, "one more", s.dial(t), []turn{{hello5, open5}, {socksTo(1, "127.0.0.1", raw), refuse5(4)}}, 0)
	for _, request := range []string{"GET http://" + at + "/", "CONNECT " + at} {
		const why = "failed: too many connections are being made\n"
		if status, body := ask1(t, s.dial(t), request+" HTTP/1.1\r\nHost: x\r\n\r\n"); status != 502 || len(body) < len(why) || body[len(body)-len(why):] != why {
			t.Errorf("%s: %d %q", request, status, body)
		}
	}
	c.Close()
	x.wantLeft(t, "the first")
	eventually(t, "there is room", func() bool { return x.Count(func(e journal.Event) bool { return e.Closed }) == 1 })
	talk(t, "after it", s.dial(t), []turn{{hello5, open5}, {socksTo(1, "127.0.0.1", raw), granted5}, {"ping", "ping"}}, 0)
}
