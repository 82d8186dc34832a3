package dnsguard

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool // it alone
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	a.cert, a.key = sign(t, template, nil)
	a.pool.AddCert(a.cert)
	return a
}

func sign(t *testing.T, template *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// issue makes a server's certificate for names and addresses.
func (a *authority) issue(t *testing.T, end time.Time, hosts ...string) *tls.Config {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: end,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	cert, key := sign(t, template, a)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}
}

// serveTLS runs a server that talks as it likes on each connection. It returns
// what comes after the host in its address: a colon and the port.
func serveTLS(t *testing.T, config *tls.Config, talk func(c *dns.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[conn] = true
			mu.Unlock()
			running.Go(func() {
				defer conn.Close()
				if c := tls.Server(conn, config); c.Handshake() == nil {
					talk(&dns.Conn{Conn: c})
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return ":" + port
}

// next reads a question; nil at the end.
func (r *recorder) next(c *dns.Conn) *dns.Msg {
	packet, err := c.ReadMsgHeader(nil)
	if err != nil {
		return nil
	}
	q := new(dns.Msg)
	if err := q.Unpack(packet); err != nil {
		return nil
	}
	r.record(q, len(packet))
	return q
}

func respond(c *dns.Conn, q *dns.Msg, who string, edit func(*dns.Msg)) {
	answering(who, edit)(msgWriter{c: c}, q)
}

// msgWriter is a dns.ResponseWriter that can only write.
type msgWriter struct {
	dns.ResponseWriter
	c *dns.Conn
}

func (w msgWriter) WriteMsg(m *dns.Msg) error { return w.c.WriteMsg(m) }

func dotServer(t *testing.T, spec string, a *authority) *Server {
	t.Helper()
	s, err := ParseServer(spec)
	if err != nil {
		t.Fatal(err)
	}
	s.TLS.RootCAs = a.pool
	if d, ok := s.transport.(*dot); ok {
		d.patience = time.Hour
	}
	return s
}

func TestDoT(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	hour := time.Now().Add(time.Hour)
	good := ca.issue(t, hour, "127.0.0.1", "localhost", "dns.example")
	for what, c := range map[string]struct {
		config *tls.Config
		host   string // and its port follows, and:
		name   string
		want   string // TXT, or what is in the error
	}{
		"address":           {good, "127.0.0.1", "", "yes"},
		"name":              {good, "localhost", "", "yes"},
		"address and name":  {good, "127.0.0.1", "#dns.example", "yes"},
		"name and name":     {good, "localhost", "#dns.example", "yes"},
		"other name":        {good, "127.0.0.1", "#evil.example", "certificate"},
		"other host":        {ca.issue(t, hour, "dns.example"), "localhost", "", "certificate"},
		"no address":        {ca.issue(t, hour, "dns.example"), "127.0.0.1", "", "certificate"},
		"host, not name":    {ca.issue(t, hour, "127.0.0.1"), "127.0.0.1", "#dns.example", "certificate"},
		"other address":     {ca.issue(t, hour, "127.0.0.2"), "127.0.0.1", "", "certificate"},
		"control character": {ca.issue(t, hour, "a\x1b[31m.example"), "127.0.0.1", "#dns.example", "certificate"},
		"expired":           {ca.issue(t, time.Now().Add(-time.Minute), "127.0.0.1"), "127.0.0.1", "", "expired"},
		"other authority":   {other.issue(t, hour, "127.0.0.1"), "127.0.0.1", "", "certificate"},
		"TLS 1.1": {&tls.Config{Certificates: good.Certificates, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10},
			"127.0.0.1", "", "protocol version"},
		"TLS 1.2": {&tls.Config{Certificates: good.Certificates, MaxVersion: tls.VersionTLS12}, "127.0.0.1", "", "yes"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			var r recorder
			port := serveTLS(t, c.config, func(conn *dns.Conn) {
				r.connected()
				for q := r.next(conn); q != nil; q = r.next(conn) {
					respond(conn, q, "yes", nil)
				}
			})
			s := dotServer(t, "tls://"+c.host+port+c.name, ca)
			up := &Resolvers{Servers: []*Server{s}, patience: time.Hour}
			got, err := ask(t, up, "a.x.")
			if c.want == "yes" {
				if again, err2 := ask(t, up, "b.x."); got != "yes" || again != "yes" {
					t.Error(got, err, again, err2)
				}
				r.check(t, 2, 1)
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\x1b") || !strings.HasPrefix(err.Error(), s.String()+": ") {
				t.Errorf("%s, %q, want %q", got, err, c.want)
			}
			r.check(t, 0, 0)
		})
	}
}

// talker makes a server of a function that talks on the nth connection.
func talker(t *testing.T, talk func(n int, c *dns.Conn, r *recorder)) (*Resolvers, *dot, *recorder) {
	t.Helper()
	ca := newAuthority(t)
	r := new(recorder)
	port := serveTLS(t, ca.issue(t, time.Now().Add(time.Hour), "127.0.0.1"), func(c *dns.Conn) { talk(r.connected(), c, r) })
	s := dotServer(t, "tls://127.0.0.1"+port, ca)
	return &Resolvers{Servers: []*Server{s}, patience: time.Hour}, s.transport.(*dot), r
}

// Questions share a connection, and answers come in any order (RFC 7766, 7).
func TestDoTPipelining(t *testing.T) {
	const n = 20
	up, _, r := talker(t, func(_ int, c *dns.Conn, r *recorder) {
		var asked []*dns.Msg
		for range n {
			asked = append(asked, r.next(c))
		}
		for _, q := range slices.Backward(asked) {
			respond(c, q, q.Question[0].Name, nil)
		}
		r.next(c)
	})
	var running sync.WaitGroup
	for i := range n {
		name := string(rune('a'+i)) + ".x."
		running.Go(func() {
			if got, err := ask(t, up, name); got != name {
				t.Errorf("%s: %s, %v", name, got, err)
			}
		})
	}
	running.Wait()
	r.check(t, n, 1)
	ids := map[uint16]bool{}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.asked {
		ids[q.Id] = true
	}
	if len(ids) != n {
		t.Errorf("%d IDs", len(ids))
	}
}

func TestDoTConnections(t *testing.T) {
	yes := func(c *dns.Conn, q *dns.Msg) { respond(c, q, "yes", nil) }
	unknown := func(c *dns.Conn, q *dns.Msg) { respond(c, q, "no", func(m *dns.Msg) { m.Id++ }) }
	wrong := func(c *dns.Conn, q *dns.Msg) { respond(c, q, "no", func(m *dns.Msg) { m.Question[0].Name = "b." }) }
	rubbish := func(c *dns.Conn, q *dns.Msg) {
		_, _ = c.Write([]byte{byte(q.Id >> 8), byte(q.Id), 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xff})
	}
	short := func(c *dns.Conn, _ *dns.Msg) { _, _ = c.Write([]byte{0}) }
	part := func(c *dns.Conn, q *dns.Msg) { respond(c, q, "no", func(m *dns.Msg) { m.Truncated = true }) }
	twice := func(c *dns.Conn, q *dns.Msg) { yes(c, q); yes(c, q) }
	formerr := func(c *dns.Conn, q *dns.Msg) {
		respond(c, q, "", func(m *dns.Msg) { m.Answer, m.Question, m.Rcode = nil, nil, 1 })
	}
	type talk = func(*dns.Conn, *dns.Msg)
	var end talk // the connection ends
	for what, c := range map[string]struct {
		conns [][]talk // what each connection does with its questions
		want  string   // of the questions, one after the other
		asked int
	}{
		"kept":                 {[][]talk{{yes, yes, yes}}, "yes yes yes", 3},
		"dead when new":        {[][]talk{{end}, {yes}}, "error yes", 2},
		"dead when kept":       {[][]talk{{yes, end}, {yes, yes}}, "yes yes yes", 4},
		"dead twice":           {[][]talk{{yes, end}, {end}, {yes}}, "yes error yes", 4},
		"unknown ID":           {[][]talk{{unknown}, {yes}}, "error yes", 2},
		"unknown ID when kept": {[][]talk{{yes, unknown}, {yes}}, "yes yes", 3},
		"garbage when kept":    {[][]talk{{yes, rubbish}, {yes}}, "yes yes", 3},
		"wrong question":       {[][]talk{{wrong}, {yes}}, "error yes", 2},
		"garbage":              {[][]talk{{rubbish}, {yes}}, "error yes", 2},
		"short":                {[][]talk{{short}, {yes}}, "error yes", 2},
		"truncated":            {[][]talk{{part, yes}}, "error yes", 2},
		"no EDNS":              {[][]talk{{formerr, yes}}, "yes", 2},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			up, d, r := talker(t, func(n int, conn *dns.Conn, r *recorder) {
				for _, do := range c.conns[n-1] {
					q := r.next(conn)
					if q == nil || do == nil {
						return
					}
					do(conn, q)
				}
				r.next(conn)
			})
			for i, want := range strings.Fields(c.want) {
				before := d.all()
				if got, err := ask(t, up, "a.x."); got != want {
					t.Errorf("%d: %s (%v), want %s", i, got, err, want)
				}
				if want == "error" && what != "truncated" {
					for _, s := range append(before, d.all()...) {
						<-s.ended
					}
				}
			}
			r.check(t, c.asked, len(c.conns))
		})
	}
	t.Run("answered twice", func(t *testing.T) { // the second answer has no question
		up, d, _ := talker(t, func(_ int, conn *dns.Conn, r *recorder) { twice(conn, r.next(conn)); r.next(conn) })
		c, err := d.place(question("a.x.", dns.TypeTXT, false), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = d.wait(context.Background(), c); err != nil {
			t.Error(err)
		}
		if <-c.ended; c.err != errOther {
			t.Error(c.err)
		}
		if got, err := ask(t, up, "a.x."); got != "yes" {
			t.Error(got, err)
		}
	})
}

// all are the streams there are.
func (t *dot) all() []*stream {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.streams)
}

// A connection that is silent while questions wait gets no more of them; when
// there can be no other, it does.
func TestDoTSilent(t *testing.T) {
	arrived := make(chan int)
	up, d, r := talker(t, func(n int, c *dns.Conn, r *recorder) {
		for q := r.next(c); q != nil; q = r.next(c) {
			if q.Question[0].Name == "silent." {
				arrived <- n
			} else {
				respond(c, q, "yes", nil)
			}
		}
	})
	d.patience = 0
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	silent := func() int {
		running.Go(func() {
			if _, err := up.Exchange(ctx, question("silent.", dns.TypeTXT, false)); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		return <-arrived
	}
	for n := range maxStreams {
		if got := silent(); got != n+1 {
			t.Errorf("connection %d, want %d", got, n+1)
		}
	}
	if got, err := ask(t, up, "a.x."); got != "yes" {
		t.Error(got, err)
	}
	cancel()
	running.Wait()
	r.check(t, maxStreams+1, maxStreams)
}

// The questions of a server are bounded, and given up ones count while their
// connection lasts: an answer may still come.
func TestDoTBounds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // and nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	d := newDoT(l.Addr().String(), &tls.Config{ServerName: "x"})
	q := question("a.x.", dns.TypeTXT, false)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := d.exchange(ctx, q); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if s := d.all()[0]; len(s.waiting) != 0 || !s.silent.IsZero() {
		t.Error("waits for what was not sent")
	}
	for range maxStreams * maxPipelined {
		if _, err := d.place(q, 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.exchange(context.Background(), q); err != errBusy {
		t.Error(err)
	}
	streams := d.all()
	l.Close()
	for _, s := range streams {
		if <-s.ended; len(s.waiting) != maxPipelined {
			t.Errorf("%d questions", len(s.waiting))
		}
	}
	if len(streams) != maxStreams || len(d.all()) != 0 {
		t.Errorf("%d streams, %d left", len(streams), len(d.all()))
	}
}

// A connection ends when nothing comes or goes, and a question that is
// cancelled leaves nothing behind.
func TestDoTEnds(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	up, d, _ := talker(t, func(_ int, c *dns.Conn, r *recorder) {
		respond(c, r.next(c), "yes", nil)
		r.next(c)
		close(ended)
	})
	d.idle = time.Second
	if got, err := ask(t, up, "a.x."); got != "yes" {
		t.Error(got, err)
	}
	<-ended
	for _, s := range d.all() {
		<-s.ended
	}

	ctx, cancel := context.WithCancel(context.Background())
	up, _, _ = talker(t, func(_ int, c *dns.Conn, r *recorder) {
		r.next(c)
		cancel()
		r.next(c)
	})
	if m, err := up.Servers[0].exchange(ctx, question("a.x.", dns.TypeTXT, false)); !errors.Is(err, context.Canceled) {
		t.Error(m, err)
	}
	if m, err := up.Servers[0].exchange(ctx, question("a.x.", dns.TypeTXT, false)); !errors.Is(err, context.Canceled) {
		t.Error(m, err)
	}
}
