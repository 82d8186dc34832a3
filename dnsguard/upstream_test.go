package dnsguard

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

// pair is one server: over UDP, over TCP.
type pair = [2]dns.HandlerFunc

// closed is a server without a process.
func closed(t *testing.T) *Server {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return plainServer(netip.MustParseAddrPort(c.LocalAddr().String()))
}

func servers(t *testing.T, pairs ...pair) (list []*Server) {
	t.Helper()
	for _, p := range pairs {
		if p[0] == nil {
			list = append(list, closed(t))
		} else {
			list = append(list, plainServer(serve(t, p[0], p[1])))
		}
	}
	return list
}

// ask asks for the TXT records of a name. It returns the text, or the RCODE, or "error".
func ask(t *testing.T, x Exchanger, name string) (string, error) {
	t.Helper()
	q := question(name, dns.TypeTXT, false)
	before := q.String()
	m, err := x.Exchange(context.Background(), q)
	if q.String() != before {
		t.Errorf("the question became %v", q)
	}
	switch {
	case err != nil:
		return "error", err
	case !answers(m, q):
		t.Errorf("%v is no answer to %v", m, q)
	case m.Rcode != dns.RcodeSuccess:
		return dns.RcodeToString[m.Rcode], nil
	}
	return m.Answer[0].(*dns.TXT).Txt[0], nil
}

func TestResolvers(t *testing.T) {
	truncated := func(m *dns.Msg) { m.Answer, m.Truncated = nil, true }
	inPart := func(m *dns.Msg) { m.Truncated = true }
	wrongID := func(m *dns.Msg) { m.Id++ }
	wrongName := func(m *dns.Msg) { m.Question[0].Name = "b.x." }
	wrongType := func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeA }
	wrongClass := func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }
	noQuestion := func(m *dns.Msg) { m.Question = nil }
	notResponse := func(m *dns.Msg) { m.Response = false }
	notQuery := func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }
	large := func(m *dns.Msg) {
		for range 200 {
			m.Answer = append(m.Answer, m.Answer[0])
		}
	}
	short := func(w dns.ResponseWriter, q *dns.Msg) { _, _ = w.Write([]byte{byte(q.Id >> 8), byte(q.Id), 0x80}) }
	// cut says that it has more records than it has, and is not marked so.
	cut := func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{record("a.x. 60 IN TXT cut")}
		packed, _ := m.Pack()
		packed[7]++
		_, _ = w.Write(packed)
	}
	// forged is an answer after one with a wrong ID.
	forged := func(w dns.ResponseWriter, q *dns.Msg) {
		answering("forged", wrongID)(w, q)
		answering("forged", nil)(w, q)
	}
	servfail, refused := answering("", rcode(dns.RcodeServerFailure)), answering("", rcode(dns.RcodeRefused))
	tcp := answering("TCP", nil)
	good := pair{answering("second", nil), answering("second TCP", nil)}
	const never, soon = time.Hour, time.Millisecond
	for what, c := range map[string]struct {
		servers  []pair
		patience time.Duration
		want     string // TXT, or RCODE, or "error"
	}{
		"good":              {[]pair{{answering("first", nil), silent}, good}, never, "first"},
		"upper case":        {[]pair{{answering("first", func(m *dns.Msg) { m.Question[0].Name = "A.X." }), silent}}, never, "first"},
		"nxdomain is final": {[]pair{{answering("", rcode(dns.RcodeNameError)), silent}, good}, never, "NXDOMAIN"},
		"truncated":         {[]pair{{answering("", truncated), tcp}}, never, "TCP"},
		"in part":           {[]pair{{answering("part", inPart), tcp}}, never, "TCP"},
		"truncated, large":  {[]pair{{answering("", truncated), answering("TCP", large)}}, never, "TCP"},
		"large":             {[]pair{{answering("UDP", large), tcp}}, never, "TCP"},
		"cut":               {[]pair{{cut, tcp}}, never, "TCP"},
		"cut over TCP":      {[]pair{{answering("", truncated), cut}}, never, "error"},
		"truncated twice":   {[]pair{{answering("", truncated), answering("part", inPart)}}, never, "error"},
		"wrong name":        {[]pair{{answering("", wrongName), tcp}}, never, "TCP"},
		"wrong type":        {[]pair{{answering("", wrongType), tcp}}, never, "TCP"},
		"wrong class":       {[]pair{{answering("", wrongClass), tcp}}, never, "TCP"},
		"no question":       {[]pair{{answering("", noQuestion), tcp}}, never, "TCP"},
		"not a response":    {[]pair{{answering("", notResponse), tcp}}, never, "TCP"},
		"not to a query":    {[]pair{{answering("", notQuery), tcp}}, never, "TCP"},
		"garbage":           {[]pair{{garbage, tcp}}, never, "TCP"},
		"short":             {[]pair{{short, tcp}}, never, "TCP"},
		"short twice":       {[]pair{{short, short}, good}, never, "second"},
		"garbage twice":     {[]pair{{garbage, garbage}, good}, never, "second"},
		"wrong name twice":  {[]pair{{answering("", wrongName), answering("", wrongName)}, good}, never, "second"},
		"wrong ID":          {[]pair{{answering("", wrongID), tcp}, good}, never, "TCP"},
		"forged":            {[]pair{{forged, tcp}}, never, "TCP"},
		"wrong ID, silent":  {[]pair{{answering("", wrongID), silent}, good}, soon, "second"},
		"wrong ID over TCP": {[]pair{{answering("", truncated), answering("", wrongID)}, good}, never, "second"},
		"silent":            {[]pair{{silent, silent}, good}, soon, "second"},
		"servfail":          {[]pair{{servfail, silent}, good}, never, "second"},
		"refused":           {[]pair{{refused, silent}, good}, never, "second"},
		"port closed":       {[]pair{{}, good}, never, "second"},
		"all closed":        {[]pair{{}, {}}, never, "error"},
		"all servfail":      {[]pair{{servfail, silent}, {refused, silent}}, never, "SERVFAIL"},
		"servfail, closed":  {[]pair{{servfail, silent}, {}}, never, "SERVFAIL"},
		"closed, servfail":  {[]pair{{}, {servfail, silent}}, never, "SERVFAIL"},
		"none":              {nil, never, "error"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r := Resolvers{Servers: servers(t, c.servers...), patience: c.patience}
			if got, err := ask(t, &r, "a.x."); got != c.want {
				t.Errorf("%s (%v), want %s", got, err, c.want)
			}
		})
	}
	t.Run("lost", func(t *testing.T) { // one of two datagrams
		t.Parallel()
		var asked atomic.Int32
		r := Resolvers{patience: soon, Servers: servers(t, pair{func(w dns.ResponseWriter, q *dns.Msg) {
			if asked.Add(1) == 2 {
				answering("again", nil)(w, q)
			}
		}, silent})}
		if got, err := ask(t, &r, "a.x."); got != "again" {
			t.Error(got, err)
		}
	})
	t.Run("no time", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		r := Resolvers{Servers: servers(t, pair{silent, silent})}
		want := r.Servers[0].String() + ": no answer in time"
		if m, err := r.Exchange(ctx, question("a.x.", dns.TypeTXT, false)); err == nil || err.Error() != want {
			t.Error(m, err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		for _, over := range []string{"UDP", "TCP"} {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			asked := func(dns.ResponseWriter, *dns.Msg) { cancel() }
			p := pair{asked, silent}
			if over == "TCP" {
				p = pair{answering("", truncated), asked}
			}
			r := Resolvers{Servers: servers(t, p), patience: never}
			if m, err := r.Exchange(ctx, question("a.x.", dns.TypeTXT, false)); !errors.Is(err, context.Canceled) {
				t.Error(m, err)
			}
			// Cancelled while nobody listens to it: the exchange itself ends.
			if m, err := r.Servers[0].exchange(ctx, question("a.x.", dns.TypeTXT, false)); err == nil {
				t.Error(m)
			}
		}
	})
}

// A server that gave no answer is asked last for a while; one that gave a bad
// one is there.
func TestResolversRemember(t *testing.T) {
	r := Resolvers{patience: time.Millisecond, Servers: servers(t, pair{silent, silent}, pair{answering("second", nil), silent})}
	for range 2 { // the second time, nobody has patience
		if got, err := ask(t, &r, "a.x."); got != "second" {
			t.Fatal(got, err)
		}
		r.patience = time.Hour
	}
	first := r.Servers[0]
	if order := healthyFirst(r.Servers); order[0] == first || order[1] != first {
		t.Error("asked first")
	}
	first.failed = time.Now().Add(-grudge)
	if order := healthyFirst(r.Servers); order[0] != first {
		t.Error("not forgiven")
	}
	r.Servers = servers(t, pair{answering("", rcode(dns.RcodeServerFailure)), silent}, pair{answering("second", nil), silent}, pair{})
	if got, err := ask(t, &r, "a.x."); got != "second" || r.Servers[0].failedLately() {
		t.Error(got, err)
	}
	r.Servers = append(servers(t, pair{}), r.Servers[1:]...)
	if got, err := ask(t, &r, "a.x."); got != "second" || !r.Servers[0].failedLately() {
		t.Error(got, err)
	}
}

// Names of a zone go to its servers alone, even if these fail, and other names
// never do.
func TestResolversZones(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	recording := func(who string, edit func(*dns.Msg)) pair {
		h := func(w dns.ResponseWriter, q *dns.Msg) {
			mu.Lock()
			asked = append(asked, who)
			mu.Unlock()
			answering(who, edit)(w, q)
		}
		return pair{h, h}
	}
	list := servers(t, recording("corp", nil), recording("all", nil), recording("lab", rcode(dns.RcodeServerFailure)),
		recording("lab2", rcode(dns.RcodeRefused)), pair{}, recording("lan", nil), recording("host", nil))
	host := list[6].transport.(do53)
	list = list[:6]
	for i, zone := range []policy.Name{"corp.example", "", "lab.corp.example", "lab.corp.example", "down.example", "lan"} {
		list[i].Zone = zone
	}
	hosts := func() ResolvConf { return ResolvConf{Servers: []netip.AddrPort{netip.AddrPort(host)}} }
	zoned := slices.Delete(slices.Clone(list), 1, 2)
	all := Resolvers{Servers: list, patience: time.Hour, Host: hosts}
	zones := Resolvers{Servers: zoned, patience: time.Hour, Host: hosts}
	none := Resolvers{Servers: zoned, patience: time.Hour}
	for _, c := range []struct {
		r                 *Resolvers
		name, want, asked string
		zone              bool
	}{
		{&all, "a.example.", "all", "all", false},
		{&zones, "a.example.", "host", "host", false},
		{&none, "a.example.", "error", "", false},
		{&all, "corp.example.", "corp", "corp", true},
		{&zones, "a.CORP.example.", "corp", "corp", true},
		{&all, "xcorp.example.", "all", "all", false},
		{&all, `x\.corp.example.`, "all", "all", false},
		{&all, "a.lab.corp.example.", "SERVFAIL", "lab lab2", true},
		{&all, "a.down.example.", "error", "", true},
		{&zones, "down.example.", "error", "", true},
		{&none, "printer.lan.", "lan", "lan", true},
		{&none, "lan.", "lan", "lan", true},
	} {
		mu.Lock()
		asked = nil
		mu.Unlock()
		got, err := ask(t, c.r, c.name)
		mu.Lock()
		asked = slices.Compact(asked) // that of failures comes without EDNS as well
		if got != c.want || strings.Join(asked, " ") != c.asked {
			t.Errorf("%s: %s (%v) from %v, want %s from %s", c.name, got, err, asked, c.want, c.asked)
		}
		mu.Unlock()
		if name, err := policy.ParseName(c.name); err == nil && c.r.Zone(name) != c.zone {
			t.Errorf("%s: in a zone: %v", name, !c.zone)
		}
	}
}

// The host's servers are those of the moment; what is known of one stays known.
func TestResolversHost(t *testing.T) {
	first, second := serve(t, answering("first", nil), silent), serve(t, answering("second", nil), silent)
	list := []netip.AddrPort{first}
	r := Resolvers{Host: func() ResolvConf { return ResolvConf{Servers: list} }, patience: time.Hour}
	if got, err := ask(t, &r, "a.x."); got != "first" {
		t.Error(got, err)
	}
	known := r.host[0]
	if got, err := ask(t, &r, "a.x."); got != "first" || r.host[0] != known {
		t.Error(got, err)
	}
	list[0] = second
	if got, err := ask(t, &r, "a.x."); got != "second" {
		t.Error(got, err)
	}
	list = nil
	if got, err := ask(t, &r, "a.x."); got != "error" {
		t.Error(got, err)
	}
}

// Nobody can know the port and the ID of a question from another (RFC 5452).
func TestFreshPortAndID(t *testing.T) {
	var mu sync.Mutex
	ports, ids := map[string]bool{}, map[uint16]bool{}
	r := Resolvers{Servers: servers(t, pair{func(w dns.ResponseWriter, q *dns.Msg) {
		mu.Lock()
		ports[w.RemoteAddr().String()], ids[q.Id] = true, true
		mu.Unlock()
		answering("x", nil)(w, q)
	}, silent})}
	const n = 50
	for range n {
		if got, err := ask(t, &r, "a.x."); got != "x" {
			t.Fatal(got, err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ports) < n-5 || len(ids) < n-5 { // some may be the same by chance
		t.Errorf("%d ports, %d IDs", len(ports), len(ids))
	}
}

// Serve is asked over both transports, and an answer that only compression
// makes fit arrives.
func TestServe(t *testing.T) {
	f := newFixture(t, func(m *dns.Msg) error {
		for range 3000 {
			m.Answer = append(m.Answer, record(m.Question[0].Name+" 60 IN TXT x"))
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
	q := query(strings.Repeat("long.", 10)+"example.", "TXT")
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
