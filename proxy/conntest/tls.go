package conntest

import (
	"crypto/tls"
	"net"
	"testing"
)

// ClientHello is the first flight of crypto/tls: one record.
func ClientHello(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	config.InsecureSkipVerify = true
	go func() { _ = tls.Client(client, config).Handshake(); client.Close() }()
	defer server.Close()
	b := make([]byte, 1<<16)
	n, err := server.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// Records cuts a handshake message of TLS into records of at most size bytes.
func Records(message []byte, size int) (b []byte) {
	for len(message) > 0 {
		n := min(size, len(message))
		b = append(b, 22, 3, 1, byte(n>>8), byte(n))
		b = append(b, message[:n]...)
		message = message[n:]
	}
	return b
}
