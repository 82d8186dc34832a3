package explicit

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"appfw/policy"
	"appfw/proxy"
	"appfw/proxy/decide"
	"appfw/proxy/journal"
	"appfw/proxy/relay"
)

// client is one connection of a client's.
type client struct {
	relay.Stream
	service *Service
	by      *proxy.Proxy  // decides on its flows; nil until it is known who it is
	from    proxy.Subject // who it is
	listen  func(netip.Addr) (*net.UDPConn, error)
	place   *list.Element // among those that greet; nil: it has
	keep    func() bool   // has it not be closed when the service ends; false if it is by now

	ctx       context.Context // of Serve; for package http, which has none of ours
	done      chan struct{}   // closed when HTTP is through with it
	hijacked  bool            // it has become another protocol's
	forwarder *forwarder      // nil if it has forwarded nothing yet
	servers   servers         // connections to those of requests
}

// greeted says that a client has said what it wants.
func (c *client) greeted() {
	c.service.mu.Lock()
	defer c.service.mu.Unlock()
	if c.place != nil {
		c.service.greeting.Remove(c.place)
		c.place = nil
	}
}

// open says whether a client needs no user, and then who decides on its flows.
func (c *client) open() bool {
	if c.service.Admit != nil {
		return false
	}
	c.by, c.from.Credentials = c.service.Proxy, ""
	return true
}

// enter takes the credentials that a client gives; false if they are nobody's.
// Where none are needed, any will do, and flows with others share no circuit.
func (c *client) enter(user, password string) bool {
	if c.open() {
		c.from.Credentials = user + "\x00" + password
		return true
	}
	admit := c.service.Admit
	user, password = asUTF8(user), asUTF8(password)
	by := admit(user, password)
	if c.by = by; by == nil {
		c.service.Proxy.Log(journal.Event{
			Verdict: policy.Denial("the user and the password are nobody's"), Proto: "tcp", Client: c.from.Client, User: user,
		})
		return false
	}
	c.from.User, c.from.Credentials = user, user+"\x00"+password
	c.from.Still = func() bool { return admit(user, password) == by }
	return true
}

// asUTF8 is text that a client sent in ISO 8859-1, as some do (RFC 7617, 2.1), in UTF-8.
func asUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	runes := make([]rune, len(s))
	for i := range len(s) {
		runes[i] = rune(s[i])
	}
	return string(runes)
}

// factsTo are those of a flow to where a client asks for.
func factsTo(scope *proxy.Scope, from proxy.Subject, proto policy.Proto, host string, port uint16) proxy.Facts {
	f := proxy.Facts{Facts: decide.Facts{Proto: proto, Dst: netip.AddrPortFrom(netip.Addr{}, port)}, Scope: scope, Subject: from}
	addr, err := netip.ParseAddr(host)
	switch {
	case port == 0:
		f.Refused, f.Called = "there is no port 0", host
	case err == nil && addr.Zone() != "":
		f.Refused, f.Called = "addresses with a zone mean nothing to others", addr.WithZone("").String()
	case err == nil:
		f.Dst = netip.AddrPortFrom(addr.Unmap(), port)
	default:
		name, err := policy.ParseName(host)
		if err != nil {
			f.Refused, f.Called = "not the name of a host: "+err.Error(), strings.ToValidUTF8(host[:min(len(host), 255)], "")
			break
		}
		f.Asked, f.Called = name, string(name)
	}
	return f
}

// request is an attempt: what a client asks for.
type request struct {
	facts  proxy.Facts
	watch  func(context.Context) context.Context // see proxy.Watched
	accept func() (proxy.Endpoint, error)        // says that there is a connection
	refuse func(error)                           // says why there is none
}

func (r *request) Facts() proxy.Facts                             { return r.facts }
func (r *request) Watch(ctx context.Context) context.Context      { return r.watch(ctx) }
func (r *request) Accept(context.Context) (proxy.Endpoint, error) { return r.accept() }
func (r *request) Refuse(err error)                               { r.refuse(err) }
func (r *request) Drop()                                          { r.refuse(errors.New("too many connections are being made")) }

// answer is how a client is told what became of its request.
type answer struct {
	watch func(context.Context) context.Context // see proxy.Watched
	// success says that there is a connection, and returns what was read of the client
	// already. It fails if the client has left.
	success func() (early []byte, err error)
	failure func(error)
}

// connect asks for a connection to where the client wants, and relays until both have
// ended.
func (c *client) connect(ctx context.Context, host string, port uint16, a answer) {
	c.by.Admit(ctx, &request{
		facts: factsTo(c.by.Asked(), c.from, policy.TCP, host, port),
		watch: a.watch,
		accept: func() (proxy.Endpoint, error) {
			early, err := a.success()
			if err != nil {
				return proxy.Endpoint{}, fmt.Errorf("%w: %w", proxy.ErrHungUp, err)
			}
			if !c.keep() { // from here on, the flow closes it
				return proxy.Endpoint{}, proxy.ErrHungUp
			}
			_ = c.SetDeadline(time.Time{})
			return proxy.Endpoint{Stream: c.Stream, Early: early}, nil
		},
		refuse: a.failure,
	})
}

// there watches whether the client is there, without reading from it: the context
// ends when it hangs up. stop ends the watch, and is called before the client is
// answered; it is false if the client has hung up.
func (c *client) there(ctx context.Context) (watched context.Context, stop func() bool) {
	watched, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	_ = c.SetDeadline(time.Time{})
	go func() {
		defer close(ended)
		if _, err := relay.Peek(c.Stream); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			cancel(proxy.ErrHungUp)
		}
	}()
	return watched, func() bool {
		_ = c.SetReadDeadline(time.Unix(1, 0))
		<-ended
		_ = c.SetReadDeadline(time.Time{})
		return watched.Err() == nil
	}
}

// alongside is ctx, and ends when other does, which is of who may hang up. stop has it
// go on, and is false if it has ended of that.
func alongside(ctx, other context.Context) (watched context.Context, stop func() bool) {
	watched, cancel := context.WithCancelCause(ctx)
	stop = context.AfterFunc(other, func() { cancel(proxy.ErrHungUp) })
	context.AfterFunc(watched, func() { stop() }) // other may go on for long
	return watched, stop
}

// localIP is the address of the host at which a client came; invalid if it came
// by a socket of AF_UNIX.
func (c *client) localIP() netip.Addr { return relay.AddrPort(c.LocalAddr()).Addr() }

func (c *client) remoteIP() netip.Addr { return relay.AddrPort(c.RemoteAddr()).Addr() }
