package conntest

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"testing"

	"github.com/quic-go/quic-go"
)

// QUICHello is the datagrams of a QUIC client, up to the last of its ClientHello: more
// tells of each whether another has to follow it.
func QUICHello(t testing.TB, config *tls.Config, more func(datagram []byte) (bool, error)) (datagrams [][]byte) {
	t.Helper()
	t.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	listen := func() *net.UDPConn {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	client, server := listen(), listen()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = quic.Dial(ctx, client, server.LocalAddr(), config, nil)
	}()
	defer func() { cancel(); <-ended }()
	b := make([]byte, 1<<16)
	for {
		n, err := server.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		datagrams = append(datagrams, bytes.Clone(b[:n]))
		switch follows, err := more(b[:n]); {
		case err != nil:
			t.Fatal(err)
		case !follows:
			return datagrams
		}
	}
}
