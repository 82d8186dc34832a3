package internet

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// ServeHTTP3 serves HTTP/3 on the UDP port, with a certificate for names. tune, unless nil, changes the server of
// each address before it starts. Cleanup closes all connections and waits for the handlers.
func (h *Host) ServeHTTP3(port int, handler http.Handler, tune func(*quic.Transport, *http3.Server), names ...string) {
	h.n.t.Helper()
	_, _, cert := h.n.Certificate(names...)
	for _, conn := range h.ListenUDP(port) {
		transport := &quic.Transport{Conn: conn}
		server := &http3.Server{
			Handler:    handler,
			TLSConfig:  &tls.Config{Certificates: []tls.Certificate{cert}},
			QUICConfig: &quic.Config{Allow0RTT: true},
			Logger:     slog.New(slog.NewTextHandler(io.Discard, nil)), // see serveHTTP
		}
		if tune != nil {
			tune(transport, server)
		}
		l, err := transport.ListenEarly(http3.ConfigureTLSConfig(server.TLSConfig), server.QUICConfig)
		if err != nil {
			h.n.t.Fatalf("internet: QUIC on %s: %v", conn.LocalAddr(), err)
		}
		var serving sync.WaitGroup
		serving.Go(func() {
			if err := server.ServeListener(l); !errors.Is(err, http.ErrServerClosed) {
				h.n.t.Errorf("internet: serving %s: %v", conn.LocalAddr(), err)
			}
		})
		h.n.t.Cleanup(func() {
			await(h.n.t, "an HTTP/3 handler", func() {
				_ = server.Close()
				_ = transport.Close()
				serving.Wait()
			})
		})
	}
}
