package dnsguard

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"

	"appfw/netns/mmsg"
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
	errs := make([]error, len(servers)+len(udp))
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
	for i, c := range udp {
		running.Go(func() {
			if err := g.servePackets(ctx, c); ctx.Err() == nil {
				errs[len(servers)+i] = err
			}
		})
	}
	<-ctx.Done()
	started.Wait() // Shutdown refuses servers that have not started
	for _, s := range servers {
		_ = s.Shutdown() // that it runs no longer is no failure
	}
	for _, c := range udp {
		c.Close()
	}
	running.Wait()
	return errors.Join(errs...)
}

const (
	// batch is how many datagrams are taken in at once.
	batch = 32
	// maxQuery is how large a query over UDP may be: there are none so large.
	maxQuery = 4096
	// maxSlow bounds the datagrams that are being answered in other ways than from
	// the cache. More wait in the socket.
	maxSlow = 2 * maxInFlight
)

// servePackets answers datagrams until the socket is closed: what is ready in the
// cache at once, and all else when it is there.
func (g *Guard) servePackets(ctx context.Context, conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	control := func(fd uintptr) { failed = mmsg.ReceiveTo(int(fd)) }
	if err := errors.Join(raw.Control(control), failed); err != nil {
		return err
	}
	in := mmsg.NewBatch(batch, maxQuery)
	slots := make(chan struct{}, maxSlow)
	var n int
	receive := func(fd uintptr) bool {
		n, failed = in.Receive(int(fd))
		return failed != unix.EAGAIN
	}
	send := func(fd uintptr) { in.Send(int(fd)) }
	answers := make([]byte, 0, batch*maxUDPAnswer)
	var slow sync.WaitGroup
	defer slow.Wait()
	for {
		if err := raw.Read(receive); err != nil {
			return err
		}
		if failed == unix.ENOMEM || failed == unix.ENOBUFS {
			continue
		}
		if failed != nil {
			return failed
		}
		answers = answers[:0]
		for i := range n {
			query, _ := in.Datagram(i)
			start := len(answers)
			var ready bool
			if answers, ready = g.ready(ctx, query, answers); ready {
				in.Reply(i, answers[start:])
				continue
			}
			from := in.Origin(i)
			query, control := slices.Clone(query), slices.Clone(from.Control)
			slots <- struct{}{}
			slow.Go(func() {
				defer func() { <-slots }()
				if answer := g.AnswerPacket(ctx, query); answer != nil {
					_, _, _ = conn.WriteMsgUDPAddrPort(answer, control, from.Addr) // an app that left is no failure
				}
			})
		}
		if err := raw.Control(send); err != nil {
			return err
		}
	}
}

func (g *Guard) serveDNS(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) {
	m := g.Answer(ctx, q)
	if m == nil {
		return
	}
	m.Truncate(dns.MaxMsgSize) // compressed, it is what upstream could send
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
	m, f := g.query(ctx, q)
	if m == nil {
		return nil
	}
	if f.entry != nil {
		g.cache.keepReady(q, f)
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
		size = answerSize(opt.UDPSize())
	}
	m.Compress = true
	if opt := m.IsEdns0(); opt != nil && m.Len() > size {
		opt.Option = nil // the first to go is the explanation (RFC 8914, 3)
	}
	m.Truncate(size)
}
