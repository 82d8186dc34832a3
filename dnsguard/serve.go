package dnsguard

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
)

// maxConns bounds the app's TCP connections to the resolver, a listener.
const maxConns = 256

// Serve answers on the listeners and sockets until ctx ends, and closes them.
// Answers come from the address that was asked.
func (g *Guard) Serve(ctx context.Context, tcp []net.Listener, udp []*net.UDPConn) error {
	var servers []*dns.Server
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { g.serveDNS(ctx, w, q) })
	for _, l := range tcp {
		servers = append(servers, &dns.Server{Listener: netutil.LimitListener(l, maxConns), Handler: handler, MaxTCPQueries: -1}) // any number
	}
	for _, c := range udp {
		servers = append(servers, &dns.Server{PacketConn: c, Handler: handler, UDPSize: dns.MaxMsgSize})
	}
	errs := make([]error, len(servers))
	var running, started sync.WaitGroup
	for i, s := range servers {
		started.Add(1)
		s.NotifyStartedFunc = sync.OnceFunc(started.Done)
		running.Go(func() {
			if errs[i] = s.ActivateAndServe(); errs[i] != nil && ctx.Err() != nil {
				errs[i] = nil
			}
			s.NotifyStartedFunc() // in case it failed before
		})
	}
	<-ctx.Done()
	started.Wait() // Shutdown refuses servers that have not started
	for _, s := range servers {
		_ = s.Shutdown() // that it runs no longer is no failure
	}
	running.Wait()
	return errors.Join(errs...)
}

func (g *Guard) serveDNS(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) {
	m := g.Answer(ctx, q)
	if m == nil {
		return
	}
	if _, isUDP := w.LocalAddr().(*net.UDPAddr); isUDP {
		truncate(m, q)
	} else {
		m.Truncate(dns.MaxMsgSize) // compressed, it is what upstream could send
	}
	packed, err := m.Pack()
	if err != nil {
		packed, _ = failure(q, dns.RcodeServerFailure, 0, "").Pack()
	}
	_, _ = w.Write(packed) // an app that left is no failure
}

// AnswerPacket answers a datagram. It is nil if there is nothing to answer.
func (g *Guard) AnswerPacket(ctx context.Context, packet []byte) []byte {
	q := new(dns.Msg)
	if err := q.Unpack(packet); err != nil {
		if len(packet) < 12 || q.Response {
			return nil
		}
		q = &dns.Msg{MsgHdr: dns.MsgHdr{Id: q.Id, Opcode: q.Opcode}}
		packed, _ := failure(q, dns.RcodeFormatError, 0, "").Pack()
		return packed
	}
	m := g.Answer(ctx, q)
	if m == nil {
		return nil
	}
	truncate(m, q)
	packed, err := m.Pack()
	if err != nil {
		packed, _ = failure(q, dns.RcodeServerFailure, 0, "").Pack()
	}
	return packed
}

// truncate fits m into what the app takes over UDP (RFC 6891, 6.2.3).
func truncate(m, q *dns.Msg) {
	size := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		size = min(max(size, int(opt.UDPSize())), 4096)
	}
	m.Compress = true
	if opt := m.IsEdns0(); opt != nil && m.Len() > size {
		opt.Option = nil // the first to go is the explanation (RFC 8914, 3)
	}
	m.Truncate(size)
}
