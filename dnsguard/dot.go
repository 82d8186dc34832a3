package dnsguard

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// idle is how long a connection is kept that nothing comes or goes by
	// (RFC 7766, 6.2.3). It is longer than any question waits.
	idle = 10 * time.Second
	// Connections to one server, and questions that wait on one of them: as
	// many as a Guard has in flight.
	maxStreams   = 4
	maxPipelined = maxInFlight / maxStreams
)

// dot is DNS over TLS (RFC 7858). Connections are kept, and shared by questions
// (RFC 7766, 6.2.1.1).
type dot struct {
	address string // to connect to, with a port
	config  *tls.Config
	idle    time.Duration
	// patience is how long a connection may be silent while a question waits.
	// Then it may be dead, and the next question has another: it is often the
	// same one, asked again by a Resolvers whose patience is a little longer.
	patience time.Duration

	mu      sync.Mutex
	streams []*stream // that have not ended, the newest last; guarded by mu
	begun   int       // how many there ever were; guarded by mu
}

// stream is one connection.
//
//	connecting ──> connected ──> ended
//	     └───────────────────────^
type stream struct {
	number int
	send   chan []byte   // to be written; without buffer
	ended  chan struct{} // closed at the end; then err is set
	err    error

	// All guarded by the mu of its dot.
	connected bool
	waiting   map[uint16]*call // by ID. One that is given up stays, so that its ID is not used again
	silent    time.Time        // when the first question since the last answer was asked; zero if none was
}

// call is one question on a stream.
type call struct {
	*stream
	q      *dns.Msg
	joined bool        // the stream was connected before
	result chan result // has room for it
}

func newDoT(address string, config *tls.Config) *dot {
	return &dot{address: address, config: config, idle: idle, patience: patience * 3 / 4}
}

// exchange asks twice if the connection turns out to be dead: the server may
// have closed it at any time, but hardly a new one.
func (t *dot) exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	pad(q)
	c, err := t.place(q, 0)
	if err != nil {
		return nil, err
	}
	m, err := t.wait(ctx, c)
	if err != nil && c.joined && c.over() && ctx.Err() == nil {
		if c, err = t.place(q, c.number); err != nil {
			return nil, err
		}
		m, err = t.wait(ctx, c)
	}
	return m, err
}

// place finds a stream for a question, newer than the one with a number.
func (t *dot) place(q *dns.Msg, number int) (*call, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var s *stream
	for _, x := range slices.Backward(t.streams) {
		stuck := x.connected && !x.silent.IsZero() && time.Since(x.silent) >= t.patience
		if x.number > number && len(x.waiting) < maxPipelined && (!stuck || len(t.streams) == maxStreams) {
			s = x
			break
		}
	}
	switch {
	case s == nil && len(t.streams) == maxStreams:
		return nil, errBusy
	case s == nil:
		t.begun++
		s = &stream{number: t.begun, send: make(chan []byte), ended: make(chan struct{}), waiting: make(map[uint16]*call)}
		t.streams = append(t.streams, s)
		go t.run(s)
	}
	c := &call{stream: s, q: q.Copy(), joined: s.connected, result: make(chan result, 1)}
	for c.q.Id = dns.Id(); s.waiting[c.q.Id] != nil; {
		c.q.Id = dns.Id()
	}
	s.waiting[c.q.Id] = c
	if s.silent.IsZero() {
		s.silent = time.Now()
	}
	return c, nil
}

// wait sends the question and waits for its answer.
func (t *dot) wait(ctx context.Context, c *call) (*dns.Msg, error) {
	packed, err := c.q.Pack()
	if err != nil {
		return nil, err
	}
	select {
	case c.send <- packed:
	case <-c.ended:
		return nil, c.err
	case <-ctx.Done():
		t.withdraw(c)
		return nil, ctx.Err()
	}
	select {
	case r := <-c.result:
		return r.m, r.err
	case <-c.ended:
		select {
		case r := <-c.result: // the last thing that came
			return r.m, r.err
		default:
			return nil, c.err
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// withdraw takes a question back that was not sent.
func (t *dot) withdraw(c *call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(c.waiting, c.q.Id)
	if len(c.waiting) == 0 {
		c.silent = time.Time{}
	}
}

func (s *stream) over() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// run is a stream's life. It ends when nothing comes or goes for a while.
func (t *dot) run(s *stream) {
	s.err = t.talk(s)
	t.mu.Lock()
	t.streams = slices.DeleteFunc(t.streams, func(x *stream) bool { return x == s })
	t.mu.Unlock()
	close(s.ended)
}

// talk connects, and then hands out what comes, until an error.
func (t *dot) talk(s *stream) error {
	// Others than the question that it began with wait for it, too.
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	conn, err := (&tls.Dialer{Config: t.config}).DialContext(ctx, "tcp", t.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	t.mu.Lock()
	s.connected = true
	if len(s.waiting) > 0 {
		s.silent = time.Now()
	}
	t.mu.Unlock()
	c := &dns.Conn{Conn: conn}
	go t.write(s, c)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(t.idle))
		packet, err := readPacket(c)
		if err != nil {
			return err
		}
		if err := t.deliver(s, packet); err != nil {
			return err
		}
	}
}

// write writes what is to be sent, until the stream ends.
func (t *dot) write(s *stream, c *dns.Conn) {
	for {
		select {
		case packed := <-s.send:
			_ = c.SetWriteDeadline(time.Now().Add(patience))
			if _, err := c.Write(packed); err != nil {
				c.Close() // so that it ends
				return
			}
			_ = c.SetReadDeadline(time.Now().Add(t.idle))
		case <-s.ended:
			return
		}
	}
}

// deliver hands an answer to the question that it belongs to. A server that
// answers what was not asked is not listened to any longer.
func (t *dot) deliver(s *stream, packet []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.silent = time.Time{}
	id := binary.BigEndian.Uint16(packet)
	c := s.waiting[id]
	if c == nil {
		return errOther
	}
	m, err := unpack(packet, c.q)
	if err != nil && err != errTruncated {
		return err
	}
	delete(s.waiting, id)
	c.result <- result{m, err}
	return nil
}
