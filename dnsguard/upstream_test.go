package dnsguard

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"appfw/policy"
)

// serve runs a real DNS server, over UDP and TCP at one port of 127.0.0.1.
func serve(t *testing.T, udp, tcp dns.HandlerFunc) netip.AddrPort {
	t.Helper()
	var l net.Listener
	var c net.PacketConn
	for range 20 { // until a port is free for both
		var err error
		if c, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if l, err = net.Listen("tcp", c.LocalAddr().String()); err == nil {
			break
		}
		c.Close()
	}
	if l == nil {
		t.Fatal("no port is free")
	}
	for _, s := range []*dns.Server{{PacketConn: c, Handler: udp}, {Listener: l, Handler: tcp}} {
		started, ended := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { defer close(ended); _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown(); <-ended })
	}
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

// answering answers with a TXT record that says who did; edit may change it.
func answering(who string, edit func(m *dns.Msg)) dns.HandlerFunc {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{who}}}
		if edit != nil {
			edit(m)
		}
		_ = w.WriteMsg(m)
	}
}

func silent(dns.ResponseWriter, *dns.Msg) {}

func rcode(n int) func(*dns.Msg) {
	return func(m *dns.Msg) { m.Answer, m.Rcode = nil, n }
}

func garbage(w dns.ResponseWriter, q *dns.Msg) {
	_, _ = w.Write([]byte{byte(q.Id >> 8), byte(q.Id), 0x80, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0xff})
}

func TestResolvers(t *testing.T) {
	type pair = [2]dns.HandlerFunc // UDP, TCP
	truncated := func(m *dns.Msg) { m.Answer, m.Truncated = nil, true }
	wrongID := func(m *dns.Msg) { m.Id++ }
	wrongName := func(m *dns.Msg) { m.Question[0].Name = "b.x." }
	wrongType := func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeA }
	noQuestion := func(m *dns.Msg) { m.Question = nil }
	notResponse := func(m *dns.Msg) { m.Response = false }
	large := func(m *dns.Msg) {
		for range 200 {
			m.Answer = append(m.Answer, m.Answer[0])
		}
	}
	good := pair{answering("second", nil), answering("second TCP", nil)}
	for what, c := range map[string]struct {
		servers []pair
		want    string // TXT, or RCODE, or "error"
	}{
		"good":              {[]pair{{answering("first", nil), silent}, good}, "first"},
		"upper case":        {[]pair{{answering("first", func(m *dns.Msg) { m.Question[0].Name = "A.X." }), silent}}, "first"},
		"nxdomain is final": {[]pair{{answering("", rcode(dns.RcodeNameError)), silent}, good}, "NXDOMAIN"},
		"truncated":         {[]pair{{answering("", truncated), answering("TCP", nil)}}, "TCP"},
		"truncated, large":  {[]pair{{answering("", truncated), answering("TCP", large)}}, "TCP"},
		"truncated twice":   {[]pair{{answering("", truncated), answering("", truncated)}}, "error"},
		"wrong name":        {[]pair{{answering("", wrongName), answering("TCP", nil)}}, "TCP"},
		"wrong type":        {[]pair{{answering("", wrongType), answering("TCP", nil)}}, "TCP"},
		"no question":       {[]pair{{answering("", noQuestion), answering("TCP", nil)}}, "TCP"},
		"not a response":    {[]pair{{answering("", notResponse), answering("TCP", nil)}}, "TCP"},
		"garbage":           {[]pair{{garbage, answering("TCP", nil)}}, "TCP"},
		"garbage twice":     {[]pair{{garbage, garbage}, good}, "second"},
		"wrong name twice":  {[]pair{{answering("", wrongName), answering("", wrongName)}, good}, "second"},
		"wrong ID":          {[]pair{{answering("", wrongID), silent}, good}, "second"},
		"wrong ID over TCP": {[]pair{{answering("", truncated), answering("", wrongID)}, good}, "second"},
		"silent":            {[]pair{{silent, silent}, good}, "second"},
		"servfail":          {[]pair{{answering("", rcode(dns.RcodeServerFailure)), silent}, good}, "second"},
		"refused":           {[]pair{{answering("", rcode(dns.RcodeRefused)), silent}, good}, "second"},
		"port closed":       {[]pair{{}, good}, "second"},
		"all closed":        {[]pair{{}, {}}, "error"},
		"all servfail":      {[]pair{{answering("", rcode(dns.RcodeServerFailure)), silent}, {answering("", rcode(dns.RcodeRefused)), silent}}, "SERVFAIL"},
		"servfail, closed":  {[]pair{{answering("", rcode(dns.RcodeServerFailure)), silent}, {}}, "SERVFAIL"},
		"closed, servfail":  {[]pair{{}, {answering("", rcode(dns.RcodeServerFailure)), silent}}, "SERVFAIL"},
		"none":              {nil, "error"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			var r Resolvers
			for _, s := range c.servers {
				if s[0] == nil {
					c, err := net.ListenPacket("udp", "127.0.0.1:0")
					if err != nil {
						t.Fatal(err)
					}
					r.Servers = append(r.Servers, netip.MustParseAddrPort(c.LocalAddr().String()))
					c.Close()
					continue
				}
				r.Servers = append(r.Servers, serve(t, s[0], s[1]))
			}
			q := question("a.x.", dns.TypeTXT, false)
			id := q.Id
			m, err := r.Exchange(context.Background(), q)
			got := "error"
			switch {
			case err != nil:
			case m.Rcode != dns.RcodeSuccess:
				got = dns.RcodeToString[m.Rcode]
			default:
				got = m.Answer[0].(*dns.TXT).Txt[0]
			}
			if got != c.want || q.Id != id {
				t.Errorf("%s (%v), want %s", got, err, c.want)
			}
		})
	}
	t.Run("no time", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		r := Resolvers{Servers: []netip.AddrPort{serve(t, silent, silent)}}
		if m, err := r.Exchange(ctx, question("a.x.", dns.TypeTXT, false)); err == nil {
			t.Error(m)
		}
	})
}

// Serve is asked over both transports, and an answer that only compression
// makes fit arrives.
func TestServe(t *testing.T) {
	f := newFixture(t, func(m *dns.Msg) error {
		for range 3000 {
			m.Answer = append(m.Answer, record(m.Question[0].Name+" 60 IN A 192.0.2.1"))
		}
		return nil
	}, "allow *.example")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- f.Serve(ctx, []net.Listener{l}, []*net.UDPConn{c}) }()
	q := query(strings.Repeat("long.", 10)+"example.", "A")
	tcp := dns.Client{Net: "tcp"}
	if m, _, err := tcp.Exchange(q, l.Addr().String()); err != nil || len(m.Answer) != 3000 {
		t.Error(err)
	}
	if m, _, err := new(dns.Client).Exchange(q, c.LocalAddr().String()); err != nil || !m.Truncated {
		t.Error(m, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestReadResolvConf(t *testing.T) {
	for _, c := range []struct {
		in      string
		servers string
		lines   []string
	}{
		{"", "127.0.0.1:53", nil},
		{"# nameserver 1.1.1.1\n;nameserver 1.1.1.1\nnameserver\n", "127.0.0.1:53", nil},
		{"nameserver 192.0.2.1\r\nnameserver\t2001:db8::1 # it\nnameserver host\n", "192.0.2.1:53 [2001:db8::1]:53", nil},
		{"nameserver fe80::1%eth0", "[fe80::1%eth0]:53", nil},
		{"nameservers 192.0.2.1\nsearch a.example  b.example\ndomain c\noptions ndots:2 edns0\nsortlist 1", "127.0.0.1:53",
			[]string{"search a.example b.example", "domain c", "options ndots:2 edns0"}},
	} {
		got, err := ReadResolvConf(strings.NewReader(c.in))
		var servers []string
		for _, s := range got.Servers {
			servers = append(servers, s.String())
		}
		if err != nil || strings.Join(servers, " ") != c.servers || !slices.Equal(got.Lines, c.lines) {
			t.Errorf("%q: %v, %v", c.in, got, err)
		}
	}
	if _, err := ReadResolvConf(strings.NewReader(strings.Repeat("x", 1<<20))); err == nil {
		t.Error("a line without end was read")
	}
}

func TestReadHosts(t *testing.T) {
	got, err := ReadHosts(strings.NewReader("# comment\n127.0.0.1 Localhost lo # x\n192.0.2.1 a.example. a 1.2.3.4 -bad\n" +
		"::1 localhost\nfe80::1%lo z\n192.0.2.2\ta\nnot.an.address b\n192.0.2.3\n192.0.2.4#a\n010.0.0.1 c\n"))
	want := map[policy.Name]string{"localhost": "127.0.0.1 ::1", "lo": "127.0.0.1", "a.example": "192.0.2.1", "a": "192.0.2.1 192.0.2.2", "z": "fe80::1"}
	if err != nil || len(got) != len(want) {
		t.Errorf("%v, %v", got, err)
	}
	for name, addrs := range want {
		var s []string
		for _, a := range got[name] {
			s = append(s, a.String())
		}
		if strings.Join(s, " ") != addrs {
			t.Errorf("%s: %v", name, s)
		}
	}
}
