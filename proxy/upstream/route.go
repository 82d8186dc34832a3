package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"appfw/proxy/message"
	"appfw/proxy/relay"
)

// route is one row of proxies, as one flow goes it.
type route struct {
	hops []hop
	user func(*hop) *url.Userinfo // credentials for one; nil if there are none
}

func (r *route) last() *hop { return &r.hops[len(r.hops)-1] }

// reach connects to the proxy n, through those before it. conn is closed if there is an
// error.
func (r *route) reach(ctx context.Context, n int) (net.Conn, error) {
	conn, err := r.hops[0].reach(ctx)
	if err != nil {
		return nil, failed(ctx, r.hops[0].text, err)
	}
	for i := 0; ; i++ {
		h := &r.hops[i]
		var secure net.Conn
		if secure, err = h.secured(ctx, conn); err != nil {
			conn.Close()
			return nil, failed(ctx, h.text, err)
		}
		if conn = secure; i == n {
			return conn, nil
		}
		host, port := r.hops[i+1].listens()
		if err = r.ask(ctx, i, conn, host, port); err != nil {
			conn.Close()
			return nil, err
		}
	}
}

// ask asks the proxy i for a connection.
func (r *route) ask(ctx context.Context, i int, conn net.Conn, host string, port uint16) error {
	h := &r.hops[i]
	err := h.ask(ctx, conn, host, port, r.user(h), func(ctx context.Context) error { return r.answers(ctx, i) })
	if err == nil {
		return nil
	}
	refused, ok := errors.AsType[*chainError](err)
	if !ok {
		return failed(ctx, h.text, err)
	}
	refused.hop = h.text
	if i+1 < len(r.hops) && !refused.own { // the next proxy is not there
		refused.err = fmt.Errorf("it cannot reach %s: %s", r.hops[i+1].text, refused.cause())
		refused.errno, refused.own = unix.ENETUNREACH, true
	}
	return refused
}

// dial connects to what is beyond.
func (r *route) dial(ctx context.Context, host string, port uint16, web bool) (relay.Stream, error) {
	conn, err := r.reach(ctx, len(r.hops)-1)
	if err != nil {
		return nil, err
	}
	if r.last().kind == webProxy && (web || port == webPort) {
		return newPlain(r, conn, host, port, nil)
	}
	if err = r.ask(ctx, len(r.hops)-1, conn, host, port); err != nil {
		conn.Close()
		if refused, ok := errors.AsType[*chainError](err); !ok || !refused.noTunnel || port < userPorts {
			return nil, err
		}
		again, failed := r.reach(ctx, len(r.hops)-1) // as the proxy may hang up
		if failed != nil {
			return nil, failed
		}
		return newPlain(r, again, host, port, err)
	}
	s, err := asStream(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

const (
	// webPort is that of http: (RFC 9110, 4.2.1). Nobody else's servers are there.
	webPort = 80
	// userPorts are those from here on that stand for no protocol (RFC 6335, 6): where a
	// proxy makes no tunnel to one, there may be a web server, which it does ask.
	userPorts = 1024
)

// silence is how long a proxy may say nothing before it is asked whether it is there,
// and how long that may take.
const silence = greetTime / 2

// answers tells whether the proxy i, which speaks HTTP, answers anything: it may be its
// destination that does not.
func (r *route) answers(ctx context.Context, i int) error {
	_, err := r.probe(ctx, i)
	return err
}

// probe is what the proxy i, which speaks HTTP, answers to a request that is for the
// proxy itself: an OPTIONS that may go no further (RFC 9110, 7.6.2).
func (r *route) probe(ctx context.Context, i int) (*message.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	conn, err := r.reach(ctx, i)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	request := message.Request{Method: "OPTIONS", Target: "*", Version: "HTTP/1.1", Head: message.Head{"Host: " + r.hops[i].addr, "Max-Forwards: 0", "Connection: close"}}
	if b := basic(r.user(&r.hops[i])); b != "" {
		request.Head = append(request.Head, "Proxy-Authorization: "+b)
	}
	if _, err := conn.Write(request.Append(nil)); err != nil {
		return nil, err
	}
	return readAnswer(conn, func() {})
}

// listens is where the proxy before this one is asked to connect to.
func (h *hop) listens() (host string, port uint16) {
	addr := h.addr
	if addr == "" { // "tor": a socket is only the first
		addr = localTor[0]
	}
	host, text, _ := net.SplitHostPort(addr)
	n, _ := strconv.ParseUint(text, 10, 16)
	return host, uint16(n)
}
