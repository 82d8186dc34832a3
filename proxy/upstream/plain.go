package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"appfw/proxy/message"
	"appfw/proxy/relay"
	"appfw/proxy/sniff"
)

// plainStream asks an HTTP proxy for what is behind http: URLs as such: requests go in
// absolute form (RFC 9112, 3.2.2), to the host that the connection is for and to no
// other, and with the proxy's credentials. It is the end of a pair of sockets, between
// which and the proxy the heads are rewritten. What is no such request has a tunnel made
// when it comes (CONNECT).
//
//	undecided → requests and responses, in their order → closed
//	    └─────→ tunnel ──────────────────────────────────┘
type plainStream struct {
	*net.UnixConn
	inner   *net.UnixConn
	route   *route
	host    string
	port    uint16
	refused error           // why the proxy makes no tunnel; nil: it was not asked
	ctx     context.Context // ends when it is closed
	cancel  context.CancelFunc
	sent    chan struct{} // closed when all that was written has been sent

	asked chan struct{} // closed once proxy is what answers
	from  message.Reader

	mu      sync.Mutex // guards what follows
	proxy   net.Conn
	closed  bool
	tunnel  bool
	waiting []string // methods of the requests without their response
	ended   bool     // no more requests will come
	cause   error    // why it failed
	heard   func()   // ends the watch for the first answer; nil before
	silent  *atomic.Bool
}

// newPlain makes a stream for host:port, of a connection to the last proxy of a route.
// refused is why that makes no tunnel, if it has been asked.
func newPlain(r *route, proxy net.Conn, host string, port uint16, refused error) (relay.Stream, error) {
	ends, err := socketpair()
	if err != nil {
		proxy.Close()
		return nil, err
	}
	p := &plainStream{
		UnixConn: ends[0], inner: ends[1], route: r, host: host, port: port, refused: refused,
		proxy: proxy, sent: make(chan struct{}), asked: make(chan struct{}), from: message.Reader{From: ends[1]},
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	go p.send()
	go p.receive()
	return p, nil
}

// Cause is why it ended, if not in order; nil else.
func (p *plainStream) Cause() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cause
}

// fail ends it for an error that is the proxy's, or of what the app says.
func (p *plainStream) fail(err error) {
	if refused, ok := errors.AsType[*chainError](err); !ok {
		err = failed(p.ctx, p.route.last().text, err)
	} else if refused.hop == "" {
		refused.hop = p.route.last().text
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cause == nil && !p.closed {
		p.cause = err
	}
	p.proxy.Close()
	_ = p.inner.CloseRead() // what is written now fails, and does not wait
	_ = p.inner.CloseWrite()
}

func (p *plainStream) send() {
	defer close(p.sent)
	if err := p.requests(); err != nil {
		p.fail(err)
	}
	select {
	case <-p.asked:
	default: // nothing came, or it failed: nobody answers
		close(p.asked)
	}
}

// requests passes on what the app says.
func (p *plainStream) requests() error {
	request, err := p.first()
	switch {
	case err == io.EOF:
		p.close()
		return nil
	case err != nil:
		return err
	case request == nil || !p.rewrites(request):
		if err = p.makeTunnel(request); err != nil || request == nil || p.tunnelled() {
			return err
		}
	}
	p.mu.Lock()
	p.heard, p.silent = watchSilence(p.ctx, p.proxy, func(ctx context.Context) error { return p.route.answers(ctx, len(p.route.hops)-1) })
	p.mu.Unlock()
	close(p.asked)
	for {
		if err := p.pass(request); err != nil {
			if _, ok := errors.AsType[*message.WriteError](err); ok {
				_ = p.inner.CloseRead()
				return nil // the proxy says why, or hangs up
			}
			return err
		}
		request, err = p.from.Request()
		switch {
		case err == io.EOF:
			p.end()
			return nil
		case err != nil:
			return fmt.Errorf("what follows the first request cannot be asked of it: %w", err)
		case !p.rewrites(request):
			return errors.New("a request that is for another host, or for another protocol, follows others on the connection")
		}
	}
}

// first is the first request; nil if what came is none.
func (p *plainStream) first() (*message.Request, error) {
	for {
		b := p.from.Buffered()
		if len(b) > 0 {
			if _, state, err := sniff.Identify(b, false); err != nil || state == sniff.Watched || state == sniff.Nameless && !startsRequest(b) || b[0] < ' ' && b[0] != '\r' && b[0] != '\n' {
				return nil, nil
			}
			if r, err := message.ReadRequest(b); r != nil || err != nil {
				return r, nil
			}
		}
		if err := p.from.Fill(); err == io.EOF && len(b) > 0 {
			return nil, nil
		} else if err != nil {
			return nil, io.EOF
		}
	}
}

// startsRequest tells whether b starts with a whole line that may be a request's.
func startsRequest(b []byte) bool {
	line, _, whole := strings.Cut(string(b[:min(len(b), message.MaxHead)]), "\n")
	return !whole || strings.Contains(line, " HTTP/1.")
}

// rewrites makes of a request one for the proxy; false if it is none for the host that
// the connection is for, or asks for another protocol.
func (p *plainStream) rewrites(r *message.Request) bool {
	if r.Target[0] != '/' && r.Target != "*" || len(r.Values("Upgrade")) > 0 && r.Lists("Connection", "Upgrade") && p.refused == nil {
		return false
	}
	for _, host := range r.Values("Host") { // one at most
		if !p.isFor(host) {
			return false
		}
	}
	return true
}

// isFor tells whether the value of a Host field is that of the connection's host.
func (p *plainStream) isFor(field string) bool {
	host, port, err := net.SplitHostPort(field)
	if err != nil {
		host, port = strings.Trim(field, "[]"), strconv.Itoa(webPort)
	}
	same := strings.EqualFold(strings.TrimSuffix(host, "."), strings.TrimSuffix(p.host, "."))
	return same && port == strconv.Itoa(int(p.port))
}

// authority is the host in URLs.
func (p *plainStream) authority() string {
	host := p.host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if p.port != webPort {
		host += ":" + strconv.Itoa(int(p.port))
	}
	return host
}

// pass passes a request on.
func (p *plainStream) pass(r *message.Request) error {
	p.from.Take(r.Size)
	out := *r
	out.Head = slices.Clone(r.Head)
	url := "http://" + p.authority()
	if out.Target != "*" {
		url += out.Target
	}
	out.Target = url
	closes := out.Lists("Connection", "close")
	keeps := out.Lists("Connection", "keep-alive")
	out.DelHop()
	out.Del("Upgrade", "Proxy-Authorization")
	switch {
	case closes:
		out.Head = append(out.Head, "Connection: close")
	case keeps:
		out.Head = append(out.Head, "Connection: keep-alive")
	}
	if b := basic(p.route.user(p.route.last())); b != "" {
		out.Head = append(out.Head, "Proxy-Authorization: "+b)
	}
	p.mu.Lock()
	p.waiting = append(p.waiting, r.Method)
	proxy, many := p.proxy, len(p.waiting) > maxPipelined
	p.mu.Unlock()
	if many {
		return errors.New("too many requests wait for their responses")
	}
	if _, err := proxy.Write(out.Append(nil)); err != nil {
		return &message.WriteError{Err: err}
	}
	err := p.from.Pass(proxy, &out.Body)
	if err == io.ErrUnexpectedEOF { // the proxy hears of it
		halfClose(proxy)
		return nil
	}
	return err
}

// maxPipelined bounds the requests without their response.
const maxPipelined = 1000

// makeTunnel has the proxy make a tunnel to the host, and passes all on by it. Where it
// makes none, a request is asked of it as such if it can be.
func (p *plainStream) makeTunnel(request *message.Request) error {
	err := p.refused
	if err == nil {
		ctx, cancel := context.WithTimeout(p.ctx, chainTime)
		defer cancel()
		err = p.route.ask(ctx, len(p.route.hops)-1, p.proxy, p.host, p.port)
	}
	refused, ok := errors.AsType[*chainError](err)
	switch {
	case err == nil:
		return p.passAll()
	case !ok || !refused.noTunnel || request == nil:
		return err
	}
	p.refused = err
	if !p.rewrites(request) {
		return err
	}
	again, failed := p.route.reach(p.ctx, len(p.route.hops)-1) // as the proxy may hang up
	if failed != nil {
		return failed
	}
	p.mu.Lock()
	p.proxy.Close()
	p.proxy = again
	closed := p.closed
	p.mu.Unlock()
	if closed {
		again.Close()
		return context.Canceled
	}
	return nil
}

func (p *plainStream) tunnelled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tunnel
}

// passAll passes on whatever comes.
func (p *plainStream) passAll() error {
	p.mu.Lock()
	p.tunnel = true
	p.mu.Unlock()
	close(p.asked)
	b := p.from.Buffered()
	_, err := p.proxy.Write(b)
	p.from.Take(len(b))
	if err == nil {
		_, err = io.Copy(p.proxy, p.inner)
	}
	if err != nil {
		_ = p.inner.CloseRead()
		return nil // what the proxy sends, or its end, is all that there is to say
	}
	halfClose(p.proxy)
	return nil
}

// halfClose says that no more will be sent.
func halfClose(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}

// end says that no more requests will come. The proxy hears of that when it has
// answered all: by some, who ends is taken to have left (half_closed_clients of squid).
func (p *plainStream) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended = true; len(p.waiting) == 0 {
		p.proxy.Close()
	}
}

// close ends it with nothing to say.
func (p *plainStream) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proxy.Close()
}
