package proxy

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"appfw/dnsguard"
	"appfw/netns"
	"appfw/policy"
)

// ExplicitPort is the port of the gateway's addresses where programs may ask for
// destinations by SOCKS and HTTP.
const ExplicitPort = 1080

// maxGreeting bounds the clients that have not said yet what they want. For one
// more, the one that came first has to go.
const maxGreeting = 1024

// Explicit speaks SOCKS5 (RFC 1928), SOCKS4a and HTTP (CONNECT, and requests for
// http: URLs) with clients that ask for their destinations, on one port. What
// they ask for becomes a flow like any other. Make it with NewExplicit.
type Explicit struct {
	admit func(user, password string) *Proxy // nil: everybody is let in
	all   *Proxy                             // decides on what those want
	web   *web

	mu       sync.Mutex
	greeting list.List // of *client, the oldest first
}

// NewExplicit makes an Explicit that has p decide. With admit, clients have to
// give a user and a password, and that returns what decides on their flows; nil
// if they are not those of a user.
func NewExplicit(p *Proxy, admit func(user, password string) *Proxy) *Explicit {
	e := &Explicit{admit: admit, all: p}
	e.web = newWeb(e)
	return e
}

// Run serves HTTP until ctx ends; then its connections are cut.
func (e *Explicit) Run(ctx context.Context) { e.web.run(ctx) }

// Finish ends the clients that want nothing at the time: those that have not
// said yet what they want, and those between two requests of HTTP.
func (e *Explicit) Finish() {
	e.web.server.SetKeepAlivesEnabled(false)
	e.mu.Lock()
	defer e.mu.Unlock()
	for x := e.greeting.Front(); x != nil; x = x.Next() {
		x.Value.(*client).Close()
	}
}

// Serve takes in clients of TCP or AF_UNIX until the listener is closed. It
// returns when all of them have ended, which ctx makes them do.
func (e *Explicit) Serve(ctx context.Context, l net.Listener) {
	eachConn(ctx, l, func(conn net.Conn) {
		name := conn.RemoteAddr().String()
		if _, ok := conn.(*net.UnixConn); ok {
			name = "unix"
		} else if d := e.all.decideFrom(policy.TCP, addrPort(conn.RemoteAddr()), addrPort(conn.LocalAddr()).Port()); !d.verdict.Allowed() {
			e.all.deny(&d, d.verdict)
			reset(conn)
			return
		}
		e.serve(ctx, conn.(stream), origin{client: name}, listenBeside)
	})
}

// listenBeside opens a UDP port at an address of the host.
func listenBeside(at netip.Addr) (*net.UDPConn, error) {
	return net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
}

// asker is who asks for destinations.
type asker struct {
	*Proxy // that decides; nil until it is known who it is
	origin
	ctx context.Context // of the service
}

// client is one connection of a client's.
type client struct {
	stream
	asker
	explicit  *Explicit
	listen    func(netip.Addr) (*net.UDPConn, error) // for its datagrams
	place     *list.Element                          // among those that greet; nil: it has
	done      chan struct{}                          // closed when HTTP is through with it
	hijacked  bool                                   // it has become another protocol's
	forwarder *forwarder                             // nil if it has forwarded nothing yet
}

// serve serves one client. listen opens a port for its datagrams.
func (e *Explicit) serve(ctx context.Context, conn stream, from origin, listen func(netip.Addr) (*net.UDPConn, error)) {
	c := &client{stream: conn, asker: asker{origin: from, ctx: ctx}, explicit: e, listen: listen, done: make(chan struct{})}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	e.mu.Lock()
	c.place = e.greeting.PushBack(c)
	if e.greeting.Len() > maxGreeting {
		oldest := e.greeting.Remove(e.greeting.Front()).(*client)
		oldest.place = nil
		reset(oldest.stream)
	}
	e.mu.Unlock()
	defer c.greeted()

	_ = conn.SetDeadline(time.Now().Add(greetTime))
	first, err := peek(conn)
	if err != nil {
		return
	}
	switch first {
	case socksVersion:
		c.socks5()
	case socks4Version:
		c.socks4()
	default:
		_ = conn.SetDeadline(time.Time{}) // package http has its own
		if e.web.hand(c) {
			<-c.done
			c.endForward()
		}
	}
}

// greeted says that a client has said what it wants.
func (c *client) greeted() {
	c.explicit.mu.Lock()
	defer c.explicit.mu.Unlock()
	if c.place != nil {
		c.explicit.greeting.Remove(c.place)
		c.place = nil
	}
}

// open says whether a client needs no user, and then who decides on its flows.
func (c *client) open() bool {
	if c.explicit.admit != nil {
		return false
	}
	c.Proxy, c.credentials = c.explicit.all, ""
	return true
}

// enter takes the credentials that a client gives; false if they are nobody's.
// Where none are needed, any will do, and flows with others share no circuit.
func (c *client) enter(user, password string) bool {
	if c.open() {
		c.credentials = user + "\x00" + password
		return true
	}
	if c.Proxy = c.explicit.admit(user, password); c.Proxy == nil {
		c.explicit.all.Log(Event{
			Verdict: policy.Denial("the user and the password are nobody's"), Proto: "tcp", Client: c.client, User: user,
		})
		return false
	}
	by, admit := c.Proxy, c.explicit.admit
	c.user, c.credentials = user, user+"\x00"+password
	c.still = func() bool { return admit(user, password) == by }
	return true
}

// refused is the error of a flow that the policy denies. It has been reported.
type refused struct {
	what    string
	verdict policy.Verdict
}

func (e *refused) Error() string { return fmt.Sprintf("denied %s: %s", e.what, e.verdict) }

// destinations decides on a destination that a client asks for, before anything
// is asked of anybody, and again on each of its addresses, as if the app had
// resolved it and then connected. Those that are allowed are returned, in the
// order in which to try them; if there is none, why.
func (a *asker) destinations(ctx context.Context, proto policy.Proto, host string, port uint16) ([]*decision, error) {
	deny := func(v policy.Verdict, host string, addr netip.Addr) error {
		e := Event{Verdict: v, Proto: proto.String(), Dst: netip.AddrPortFrom(addr, port), Name: host, Client: a.client, User: a.user}
		a.Log(e)
		return &refused{e.What(), v}
	}
	if port == 0 {
		return nil, deny(policy.Denial("there is no port 0"), host, netip.Addr{})
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return nil, deny(policy.Denial("addresses with a zone mean nothing to others"), addr.WithZone("").String(), netip.Addr{})
		}
		d := a.decide(a.origin, proto, netip.AddrPortFrom(addr.Unmap(), port), nil)
		if !d.verdict.Allowed() {
			return nil, deny(d.verdict, string(d.name), d.dst.Addr())
		}
		return []*decision{&d}, nil
	}
	name, err := policy.ParseName(host)
	if err != nil {
		return nil, deny(policy.Denial("not the name of a host: "+err.Error()), strings.ToValidUTF8(host[:min(len(host), 255)], ""), netip.Addr{})
	}
	if !dnsguard.Localhost(name) { // that is an address in all but spelling
		if v := a.Policy().Decide(policy.Flow{Proto: proto, Port: port, Name: name, Pinned: true}); !v.Allowed() {
			return nil, deny(v, string(name), netip.Addr{})
		}
	}
	addrs, pin, err := a.Guard.Resolve(ctx, name)
	if denied, ok := errors.AsType[*dnsguard.DeniedError](err); ok {
		return nil, &refused{"dns " + string(name), denied.Verdict}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var allowed []*decision
	var denied *decision
	for _, addr := range addrs {
		d := a.decide(a.origin, proto, netip.AddrPortFrom(addr, port), &pin)
		switch chained, _ := a.synthetic(addr); {
		case d.verdict.Allowed() && chained != "":
			return []*decision{&d}, nil // the others stand for the same name
		case d.verdict.Allowed():
			allowed = append(allowed, &d)
		case denied == nil:
			denied = &d
		}
	}
	if len(allowed) == 0 {
		return nil, deny(denied.verdict, string(name), denied.dst.Addr())
	}
	return allowed, nil
}

// reach connects to a destination that a client asks for. The flow has been
// reported, and its end is the caller's to report.
func (a *asker) reach(ctx context.Context, host string, port uint16) (*reached, error) {
	ways, err := a.destinations(a.ctx, policy.TCP, host, port)
	if err != nil {
		return nil, err
	}
	return race(ctx, ways, func(ctx context.Context, d *decision) (*reached, error) {
		a.Log(d.event(d.verdict))
		out, err := a.dial(ctx, d)
		if err != nil {
			a.unconnected(d, err)
			return nil, err
		}
		return &reached{out, d, a.Proxy}, nil
	})
}

// reached is a connection to a destination that was asked for.
type reached struct {
	stream
	*decision
	by *Proxy
}

// Close closes a connection that nobody wants.
func (r *reached) Close() error {
	r.by.ended(r.decision, r.verdict, 0, 0)
	return r.stream.Close()
}

// pass relays between the client, which has been told that it is connected, and
// the destination. early is what was read of the client already.
func (c *client) pass(to *reached, early []byte) {
	_ = c.SetDeadline(time.Time{})
	r := newRelay(c.stream, to.stream, *to.decision)
	r.early = early
	if v := c.track(r, &r.decision); !v.Allowed() {
		r.abort()
		c.deny(&r.decision, v)
		c.ended(&r.decision, r.verdict, 0, 0)
		return
	}
	c.relay(c.ctx, r)
}

// there is a context that ends when the client hangs up, and a function that
// ends the watch for that. The client is not read from meanwhile.
func (c *client) there() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(c.ctx)
	watched := make(chan struct{})
	_ = c.SetDeadline(time.Time{})
	go func() {
		defer close(watched)
		if _, err := peek(c.stream); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			cancel()
		}
	}()
	return ctx, func() {
		_ = c.SetReadDeadline(time.Unix(1, 0))
		<-watched
		_ = c.SetReadDeadline(time.Time{})
		cancel()
	}
}

// peek waits for the next byte of a connection, and leaves it there.
func peek(conn stream) (byte, error) {
	b, err := readBy(conn, 1, func(fd int, b []byte) (int, error) {
		n, _, err := unix.Recvfrom(fd, b[:1], unix.MSG_PEEK)
		return n, err
	})
	if err != nil {
		return 0, err
	}
	defer b.release()
	return b.data[0], nil
}

// splitHostPort splits HOST:PORT, as HTTP and URLs have it.
func splitHostPort(s string) (host string, port uint16, err error) {
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, fmt.Errorf("%.80q is no host and port", s)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%.80q is no port", text)
	}
	return host, uint16(n), nil
}

// explicit tells whether a connection is for the explicit proxy in a namespace.
func explicit(dst netip.AddrPort) bool {
	return dst.Port() == ExplicitPort && (dst.Addr() == netns.Gateway4 || dst.Addr() == netns.Gateway6)
}
