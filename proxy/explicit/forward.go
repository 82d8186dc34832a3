package explicit

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"appfw/policy"
	"appfw/proxy"
	"appfw/proxy/message"
	"appfw/proxy/relay"
)

// forward passes on a request for an http: URL. Connections that are kept open
// for those to come are this client's alone, and of one user.
func (c *client) forward(w http.ResponseWriter, r *http.Request) {
	if c.forwarder == nil || c.forwarder.by != c.by || c.forwarder.from.Credentials != c.from.Credentials {
		c.endForward()
		c.forwarder = newForwarder(c)
	}
	f := c.forwarder
	defer f.endSwitched()
	if !repeatable(r) { // a server may have closed what is kept, and the request could not be made again
		f.transport.CloseIdleConnections()
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	connected := new(atomic.Bool)
	ended, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(r.Context(), func() { c.hungUp(ended, connected.Load, cancel) })()
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }}
	w.Header()["Content-Type"], w.Header()["Date"] = nil, nil // none are made up
	f.proxy.ServeHTTP(noContinue{w}, r.WithContext(httptrace.WithClientTrace(ctx, trace)))
}

// leaveTime is how long a server may take to be connected to for a client that has ended
// its side of the connection: who has sent a whole request may do so and wait for the
// answer, and who has left looks the same.
const leaveTime = 2 * time.Second

// hungUp gives up a request whose client has left, at once if it is known to have.
func (c *client) hungUp(ended context.Context, connected func() bool, giveUp func()) {
	if _, err := relay.Peek(c.Stream); err != nil && err != io.EOF {
		giveUp()
		return
	}
	for _, patience := range []time.Duration{leaveTime, idleTime} {
		select {
		case <-ended.Done():
			return
		case <-time.After(patience):
		}
		if !connected() {
			break
		}
	}
	giveUp()
}

// repeatable tells whether a request may be made again by itself, as it has come in whole
// and changes nothing by that (RFC 9110, 9.2.2).
func repeatable(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return r.Body == nil || r.Body == http.NoBody
	}
	return false
}

// noContinue leaves 100 (Continue) to package http, which says it when the body is
// wanted: when the server has said so.
type noContinue struct{ http.ResponseWriter }

func (w noContinue) WriteHeader(status int) {
	if status != http.StatusContinue {
		w.ResponseWriter.WriteHeader(status)
	}
}

// Unwrap is for [http.ResponseController].
func (w noContinue) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// endForward closes the connections that are kept open.
func (c *client) endForward() {
	if c.forwarder != nil {
		c.forwarder.transport.CloseIdleConnections()
	}
}

// forwarder passes on the requests of one client and one user.
type forwarder struct {
	client    *client
	by        *proxy.Proxy // of the requests; the client may be another user by now
	from      proxy.Subject
	transport *http.Transport
	proxy     *httputil.ReverseProxy
	switched  io.Closer // the connection of a request that is another protocol's now; nil: it is none's
}

// endSwitched closes the connection that has become another protocol's, if one has.
func (f *forwarder) endSwitched() {
	if f.switched != nil {
		f.switched.Close()
		f.switched = nil
	}
}

func newForwarder(c *client) *forwarder {
	f := &forwarder{client: c, by: c.by, from: c.from}
	f.transport = &http.Transport{
		DialContext:            f.connect,
		DisableCompression:     true, // bodies are passed on as they are
		IdleConnTimeout:        idleTime,
		ExpectContinueTimeout:  continueTime,
		MaxResponseHeaderBytes: 4 * maxHead,
	}
	f.proxy = &httputil.ReverseProxy{
		Transport:  f.transport,
		BufferPool: relay.BufferPool{},
		Rewrite:    rewrite,
		ModifyResponse: func(r *http.Response) error {
			if r.StatusCode == http.StatusSwitchingProtocols {
				f.switched = r.Body // which ReverseProxy forgets if it is not what was asked for
			}
			return nil
		},
		FlushInterval: -1, // what has come of a body is passed on, also if it breaks off
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			c.service.refuseHTTP(w, r.URL.Host, err)
		},
	}
	return f
}

// continueTime is how long a server may take to say whether it wants a body (RFC 9110,
// 10.1.1). Clients that wait for that send it after a second or so.
const continueTime = 3 * time.Second

// rewrite has a request passed on as the client made it, but for what is between
// it and the proxy (RFC 9110, 7.6.1), which has been removed.
func rewrite(r *httputil.ProxyRequest) {
	if authority, target, ok := message.SplitURL(r.In.RequestURI, "http"); ok { // byte for byte
		switch {
		case target == "" && r.In.Method == http.MethodOptions:
			target = "*"
		case target == "" || target[0] != '/':
			target = "/" + target
		case strings.HasPrefix(target, "//"): // which net/url takes for a host
			target = "//" + authority + target
		}
		r.Out.URL.Opaque, r.Out.URL.RawQuery, r.Out.URL.ForceQuery = target, "", false
	}
	// Package net/http sends a body in vain that the server does not want, if the
	// connection is kept, and has the client be told to send it.
	r.Out.Close = r.In.Header.Get("Expect") != ""
	for name, values := range r.In.Header {
		if name == "Forwarded" || strings.HasPrefix(name, "X-Forwarded-") {
			r.Out.Header[name] = values
		}
	}
	if !strings.EqualFold(r.Out.Header.Get("Upgrade"), "websocket") { // others may show names again
		r.Out.Header.Del("Upgrade")
		r.Out.Header.Del("Connection")
	}
}

// connect connects to the server of a request. The flow goes on until the connection
// is closed.
func (f *forwarder) connect(ctx context.Context, _, addr string) (net.Conn, error) {
	host, port, err := policy.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	type result struct {
		conn *serverConn
		err  error
	}
	results := make(chan result, 1)
	var stop func() bool
	facts := factsTo(f.by.Asked(), f.from, policy.TCP, host, port)
	facts.Web = true
	wanted := &request{
		facts: facts,
		watch: func(flow context.Context) context.Context {
			flow, stop = alongside(flow, ctx)
			return flow
		},
		accept: func() (proxy.Endpoint, error) {
			if !stop() {
				return proxy.Endpoint{}, proxy.ErrHungUp
			}
			return proxy.Endpoint{Take: func(ctx context.Context, out relay.Stream, sent, received *atomic.Int64) error {
				c := &serverConn{Stream: out, sent: sent, received: received, closed: make(chan struct{})}
				defer context.AfterFunc(ctx, c.abort)()
				results <- result{conn: c}
				<-c.closed
				if f.client.ctx.Err() != nil { // which closes the client's connection, too
					<-ctx.Done() // any moment, and says why the flow ends
				}
				return context.Cause(ctx) // nil if it was not cut
			}}, nil
		},
		refuse: func(err error) { results <- result{err: err} },
	}
	if !f.client.servers.start(func() { f.by.Admit(f.client.ctx, wanted) }) {
		return nil, proxy.ErrHungUp
	}
	r := <-results
	if r.err != nil {
		return nil, r.err
	}
	return r.conn, nil
}

// servers are the flows of a client's requests. They go on while their connections are
// kept, and are waited for when the client has left.
type servers struct {
	flows sync.WaitGroup

	mu   sync.Mutex
	over bool // no more begin: package http may dial for a request that is given up
}

// start runs a flow; false if the client has left.
func (s *servers) start(flow func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.flows.Go(flow)
	}
	return !s.over
}

// wait waits until all have ended.
func (s *servers) wait() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.flows.Wait()
}

// serverConn is a connection to a server, for requests.
type serverConn struct {
	relay.Stream
	closing        sync.Once
	closed         chan struct{}
	sent, received *atomic.Int64
}

func (c *serverConn) Read(b []byte) (int, error) {
	n, err := c.Stream.Read(b)
	c.received.Add(int64(n))
	return n, err
}

func (c *serverConn) Write(b []byte) (int, error) {
	n, err := c.Stream.Write(b)
	c.sent.Add(int64(n))
	return n, err
}

// Close closes it, which ends the flow.
func (c *serverConn) Close() (err error) {
	c.closing.Do(func() {
		err = c.Stream.Close()
		close(c.closed)
	})
	return err
}

// abort resets it, whoever uses it: the flow is denied by now, or appfw ends.
func (c *serverConn) abort() {
	c.closing.Do(func() {
		relay.Reset(c.Stream)
		close(c.closed)
	})
}
