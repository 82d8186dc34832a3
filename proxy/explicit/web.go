package explicit

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/policy"
	"appfw/proxy"
	"appfw/proxy/relay"
	"appfw/proxy/upstream"
)

const (
	// idleTime is how long a connection of HTTP may wait for its next request.
	idleTime = 2 * time.Minute
	// maxHead bounds the head of a request, in bytes.
	maxHead = 64 << 10
)

// web is the part of a Service that speaks HTTP/1 (RFC 9110).
type web struct {
	*relay.Handed
	server *http.Server
}

type clientKey struct{}

func newWeb(s *Service) *web {
	w := &web{Handed: relay.NewHanded()}
	w.server = &http.Server{
		Handler:           s,
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
	_ = w.server.Serve(w.Handed)
	w.Handed.Close()
}

// hand is false if nobody takes c any more, and it is closed then.
func (w *web) hand(c *client) bool { return w.Hand(c) }

// ServeHTTP serves one request of a client's.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(clientKey{}).(*client)
	defer func() {
		if c.hijacked {
			close(c.done)
		}
	}()
	if !c.enterHTTP(w, r) {
		return
	}
	c.greeted()
	switch {
	case r.Method == http.MethodConnect:
		c.connectHTTP(w, r)
	case r.URL.Scheme == "http" && r.URL.Host != "":
		c.forward(w, r)
	case r.URL.Host != "":
		http.Error(w, "appfw: of URLs, only http: is fetched here; for others, there is CONNECT", http.StatusNotImplemented)
	default:
		http.Error(w, "appfw: this is a proxy; the request does not say for which host it is", http.StatusBadRequest)
	}
}

// enterHTTP finds out who a client is; false if it is nobody, and has been told.
func (c *client) enterHTTP(w http.ResponseWriter, r *http.Request) bool {
	user, password, given := basicAuth(r.Header.Get("Proxy-Authorization"))
	if given && c.enter(user, password) || !given && c.open() {
		return true
	}
	_ = c.SetReadDeadline(time.Now().Add(greetTime)) // for the rest of the request
	w.Header().Set("Proxy-Authenticate", `Basic realm="appfw", charset="UTF-8"`)
	why := "appfw: it needs a user and a password"
	if given {
		why = "appfw: the user or the password is wrong"
	}
	http.Error(w, why, http.StatusProxyAuthRequired)
	return false
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

// connectHTTP serves a CONNECT (RFC 9110, 9.3.6).
func (c *client) connectHTTP(w http.ResponseWriter, r *http.Request) {
	host, port, err := policy.SplitHostPort(r.RequestURI)
	if err != nil {
		http.Error(w, "appfw: "+err.Error(), http.StatusBadRequest)
		return
	}
	var stop func() bool
	c.connect(c.ctx, host, port, answer{
		watch: func(ctx context.Context) context.Context {
			ctx, stop = alongside(ctx, r.Context())
			return ctx
		},
		success: func() ([]byte, error) {
			if !stop() {
				return nil, proxy.ErrHungUp
			}
			_, buffered, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return nil, err
			}
			if _, err := io.WriteString(c.Stream, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
				return nil, err
			}
			early := make([]byte, buffered.Reader.Buffered())
			_, _ = io.ReadFull(buffered.Reader, early) // it has as much
			return early, nil
		},
		failure: func(err error) {
			if !c.hijacked {
				c.service.refuseHTTP(w, r.RequestURI, err)
			}
		},
	})
}

// refuseHTTP tells a client why there is no connection.
func (s *Service) refuseHTTP(w http.ResponseWriter, what string, err error) {
	if denied, ok := errors.AsType[*proxy.Denied](err); ok {
		http.Error(w, "appfw: denied "+denied.What+": "+s.Explain(denied.Verdict), http.StatusForbidden)
		return
	}
	status := http.StatusBadGateway
	switch timeout, ok := errors.AsType[net.Error](err); {
	case netns.Shortage(err):
		status = http.StatusServiceUnavailable
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		status = http.StatusForbidden
	case ok && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		status = http.StatusGatewayTimeout
	}
	http.Error(w, fmt.Sprintf("appfw: connecting to %s failed: %v", what, upstream.Plain(err)), status)
}
