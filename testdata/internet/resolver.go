package internet

import (
	"net"

	"github.com/miekg/dns"
)

// Answer is the answer a recursive resolver gives to query: CNAMEs followed, a SOA with what does not exist.
// Handlers can start from it.
func (z *Zone) Answer(query *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(query)
	m.RecursionAvailable = true
	if o := query.IsEdns0(); o != nil {
		m.SetEdns0(1232, o.Do())
	}
	question := query.Question[0]
	z.mu.Lock()
	defer z.mu.Unlock()
	name := question.Name
	for range 20 {
		rrs, exists := z.lookup(dns.CanonicalName(name))
		next, before := "", len(m.Answer)
		for _, rr := range rrs {
			alias, isAlias := rr.(*dns.CNAME)
			if !isAlias && question.Qtype != dns.TypeANY && question.Qtype != rr.Header().Rrtype {
				continue
			}
			rr = dns.Copy(rr)
			rr.Header().Name = name
			m.Answer = append(m.Answer, rr)
			if isAlias && question.Qtype != dns.TypeANY && question.Qtype != dns.TypeCNAME {
				next = alias.Target
			}
		}
		if next != "" {
			name = next
			continue
		}
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
		if len(m.Answer) == before {
			m.Ns = []dns.RR{authorityOf(name)}
		}
		return m
	}
	m.Answer, m.Rcode = nil, dns.RcodeServerFailure // CNAMEs in a circle
	return m
}

// ServeDNS answers a query as the zone says, truncated to the size the client can take.
func (z *Zone) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	question := query.Question[0] // there is one: others are rejected by the server
	z.mu.Lock()
	z.queries = append(z.queries, question)
	handler := z.handlers[dns.CanonicalName(question.Name)]
	z.mu.Unlock()
	if handler != nil {
		handler(w, query)
		return
	}
	m := z.Answer(query)
	size := dns.MaxMsgSize
	if _, udp := w.LocalAddr().(*net.UDPAddr); udp {
		size = dns.MinMsgSize
		if o := query.IsEdns0(); o != nil {
			size = max(size, int(o.UDPSize()))
		}
	}
	m.Truncate(size)
	_ = w.WriteMsg(m) // the client is gone
}

// ServeDNS answers queries from the zone on port 53 until cleanup.
func (h *Host) ServeDNS(z *Zone) {
	h.n.t.Helper()
	var servers []*dns.Server
	for _, l := range h.ListenTCP(53) {
		servers = append(servers, &dns.Server{Listener: l, Handler: z})
	}
	for _, c := range h.ListenUDP(53) {
		servers = append(servers, &dns.Server{PacketConn: c, Handler: z, UDPSize: 4096})
	}
	h.serveDNS(servers...)
}

// serveDNS runs the servers until cleanup.
func (h *Host) serveDNS(servers ...*dns.Server) {
	h.n.t.Helper()
	for _, s := range servers {
		started, ended := make(chan struct{}), make(chan error, 1)
		s.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- s.ActivateAndServe() }()
		select {
		case <-started:
		case err := <-ended:
			h.n.t.Fatal("internet: resolver: ", err)
		}
		h.n.t.Cleanup(func() {
			await(h.n.t, "the resolver", func() { _ = s.Shutdown() }) // fails only when it has ended
		})
	}
}
