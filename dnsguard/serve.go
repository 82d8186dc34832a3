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
		servers = append(servers, &dns.Server{Listener: &listener{netutil.LimitListener(l, maxConns), ctx}, Handler: handler, MaxTCPQueries: -1}) // any number
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
	running.Go(func() { g.Pins.serve(ctx, g.Now) })
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

// maxSlow bounds the datagrams that are being answered in other ways than from the
// cache. More are dropped, and will be sent again: what the cache has, is not to wait
// for them.
const maxSlow = 4 * maxInFlight

// servePackets answers datagrams until the socket is closed: what is ready in the
// cache at once, and all else when it is there.
func (g *Guard) servePackets(ctx context.Context, conn *net.UDPConn) error {
	in, err := mmsg.NewInbox(conn, mmsg.SmallSize, mmsg.ReceiveTo)
	if err != nil {
		return err
	}
	slots := make(chan struct{}, maxSlow)
	var answers []byte
	var slow sync.WaitGroup
	defer slow.Wait()
	for {
		err := in.Receive()
		if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENOBUFS) {
			continue
		}
		if err != nil {
			return err
		}
		answers = slices.Grow(answers[:0], in.N*maxUDPAnswer) // they stay where they are
		for i := range in.N {
			query, whole := in.Datagram(i)
			if !whole { // no question is as long
				continue
			}
			start := len(answers)
			var ready bool
			if answers, ready = g.ready(ctx, query, answers); ready {
				in.Reply(i, answers[start:])
				continue
			}
			select {
			case slots <- struct{}{}:
			default:
				continue
			}
			from := in.Origin(i)
			query, control := slices.Clone(query), slices.Clone(from.Control)
			slow.Go(func() {
				defer func() { <-slots }()
				if answer := g.AnswerPacket(ctx, query); answer != nil {
					_, _, _ = conn.WriteMsgUDPAddrPort(answer, control, from.Addr) // an app that left is no failure
				}
			})
		}
		err = in.Send()
		in.Release()
		if err != nil {
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
