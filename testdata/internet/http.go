package internet

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// ServeHTTP serves HTTP on the port. Cleanup closes all connections and waits for the handlers.
func (h *Host) ServeHTTP(port int, handler http.Handler) {
	h.n.t.Helper()
	h.serveHTTP(port, handler, (*http.Server).Serve)
}

// ServeHTTPS serves HTTP/1 and HTTP/2 over TLS on the port, with a certificate for names. Cleanup closes all
// connections and waits for the handlers.
func (h *Host) ServeHTTPS(port int, handler http.Handler, names ...string) {
	h.n.t.Helper()
	h.ServeTLS(port, handler, new(tls.Config), names...)
}

// ServeTLS is ServeHTTPS with the TLS that config says; it gets the certificate.
func (h *Host) ServeTLS(port int, handler http.Handler, config *tls.Config, names ...string) {
	h.n.t.Helper()
	_, _, cert := h.n.Certificate(names...)
	h.serveHTTP(port, handler, func(s *http.Server, l net.Listener) error {
		s.TLSConfig = config.Clone()
		s.TLSConfig.Certificates = []tls.Certificate{cert}
		return s.ServeTLS(l, "", "")
	})
}

func (h *Host) serveHTTP(port int, handler http.Handler, serve func(*http.Server, net.Listener) error) {
	h.n.t.Helper()
	var running sync.RWMutex // held for reading by each handler
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !running.TryRLock() {
			panic(http.ErrAbortHandler) // the server is closing
		}
		defer running.RUnlock()
		handler.ServeHTTP(w, r)
	})
	for _, l := range h.ListenTCP(port) {
		// What clients do wrong is the test's business, not the log's.
		server := &http.Server{Handler: counted, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
		var serving sync.WaitGroup
		serving.Go(func() {
			if err := serve(server, l); err != http.ErrServerClosed && !strings.Contains(err.Error(), net.ErrClosed.Error()) {
				h.n.t.Errorf("internet: serving %s: %v", l.Addr(), err)
			}
		})
		h.n.t.Cleanup(func() {
			_ = server.Close()
			_ = l.Close() // in case Serve had not yet begun
			serving.Wait()
			await(h.n.t, "an HTTP handler", func() {
				running.Lock()
				defer running.Unlock()
			})
		})
	}
}
