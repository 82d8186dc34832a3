package dnsguard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Who asks on and on and never reads is left, and holds up nothing: not others, not the
// end.
func TestNeverReads(t *testing.T) {
	g := newFixture(t, func(m *dns.Msg) error {
		for i := range 200 {
			m.Answer = append(m.Answer, record(fmt.Sprintf("example.com. 60 IN TXT %d%0200d", i, 0)))
		}
		return nil
	}, "allow any")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(ctx, []net.Listener{l}, nil) }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	q := new(dns.Msg)
	q.SetQuestion("example.com.", dns.TypeTXT)
	packed, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	packed = append([]byte{byte(len(packed) >> 8), byte(len(packed))}, packed...)
	fill := func() error { // until it takes no more
		for {
			_ = c.SetWriteDeadline(time.Now().Add(time.Second / 2))
			if _, err := c.Write(packed); err != nil {
				return err
			}
		}
	}
	if err := fill(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	if _, _, err := (&dns.Client{Net: "tcp", Timeout: time.Second}).Exchange(q, l.Addr().String()); err != nil {
		t.Errorf("another is not answered: %v", err)
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(2 * time.Second):
		t.Error("it does not end")
	}
}
