package dnsguard

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// serveHTTPS runs a DoH server, which answers as handle does.
func serveHTTPS(t *testing.T, ca *authority, http2 bool, handle func(w http.ResponseWriter, q *dns.Msg)) (*Resolvers, *httptest.Server, *recorder) {
	t.Helper()
	r := new(recorder)
	ts := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		q := new(dns.Msg)
		err := q.Unpack(body)
		if request.Method != http.MethodPost || request.URL.Path != "/dns-query" || err != nil || q.Id != 0 ||
			request.Header.Get("Content-Type") != dohType || request.Header.Get("Accept") != dohType ||
			request.Header["User-Agent"] != nil || request.Header["Accept-Encoding"] != nil || request.Header["Idempotency-Key"] != nil ||
			http2 != (request.ProtoMajor == 2) {
			t.Errorf("%s %s %s %v: %v, %v", request.Proto, request.Method, request.URL, request.Header, q, err)
		}
		r.record(q, len(body))
		handle(w, q)
	}))
	ts.EnableHTTP2 = http2
	ts.TLS = ca.issue(t, time.Now().Add(time.Hour), "127.0.0.1")
	ts.Config.ErrorLog = log.New(io.Discard, "", 0)
	ts.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			r.connected()
		}
	}
	ts.StartTLS()
	t.Cleanup(ts.Close)
	s := dotServer(t, ts.URL+"/dns-query", ca)
	return &Resolvers{Servers: []*Server{s}, patience: time.Hour}, ts, r
}

// httpWriter is a dns.ResponseWriter that can only write.
type httpWriter struct {
	dns.ResponseWriter
	w http.ResponseWriter
}

func (w httpWriter) WriteMsg(m *dns.Msg) error {
	packed, err := m.Pack()
	if err != nil {
		return err
	}
	_, err = w.w.Write(packed)
	return err
}

func TestDoH(t *testing.T) {
	ca := newAuthority(t)
	typed := func(mediaType string, edit func(*dns.Msg)) func(http.ResponseWriter, *dns.Msg) {
		return func(w http.ResponseWriter, q *dns.Msg) {
			w.Header().Set("Content-Type", mediaType)
			answering("yes", edit)(httpWriter{w: w}, q)
		}
	}
	raw := func(body []byte) func(http.ResponseWriter, *dns.Msg) {
		return func(w http.ResponseWriter, _ *dns.Msg) {
			w.Header().Set("Content-Type", dohType)
			_, _ = w.Write(body)
		}
	}
	status := func(code int) func(http.ResponseWriter, *dns.Msg) {
		return func(w http.ResponseWriter, q *dns.Msg) {
			w.Header().Set("Content-Type", dohType)
			w.Header().Set("Location", "/dns-query")
			w.WriteHeader(code)
			answering("no", nil)(httpWriter{w: w}, q)
		}
	}
	for what, c := range map[string]struct {
		handle func(http.ResponseWriter, *dns.Msg)
		want   string // TXT, or RCODE, or what the error says
		asked  int
	}{
		"good":         {typed(dohType, nil), "yes", 1},
		"parameters":   {typed("Application/DNS-Message; charset=x", nil), "yes", 1},
		"nxdomain":     {typed(dohType, rcode(dns.RcodeNameError)), "NXDOMAIN", 1},
		"no EDNS":      {typed(dohType, func(m *dns.Msg) { m.Answer, m.Question, m.Rcode = nil, nil, dns.RcodeFormatError }), "answered another question", 2},
		"HTML":         {typed("text/html; a=\"b\"", nil), `answered with "text/html; a=\"b\"", not a DNS message`, 1},
		"no type":      {typed("", nil), `answered with "", not a DNS message`, 1},
		"long type":    {typed(strings.Repeat("x", 1000), nil), "not a DNS message", 1},
		"error":        {status(500), "HTTP status 500", 1},
		"not found":    {status(404), "HTTP status 404", 1},
		"redirect":     {status(302), "HTTP status 302", 1},
		"redirect 307": {status(307), "HTTP status 307", 1},
		"no content":   {status(204), "HTTP status 204", 1},
		"wrong ID":     {typed(dohType, func(m *dns.Msg) { m.Id++ }), "answered another question", 1},
		"wrong name":   {typed(dohType, func(m *dns.Msg) { m.Question[0].Name = "b." }), "answered another question", 1},
		"truncated":    {typed(dohType, func(m *dns.Msg) { m.Truncated = true }), "answered in part", 1},
		"garbage":      {raw([]byte("<html>")), "answered garbage", 1},
		"empty":        {raw(nil), "answered garbage", 1},
		"oversize":     {raw(make([]byte, 1<<20)), "answered garbage", 1},
		"long header": {func(w http.ResponseWriter, q *dns.Msg) {
			w.Header().Set("X", strings.Repeat("x", 100<<10))
			typed(dohType, nil)(w, q)
		}, "127.0.0.1", 1},
	} {
		for _, http2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, %v", what, http2), func(t *testing.T) {
				t.Parallel()
				up, _, r := serveHTTPS(t, ca, http2, c.handle)
				got, err := ask(t, up, "a.x.")
				if err != nil {
					if got = err.Error(); !strings.HasPrefix(got, up.Servers[0].String()+": ") || strings.Contains(got, "\x1b") || len(got) > 350 {
						t.Errorf("%q", got)
					}
				}
				if !strings.Contains(got, c.want) || err == nil && got != c.want {
					t.Errorf("%q (%v), want %q", got, err, c.want)
				}
				r.check(t, c.asked, 1)
			})
		}
	}
}

// What a cache on the way says counts (RFC 8484, 5.1).
func TestDoHAge(t *testing.T) {
	for age, want := range map[string]uint32{"": 100, "30": 70, "1000": 0, "99999999999": 100, "-1": 100, "x": 100} {
		up, _, _ := serveHTTPS(t, newAuthority(t), true, func(w http.ResponseWriter, q *dns.Msg) {
			w.Header().Set("Content-Type", dohType)
			w.Header().Set("Age", age)
			answering("yes", func(m *dns.Msg) { m.Answer[0].Header().Ttl = 100; m.SetEdns0(udpSize, true) })(httpWriter{w: w}, q)
		})
		m, err := up.Exchange(t.Context(), question("a.x.", dns.TypeTXT, true))
		if err != nil || m.Answer[0].Header().Ttl != want || !m.IsEdns0().Do() {
			t.Errorf("%q: %v, %v", age, m, err)
		}
	}
}

func TestDoHConnections(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		up, ts, r := serveHTTPS(t, newAuthority(t), http2, func(w http.ResponseWriter, q *dns.Msg) {
			w.Header().Set("Content-Type", dohType)
			answering(q.Question[0].Name, nil)(httpWriter{w: w}, q)
		})
		const n = 3 * maxStreams
		for i := range n { // the server ends it each time
			name := fmt.Sprintf("n%d.x.", i)
			if got, err := ask(t, up, name); got != name {
				t.Error(got, err)
			}
			if got, err := ask(t, up, name); got != name {
				t.Error(got, err)
			}
			ts.CloseClientConnections()
		}
		r.check(t, 2*n, n)
		var running sync.WaitGroup
		for i := range 100 {
			name := fmt.Sprintf("p%d.x.", i)
			running.Go(func() {
				if got, err := ask(t, up, name); got != name {
					t.Error(got, err)
				}
			})
		}
		running.Wait()
		r.mu.Lock()
		if r.conns > n+2*maxStreams { // some may have turned out dead
			t.Errorf("%d connections", r.conns-n)
		}
		r.mu.Unlock()
	}
}

// The proxies of the environment are the app's, and the certificate counts.
func TestDoHTrust(t *testing.T) {
	ca := newAuthority(t)
	up, ts, r := serveHTTPS(t, ca, true, func(http.ResponseWriter, *dns.Msg) {})
	if up.Servers[0].transport.(*doh).client.Transport.(*http.Transport).Proxy != nil {
		t.Error("by a proxy")
	}
	for _, s := range []*Server{
		dotServer(t, ts.URL+"/dns-query", newAuthority(t)),
		dotServer(t, strings.Replace(ts.URL, "127.0.0.1", "localhost", 1)+"/dns-query", ca),
	} {
		up.Servers = []*Server{s}
		if got, err := ask(t, up, "a.x."); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Error(got, err)
		}
	}
	r.check(t, 0, 2)
}
