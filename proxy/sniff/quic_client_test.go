package sniff

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"appfw/policy"
)

func (r *quicRelay) WriteTo(b []byte, to net.Addr) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	names, more, err := r.q.Read(b)
	r.err = errors.Join(r.err, err)
	r.names = append(r.names, names...)
	if r.refuses > 0 && len(r.names) >= r.refuses {
		_, err := r.PacketConn.WriteTo(r.q.Refusal("not "+string(r.names[r.refuses-1])), r.LocalAddr())
		return len(b), err
	}
	r.waiting = append(r.waiting, bytes.Clone(b))
	if more || r.err != nil {
		r.held++
		return len(b), nil
	}
	for _, w := range r.waiting {
		if _, err := r.PacketConn.WriteTo(w, to); err != nil {
			return 0, err
		}
	}
	r.waiting = nil
	return len(b), nil
}

// quicSocket is a socket of the loopback interface.
func quicSocket(t *testing.T) net.PacketConn {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// quicServer runs a server of quic-go that echoes streams.
func quicServer(t *testing.T, retry bool, config *tls.Config) net.Addr {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a.example"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	config.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	config.NextProtos = []string{"test"}
	transport := &quic.Transport{Conn: quicSocket(t), VerifySourceAddress: func(net.Addr) bool { return retry }}
	t.Cleanup(func() { transport.Close() })
	listener, err := transport.ListenEarly(config, &quic.Config{Allow0RTT: true})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := listener.Accept(context.Background())
			if err != nil {
				return
			}
			go func() {
				if s, err := conn.AcceptStream(context.Background()); err == nil {
					_, _ = io.Copy(s, s)
					s.Close()
				}
			}()
		}
	}()
	return transport.Conn.LocalAddr()
}

// dial opens a connection through the relay and has something echoed.
func (r *quicRelay) dial(t *testing.T, to net.Addr, v quic.Version, config *tls.Config) (quic.ConnectionState, error) {
	t.Helper()
	t.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	transport := &quic.Transport{Conn: r}
	defer transport.Close()
	config.ServerName, config.InsecureSkipVerify = "A.example", true
	config.NextProtos = append([]string{"test"}, config.NextProtos...)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := transport.DialEarly(ctx, to, config, &quic.Config{Versions: []quic.Version{v}})
	if err != nil {
		return quic.ConnectionState{}, err
	}
	s, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return quic.ConnectionState{}, err
	}
	_ = s.SetDeadline(time.Now().Add(10 * time.Second))
	_, err = s.Write([]byte("echo"))
	s.Close()
	got, errRead := io.ReadAll(s)
	if err = errors.Join(err, errRead); err == nil && string(got) != "echo" {
		err = fmt.Errorf("%q came back", got)
	}
	state := conn.ConnectionState()
	return state, errors.Join(err, conn.CloseWithError(0, ""))
}

// TestQUICClient reads whole connections of a real client, which scrambles its
// ClientHello, to a real server.
func TestQUICClient(t *testing.T) {
	var protos []string
	for i := range 200 {
		protos = append(protos, fmt.Sprintf("protocol-%d", i))
	}
	retries := &tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP384}} // by a HelloRetryRequest
	for _, c := range []struct {
		what   string
		retry  bool
		server *tls.Config
		client *tls.Config
		hellos int
	}{
		{"default", false, &tls.Config{}, &tls.Config{}, 1},
		{"small", false, &tls.Config{}, &tls.Config{CurvePreferences: []tls.CurveID{tls.X25519}}, 1},
		{"large", false, &tls.Config{}, &tls.Config{NextProtos: protos}, 1},
		{"HelloRetryRequest", false, retries, &tls.Config{}, 2},
		{"Retry", true, &tls.Config{}, &tls.Config{}, 2},
		{"both", true, retries, &tls.Config{NextProtos: protos}, 3},
	} {
		to := quicServer(t, c.retry, c.server.Clone())
		for _, v := range []quic.Version{quic.Version1, quic.Version2} {
			for range 3 {
				r := &quicRelay{PacketConn: quicSocket(t)}
				if _, err := r.dial(t, to, v, c.client.Clone()); err != nil {
					t.Errorf("%s, %v: %v", c.what, v, err)
				}
				r.mu.Lock()
				if want := slices.Repeat([]policy.Name{"a.example"}, c.hellos); !slices.Equal(r.names, want) || r.err != nil || len(r.waiting) > 0 {
					t.Errorf("%s, %v: %q, %v, %d wait", c.what, v, r.names, r.err, len(r.waiting))
				}
				if c.what == "large" && r.held == 0 {
					t.Error("no datagram of a large ClientHello had to wait")
				}
				r.mu.Unlock()
			}
		}
	}
}

// TestQUICRefusedClient: a client is told at once, and why.
func TestQUICRefusedClient(t *testing.T) {
	retries := quicServer(t, false, &tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP384}})
	verifies := quicServer(t, true, &tls.Config{})
	silent := quicSocket(t).LocalAddr()
	for _, v := range []quic.Version{quic.Version1, quic.Version2} {
		for _, c := range []struct {
			what    string
			to      net.Addr
			refuses int
		}{
			{"first", silent, 1}, {"after a HelloRetryRequest", retries, 2}, {"after a Retry", verifies, 2},
		} {
			r := &quicRelay{PacketConn: quicSocket(t), refuses: c.refuses}
			start := time.Now()
			_, err := r.dial(t, c.to, v, &tls.Config{})
			refused, ok := errors.AsType[*quic.TransportError](err)
			if !ok || !refused.Remote || refused.ErrorCode != quic.ConnectionRefused || refused.ErrorMessage != "not a.example" {
				t.Errorf("%v, %s: %v", v, c.what, err)
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("%v, %s: after %v", v, c.what, took)
			}
		}
	}
}
