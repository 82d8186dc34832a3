//go:build !race

package sniff

import (
	"crypto/tls"
	"testing"

	"github.com/quic-go/quic-go"
)

// TestQUICEarlyData: 0-RTT packets go once the ClientHello is read, and many
// connections of one socket are one flow. The race detector finds a race within
// quic-go v0.65 itself (handleTransportParameters and newFlowController).
func TestQUICEarlyData(t *testing.T) {
	to := quicServer(t, false, &tls.Config{})
	cache := tls.NewLRUClientSessionCache(1)
	r := &quicRelay{PacketConn: quicSocket(t)}
	early := 0
	for range 9 {
		state, err := r.dial(t, to, quic.Version1, &tls.Config{ClientSessionCache: cache})
		if err != nil {
			t.Fatal(err)
		}
		if state.Used0RTT {
			early++
		}
	}
	if early < 8 || len(r.names) != 9 || r.err != nil {
		t.Errorf("%d connections with 0-RTT, %q, %v", early, r.names, r.err)
	}
}
