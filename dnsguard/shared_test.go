package dnsguard

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// held is a resolver that answers when it is told to.
type held struct {
	asked  chan struct{}
	answer chan struct{}
}

func (h *held) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	h.asked <- struct{}{}
	select {
	case <-h.answer:
	case <-ctx.Done():
		return nil, errors.New("the connection was given up") // as a socket says it
	}
	m := new(dns.Msg).SetReply(q)
	if q.Question[0].Qtype == dns.TypeA {
		m.Answer = []dns.RR{&dns.A{Hdr: header(q.Question[0], 60), A: []byte{11, 0, 0, 1}}}
	}
	return m, nil
}

// Of several that wait for one answer, the one that asked may leave: the others get it.
func TestAskerLeaves(t *testing.T) {
	f := newFixture(t, nil, "allow a.ok.x")
	h := &held{asked: make(chan struct{}, 10), answer: make(chan struct{})}
	f.Guard.Upstream = h
	resolve := func(ctx context.Context) <-chan error {
		ended := make(chan error, 1)
		go func() {
			addrs, _, err := f.Resolve(ctx, "a.ok.x")
			if err == nil && len(addrs) != 1 {
				err = errors.New("it has no address")
			}
			ended <- err
		}()
		return ended
	}
	leaves, cancel := context.WithCancel(t.Context())
	first := resolve(leaves)
	<-h.asked // for its A and AAAA
	<-h.asked
	second := resolve(t.Context())
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(h.answer)
	select {
	case err := <-second:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the other one waits for ever")
	}
	if n := len(f.slots); n != 0 {
		t.Errorf("%d slots are taken", n)
	}
}
