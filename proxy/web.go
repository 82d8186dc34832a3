package proxy

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// idleTime is how long a connection of HTTP may wait for its next request.
const idleTime = 2 * time.Minute

// web is the part of the explicit proxy that speaks HTTP/1 (RFC 9110).
type web struct {
	*connListener
	server *http.Server
}

type clientKey struct{}

func newWeb(e *Explicit) *web {
	w := &web{connListener: newConnListener()}
	w.server = &http.Server{
		Handler:           e,
		ReadHeaderTimeout: greetTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHead,
		ErrorLog:          log.New(io.Discard, "", 0), // of what clients do wrong
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, clientKey{}, conn)
		},
		ConnState: func(conn net.Conn, state http.ConnState) {
			switch c := conn.(*client); state {
			case http.StateHijacked:
				c.hijacked = true // and its handler's, which is still running
			case http.StateClosed:
				close(c.done)
			}
		},
		// Requests name other hosts: "*" is not for this server, either.
		DisableGeneralOptionsHandler: true,
	}
	return w
}

// run serves the connections that are handed over until ctx ends.
func (w *web) run(ctx context.Context) {
	defer context.AfterFunc(ctx, func() { w.server.Close() })()
	_ = w.server.Serve(w.connListener)
	w.connListener.Close()
}

// ServeHTTP serves one request of a client's.
func (e *Explicit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(clientKey{}).(*client)
	defer func() {
		if c.hijacked {
			close(c.done)
		}
	}()
	user, password, given := basicAuth(r.Header.Get("Proxy-Authorization"))
	if given && !c.enter(user, password) || !given && !c.open() {
		_ = c.SetReadDeadline(time.Now().Add(greetTime)) // for the rest of the request
		w.Header().Set("Proxy-Authenticate", `Basic realm="appfw"`)
		why := "appfw: it needs a user and a password"
		if given {
			why = "appfw: the user or the password is wrong"
		}
		http.Error(w, why, http.StatusProxyAuthRequired)
		return
	}
	c.greeted()
	switch {
	case r.Method == http.MethodConnect:
		c.connect(w, r)
	case r.URL.Scheme == "http" && r.URL.Host != "":
		c.forward(w, r)
	case r.URL.Host != "":
		http.Error(w, "appfw: of URLs, only http: is fetched here; for others, there is CONNECT", http.StatusNotImplemented)
	default:
		http.Error(w, "appfw: this is a proxy; the request does not say for which host it is", http.StatusBadRequest)
	}
}

// basicAuth parses credentials of the Basic scheme (RFC 7617).
func basicAuth(field string) (user, password string, ok bool) {
	scheme, encoded, _ := strings.Cut(field, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", "", false
	}
	text, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(text), ":")
}

// connect serves a CONNECT (RFC 9110, 9.3.6).
func (c *client) connect(w http.ResponseWriter, r *http.Request) {
	host, port, err := splitHostPort(r.RequestURI)
	if err != nil {
		http.Error(w, "appfw: "+err.Error(), http.StatusBadRequest)
		return
	}
	to, err := c.reach(r.Context(), host, port)
	if err != nil {
		httpRefuse(w, r.RequestURI, err)
		return
	}
	_, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		to.Close()
		return
	}
	if _, err := io.WriteString(c.stream, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		to.Close()
		return
	}
	early := make([]byte, buffered.Reader.Buffered())
	_, _ = io.ReadFull(buffered.Reader, early) // it has as much
	c.pass(to, early)
}

// httpRefuse tells a client why there is no connection.
func httpRefuse(w http.ResponseWriter, what string, err error) {
	if denied, ok := errors.AsType[*refused](err); ok {
		http.Error(w, "appfw: "+denied.Error(), http.StatusForbidden)
		return
	}
	status := http.StatusBadGateway
	switch timeout, ok := errors.AsType[net.Error](err); {
	case shortage(err):
		status = http.StatusServiceUnavailable
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		status = http.StatusForbidden
	case ok && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		status = http.StatusGatewayTimeout
	}
	http.Error(w, fmt.Sprintf("appfw: connecting to %s failed: %v", what, plain(err)), status)
}

// forward passes on a request for an http: URL. Connections that are kept open
// for those to come are this client's alone, and of one user.
func (c *client) forward(w http.ResponseWriter, r *http.Request) {
	if c.forwarder == nil || c.forwarder.asker.Proxy != c.Proxy || c.forwarder.credentials != c.credentials {
		c.endForward()
		c.forwarder = newForwarder(c.asker)
	}
	c.forwarder.proxy.ServeHTTP(w, r)
}

// endForward closes the connections that are kept open.
func (c *client) endForward() {
	if c.forwarder != nil {
		c.forwarder.transport.CloseIdleConnections()
	}
}

// forwarder passes on requests.
type forwarder struct {
	asker
	transport *http.Transport
	proxy     *httputil.ReverseProxy
}

func newForwarder(a asker) *forwarder {
	f := &forwarder{asker: a}
	f.transport = &http.Transport{
		DialContext:            f.connect,
		DisableCompression:     true, // bodies are passed on as they are
		IdleConnTimeout:        idleTime,
		MaxResponseHeaderBytes: 4 * maxHead,
	}
	f.proxy = &httputil.ReverseProxy{
		Transport:     f.transport,
		BufferPool:    pooled{},
		Rewrite:       rewrite,
		FlushInterval: time.Millisecond, // a body that is there goes with its head
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			httpRefuse(w, r.URL.Host, err)
		},
	}
	return f
}

// pooled are the buffers of talk, for package httputil.
type pooled struct{}

func (pooled) Get() []byte  { return *smallBuffers.Get().(*[]byte) }
func (pooled) Put(b []byte) { smallBuffers.Put(&b) }

// rewrite has a request passed on as the client made it, but for what is between
// it and the proxy (RFC 9110, 7.6.1), which has been removed.
func rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.RawQuery = r.In.URL.RawQuery
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

// connect connects to the server of a request.
func (f *forwarder) connect(ctx context.Context, _, addr string) (net.Conn, error) {
	host, port, err := splitHostPort(addr)
	if err != nil {
		return nil, err
	}
	to, err := f.reach(ctx, host, port)
	if err != nil {
		return nil, err
	}
	c := &serverConn{reached: to}
	if v := f.track(c, to.decision); !v.Allowed() {
		f.deny(to.decision, v)
		c.Close()
		return nil, &refused{addr, v}
	}
	return c, nil
}

// serverConn is a connection to a server, for requests.
type serverConn struct {
	*reached
	closing        sync.Once
	sent, received atomic.Int64
}

func (c *serverConn) Read(b []byte) (int, error) {
	n, err := c.stream.Read(b)
	c.received.Add(int64(n))
	return n, err
}

func (c *serverConn) Write(b []byte) (int, error) {
	n, err := c.stream.Write(b)
	c.sent.Add(int64(n))
	return n, err
}

// Close closes it and reports its end.
func (c *serverConn) Close() (err error) {
	c.closing.Do(func() {
		err = c.stream.Close()
		c.by.untrack(c)
		c.by.ended(c.decision, c.verdict, c.sent.Load(), c.received.Load())
	})
	return err
}

// abort resets it; whoever uses it closes it.
func (c *serverConn) abort() { reset(c.stream) }
