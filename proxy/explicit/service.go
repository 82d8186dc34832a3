// Package explicit is the proxy that programs ask for destinations: SOCKS5 (RFC 1928),
// SOCKS4a and HTTP (CONNECT, and requests for http: URLs), on one port, told apart by
// a connection's first byte. What is asked for becomes a flow like any other: package
// proxy decides on it and connects it. Here is only how clients are spoken to.
//
//	s := explicit.New(explicit.Config{Proxy: p})
//	go s.Run(ctx)
//	s.ServeListener(ctx, listener) // until it is closed
package explicit

import (
	"container/list"
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"appfw/netns/mmsg"
	"appfw/policy"
	"appfw/proxy"
	"appfw/proxy/journal"
	"appfw/proxy/relay"
)

const (
	// maxGreeting bounds the clients that have not said yet what they want. For one
	// more, the one that came first has to go.
	maxGreeting = 1024
	// greetTime is how long a client may take to say what it wants.
	greetTime = 10 * time.Second
)

// Config is what a Service is made of. Proxy is needed.
type Config struct {
	Proxy *proxy.Proxy // decides on what everybody wants who needs no user
	// Admit is what decides on the flows of a user; nil if there is none with the
	// password. A nil function lets everybody in.
	Admit func(user, password string) *proxy.Proxy
	// Explain says for people what a denial is and what to do about it; nil: its
	// reason alone.
	Explain func(policy.Verdict) string
}

// Service speaks with clients. Make it with New.
type Service struct {
	Config
	web *web

	mu       sync.Mutex
	greeting list.List // of *client, the oldest first
}

// New makes a Service.
func New(c Config) *Service {
	if c.Explain == nil {
		c.Explain = policy.Verdict.Reason
	}
	s := &Service{Config: c}
	s.web = newWeb(s)
	return s
}

// Run serves HTTP until ctx ends; then its connections are cut.
func (s *Service) Run(ctx context.Context) { s.web.run(ctx) }

// Finish ends the clients that want nothing at the time: those that have not
// said yet what they want, and those between two requests of HTTP.
func (s *Service) Finish() {
	s.web.server.SetKeepAlivesEnabled(false)
	s.mu.Lock()
	defer s.mu.Unlock()
	for x := s.greeting.Front(); x != nil; x = x.Next() {
		x.Value.(*client).Close()
	}
}

// ServeListener takes in clients of TCP or AF_UNIX until the listener is closed. It
// returns when all of them have ended, which ctx makes them do.
func (s *Service) ServeListener(ctx context.Context, l net.Listener) {
	relay.EachConn(ctx, l, func(conn net.Conn) {
		name := conn.RemoteAddr().String()
		if _, ok := conn.(*net.UnixConn); ok {
			name = "unix"
		} else if !s.Proxy.AdmitsClient(relay.AddrPort(conn.RemoteAddr()), relay.AddrPort(conn.LocalAddr())) {
			relay.Reset(conn)
			return
		}
		s.Serve(ctx, conn.(relay.Stream), proxy.Subject{Client: name}, listenBeside)
	}, func() {
		s.Proxy.Log(journal.Event{Verdict: noRoom, Proto: "tcp", Client: ListenerName(l)})
	})
}

// noRoom is why clients wait who want to connect.
var noRoom = policy.Denial("appfw has no file descriptor left for clients, who wait (ulimit -n raises the limit)")

// listenBeside opens a UDP port at an address of the host.
func listenBeside(at netip.Addr) (*net.UDPConn, error) {
	return mmsg.Listen(netip.AddrPortFrom(at, 0))
}

// Serve serves one client until it has left, or ctx ends. listen opens a port for its
// datagrams.
func (s *Service) Serve(ctx context.Context, conn relay.Stream, from proxy.Subject, listen func(netip.Addr) (*net.UDPConn, error)) {
	c := &client{Stream: conn, service: s, from: from, listen: listen, done: make(chan struct{})}
	c.keep = context.AfterFunc(ctx, func() { conn.Close() })
	defer c.keep()
	defer conn.Close()
	s.mu.Lock()
	c.place = s.greeting.PushBack(c)
	if s.greeting.Len() > maxGreeting {
		oldest := s.greeting.Remove(s.greeting.Front()).(*client)
		oldest.place = nil
		relay.Reset(oldest.Stream)
	}
	s.mu.Unlock()
	defer c.greeted()

	_ = conn.SetDeadline(time.Now().Add(greetTime))
	first, err := relay.Peek(conn)
	if err != nil {
		return
	}
	switch first {
	case socks5Version:
		c.socks5(ctx)
	case socks4Version:
		c.socks4(ctx)
	default:
		_ = conn.SetDeadline(time.Time{}) // package http has its own
		c.ctx = ctx
		if s.web.hand(c) {
			<-c.done
			c.endForward()
			c.servers.wait()
		}
	}
}
