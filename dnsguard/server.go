package dnsguard

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"appfw/policy"
)

// Server is a resolver elsewhere. Make it with [ParseServer]. It may be used by
// any goroutine, and keeps its connections for some seconds.
type Server struct {
	Zone policy.Name // the only names it is asked for are at and below it; "" is all
	TLS  *tls.Config // may be changed before the first question; nil for plain DNS

	spec      string // as ParseServer takes it, without the zone
	transport transport
	edns      edns
	ednsWait  time.Duration // 0 is the constant; tests have less of it
	mu        sync.Mutex
	failed    time.Time // since when it gives no answer, guarded by mu; zero if it does
}

type result struct {
	m   *dns.Msg
	err error
}

// transport carries questions to one server.
type transport interface {
	// exchange asks q, which is the transport's to change, and returns an
	// answer that [unpack] took.
	exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error)
}

func plainServer(a netip.AddrPort) *Server {
	return &Server{spec: a.String(), transport: do53(a)}
}

// String is the canonical spelling, which [ParseServer] takes, too.
func (s *Server) String() string {
	if s.Zone == "" {
		return s.spec
	}
	return string(s.Zone) + "=" + s.spec
}

// exchange asks the server. The answer has q's ID.
func (s *Server) exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	m, err := s.ask(ctx, q)
	if err != nil {
		return nil, &serverError{s.spec, err}
	}
	m.Id = q.Id
	return m, nil
}

func (s *Server) answered(ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = time.Time{}
	if !ok {
		s.failed = time.Now()
	}
}

func (s *Server) failedLately() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.failed.IsZero() && time.Since(s.failed) < grudge
}

// badAnswer is one that came, but must not be used.
type badAnswer string

const (
	errGarbage   badAnswer = "answered garbage"
	errOther     badAnswer = "answered another question"
	errTruncated badAnswer = "answered in part"
)

func (e badAnswer) Error() string { return string(e) }

// readPacket reads a datagram, or a message with its length before it.
func readPacket(c *dns.Conn) ([]byte, error) {
	packet, err := c.ReadMsgHeader(nil)
	if errors.Is(err, dns.ErrShortRead) {
		err = errGarbage
	}
	return packet, err
}

// unpack takes a message that is the whole answer to q, or says that EDNS was
// not understood; servers that old may repeat no question.
func unpack(packet []byte, q *dns.Msg) (*dns.Msg, error) {
	m := new(dns.Msg)
	if err := m.Unpack(packet); err != nil {
		return nil, errGarbage
	}
	switch {
	case answers(m, q):
	case m.Rcode == dns.RcodeFormatError && q.IsEdns0() != nil && len(m.Question) == 0 && m.Response && m.Id == q.Id:
		return m, nil
	default:
		return nil, errOther
	}
	// Unpack is content with fewer records than the header counts.
	for i, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		if int(binary.BigEndian.Uint16(packet[6+2*i:])) != len(section) {
			return nil, errGarbage
		}
	}
	if m.Truncated {
		return nil, errTruncated
	}
	return m, nil
}

// answers tells whether m is a response to q.
func answers(m, q *dns.Msg) bool {
	return m.Response && m.Opcode == q.Opcode && m.Id == q.Id && len(m.Question) == 1 &&
		strings.EqualFold(m.Question[0].Name, q.Question[0].Name) &&
		m.Question[0].Qtype == q.Question[0].Qtype && m.Question[0].Qclass == q.Question[0].Qclass
}

// padTo is the size that questions over TLS are padded to a multiple of, so that
// their lengths tell little of the names (RFC 8467, 4.1).
const padTo = 128

// pad pads a question that has EDNS, without which it cannot be (RFC 7830).
func pad(q *dns.Msg) {
	opt := q.IsEdns0()
	if opt == nil {
		return
	}
	padding := new(dns.EDNS0_PADDING)
	opt.Option = append(opt.Option, padding)
	if rest := q.Len() % padTo; rest != 0 {
		padding.Padding = make([]byte, padTo-rest)
	}
}

// serverError says which server failed. Some of the text may be remote: of a
// certificate, say.
type serverError struct {
	server string
	err    error
}

func (e *serverError) Unwrap() error { return e.err }

func (e *serverError) Error() string {
	return e.server + ": " + policy.Printable(cause(e.err).Error(), maxErrorText)
}

// maxErrorText bounds what is told of an error, in bytes.
const maxErrorText = 300

// cause takes from a network error what the message around it says already.
func cause(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return errors.New("the connection ended")
	}
	return err
}
