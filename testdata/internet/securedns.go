package internet

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"

	"github.com/miekg/dns"
)

// ServeDNSOverTLS answers queries from the zone on port 853 (RFC 7858) until cleanup, with a certificate for names.
func (h *Host) ServeDNSOverTLS(z *Zone, names ...string) {
	h.n.t.Helper()
	_, _, cert := h.n.Certificate(names...)
	var servers []*dns.Server
	for _, l := range h.ListenTCP(853) {
		servers = append(servers, &dns.Server{Listener: tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}}), Handler: z})
	}
	h.serveDNS(servers...)
}

// ServeDNSOverHTTPS answers queries from the zone on port 443 at /dns-query (RFC 8484) until cleanup, with a
// certificate for names.
func (h *Host) ServeDNSOverHTTPS(z *Zone, names ...string) {
	h.n.t.Helper()
	const kind = "application/dns-message"
	mux := http.NewServeMux()
	mux.HandleFunc("POST /dns-query", func(w http.ResponseWriter, r *http.Request) {
		packed, err := io.ReadAll(r.Body)
		query, answer := new(dns.Msg), new(httpsAnswer)
		if err != nil || query.Unpack(packed) != nil || len(query.Question) != 1 || r.Header.Get("Content-Type") != kind {
			http.Error(w, "not a query", http.StatusBadRequest)
			return
		}
		z.ServeDNS(answer, query)
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write(answer.packed) // the client is gone
	})
	h.ServeHTTPS(443, mux, names...)
}

// httpsAnswer takes a zone's answer.
type httpsAnswer struct {
	dns.ResponseWriter // nil: no handler of a zone calls more than the following
	packed             []byte
}

func (a *httpsAnswer) LocalAddr() net.Addr { return new(net.TCPAddr) } // as for TCP, nothing is truncated

func (a *httpsAnswer) WriteMsg(m *dns.Msg) (err error) {
	a.packed, err = m.Pack()
	return err
}
