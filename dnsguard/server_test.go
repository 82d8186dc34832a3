package dnsguard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Servers that do not know EDNS are asked without it, and what they answer then
// counts (RFC 6891, 7).
func TestEDNSFallback(t *testing.T) {
	version1 := func(m *dns.Msg) { m.SetEdns0(udpSize, false); m.IsEdns0().SetVersion(1) }
	for what, c := range map[string]struct {
		edit func(m *dns.Msg) // of an answer to a question with EDNS
		then func(m *dns.Msg) // of the other
		want string
	}{
		"knows it":      {nil, rcode(dns.RcodeRefused), "EDNS"},
		"FORMERR":       {rcode(dns.RcodeFormatError), nil, "plain"},
		"NOTIMP":        {rcode(dns.RcodeNotImplemented), nil, "plain"},
		"BADVERS":       {func(m *dns.Msg) { m.SetEdns0(udpSize, false); m.Rcode = dns.RcodeBadVers }, nil, "plain"},
		"version 1":     {version1, nil, "plain"},
		"header alone":  {func(m *dns.Msg) { m.Answer, m.Question, m.Rcode = nil, nil, dns.RcodeFormatError }, nil, "plain"},
		"FORMERR twice": {rcode(dns.RcodeFormatError), rcode(dns.RcodeFormatError), "FORMERR"},
		"header twice": {func(m *dns.Msg) { m.Answer, m.Question, m.Rcode = nil, nil, dns.RcodeFormatError },
			func(m *dns.Msg) { m.Answer, m.Question, m.Rcode = nil, nil, dns.RcodeFormatError }, "error"},
		"NXDOMAIN then": {rcode(dns.RcodeFormatError), rcode(dns.RcodeNameError), "NXDOMAIN"},
		"SERVFAIL":      {rcode(dns.RcodeServerFailure), nil, "plain"},
		"REFUSED":       {rcode(dns.RcodeRefused), nil, "plain"},
		"fails anyway":  {rcode(dns.RcodeServerFailure), rcode(dns.RcodeRefused), "SERVFAIL"},
		"wrong ID": {func(m *dns.Msg) { m.Answer, m.Question, m.Rcode = nil, nil, dns.RcodeFormatError; m.Id++ },
			nil, "error"},
		"not a response": {func(m *dns.Msg) { m.Answer, m.Question, m.Rcode, m.Response = nil, nil, dns.RcodeFormatError, false },
			nil, "error"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			handler := func(w dns.ResponseWriter, q *dns.Msg) {
				if q.IsEdns0() != nil {
					answering("EDNS", c.edit)(w, q)
				} else {
					answering("plain", c.then)(w, q)
				}
			}
			r := Resolvers{Servers: servers(t, pair{handler, handler}), patience: time.Hour}
			if got, err := ask(t, &r, "a.x."); got != c.want {
				t.Errorf("%s (%v), want %s", got, err, c.want)
			}
		})
	}
}

func TestServerError(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "x"}}, "s: lookup x: no such host"},
		{fmt.Errorf("x: %w", &net.OpError{Op: "read", Err: syscall.ECONNREFUSED}), "s: connection refused"},
		{io.ErrUnexpectedEOF, "s: the connection ended"},
		{net.ErrClosed, "s: the connection ended"},
		{errors.New("valid for a\x1b[31m\u202e\nb\xffü"), `s: valid for a\x1b[31m\u202e\nb` + "\ufffdü"},
	} {
		if e := (&serverError{"s", c.err}); e.Error() != c.want || !errors.Is(e, c.err) {
			t.Errorf("%s, want %s", e, c.want)
		}
	}
	if e := (&serverError{"s", errors.New(strings.Repeat("\n", 1000))}); len(e.Error()) > 310 {
		t.Error(len(e.Error()))
	}
	_, err := ask(t, &Resolvers{Servers: servers(t, pair{})}, "a.x.")
	if err == nil || !strings.HasSuffix(err.Error(), ": connection refused") || strings.Count(err.Error(), ": ") != 1 {
		t.Error(err)
	}
}

func TestPad(t *testing.T) {
	for n := range 130 {
		q := question(strings.Repeat("a.", n/2)+strings.Repeat("b", 1+n%60)+".", dns.TypeA, n%2 == 0)
		plain := q.Len()
		pad(q)
		packed, err := q.Pack()
		if err != nil || len(packed)%padTo != 0 || len(packed) >= plain+4+padTo {
			t.Errorf("%d bytes became %d, %v", plain, len(packed), err)
		}
	}
	q := withoutEDNS(question("a.x.", dns.TypeA, false))
	if pad(q); len(q.Extra) != 0 {
		t.Error(q)
	}
}

// recorder keeps the questions that a server was asked.
type recorder struct {
	mu    sync.Mutex
	asked []*dns.Msg
	sizes []int
	conns int
}

func (r *recorder) record(q *dns.Msg, size int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked, r.sizes = append(r.asked, q), append(r.sizes, size)
}

func (r *recorder) connected() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns++
	return r.conns
}

// check tells whether the questions were padded.
func (r *recorder) check(t *testing.T, questions, conns int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.asked) != questions || r.conns != conns {
		t.Errorf("%d questions by %d connections, want %d by %d", len(r.asked), r.conns, questions, conns)
	}
	for i, size := range r.sizes {
		if r.asked[i].IsEdns0() != nil && size%padTo != 0 {
			t.Errorf("%d bytes: %v", size, r.asked[i])
		}
	}
}

// A server that drops questions with EDNS, or refuses them, is asked without them, and
// that is remembered; one that loses a datagram, or fails, is not taken for such a one.
func TestEDNSMemory(t *testing.T) {
	plain := func(with dns.HandlerFunc) dns.HandlerFunc {
		return func(w dns.ResponseWriter, q *dns.Msg) {
			if q.IsEdns0() != nil {
				with(w, q)
			} else {
				answering("plain", nil)(w, q)
			}
		}
	}
	newServer := func(t *testing.T, h dns.HandlerFunc) (r *Resolvers, asked func() (edns, plain int)) {
		var mu sync.Mutex
		var with, without int
		counting := func(w dns.ResponseWriter, q *dns.Msg) {
			mu.Lock()
			if q.IsEdns0() != nil {
				with++
			} else {
				without++
			}
			mu.Unlock()
			h(w, q)
		}
		r = &Resolvers{Servers: servers(t, pair{counting, silent}), patience: time.Hour}
		r.Servers[0].ednsWait = 20 * time.Millisecond
		return r, func() (int, int) {
			mu.Lock()
			defer mu.Unlock()
			return with, without
		}
	}
	for what, c := range map[string]struct {
		h           dns.HandlerFunc
		want        string
		with, plain int // questions, when it was asked five times
	}{
		"drops":    {plain(silent), "plain", 2, 5},
		"FORMERR":  {plain(answering("", rcode(dns.RcodeFormatError))), "plain", 1, 5},
		"SERVFAIL": {plain(answering("", rcode(dns.RcodeServerFailure))), "plain", 1, 5},
		"REFUSED":  {plain(answering("", rcode(dns.RcodeRefused))), "plain", 1, 5},
		"speaks":   {answering("x", nil), "x", 5, 0},
		"fails":    {answering("", rcode(dns.RcodeServerFailure)), "SERVFAIL", 5, 5},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r, asked := newServer(t, c.h)
			for range 5 {
				if got, err := ask(t, r, "a.x."); got != c.want {
					t.Errorf("%s (%v)", got, err)
				}
			}
			if with, plain := asked(); with != c.with || plain != c.plain {
				t.Errorf("asked %d times with EDNS, %d without", with, plain)
			}
		})
	}
	t.Run("fails later", func(t *testing.T) { // it is known to speak EDNS
		t.Parallel()
		var failing atomic.Bool
		r, asked := newServer(t, func(w dns.ResponseWriter, q *dns.Msg) {
			if failing.Load() {
				answering("", rcode(dns.RcodeServerFailure))(w, q)
			} else {
				answering("x", nil)(w, q)
			}
		})
		_, _ = ask(t, r, "a.x.")
		failing.Store(true)
		if got, err := ask(t, r, "a.x."); got != "SERVFAIL" {
			t.Error(got, err)
		}
		if with, plain := asked(); with != 2 || plain != 0 {
			t.Errorf("asked %d times with EDNS, %d without", with, plain)
		}
	})
	t.Run("loses one", func(t *testing.T) {
		t.Parallel()
		var lost atomic.Bool
		r, asked := newServer(t, func(w dns.ResponseWriter, q *dns.Msg) {
			if q.IsEdns0() == nil || lost.Swap(true) {
				answering("x", nil)(w, q)
			}
		})
		for range 3 {
			if got, err := ask(t, r, "a.x."); got != "x" {
				t.Error(got, err)
			}
		}
		if with, plain := asked(); with != 3 || plain != 1 {
			t.Errorf("asked %d times with EDNS, %d without", with, plain)
		}
	})
	t.Run("forgotten", func(t *testing.T) {
		t.Parallel()
		r, asked := newServer(t, answering("x", nil))
		r.Servers[0].edns.plain = time.Now().Add(-ednsMemory)
		_, _ = ask(t, r, "a.x.")
		r.Servers[0].edns.refuses()
		_, _ = ask(t, r, "a.x.")
		if with, plain := asked(); with != 1 || plain != 1 {
			t.Errorf("asked %d times with EDNS, %d without", with, plain)
		}
	})
	t.Run("fails without EDNS only", func(t *testing.T) { // as slow as it is, the answer counts
		t.Parallel()
		r, _ := newServer(t, func(w dns.ResponseWriter, q *dns.Msg) {
			if q.IsEdns0() != nil {
				time.Sleep(100 * time.Millisecond)
				answering("x", nil)(w, q)
			}
		})
		if got, err := ask(t, r, "a.x."); got != "x" {
			t.Error(got, err)
		}
	})
	t.Run("none", func(t *testing.T) { // both ways fail, one after the other
		t.Parallel()
		r := &Resolvers{Servers: servers(t, pair{plain(silent), silent}), patience: time.Hour}
		r.Servers[0].ednsWait = time.Millisecond
		failing := fails{make(chan struct{})}
		r.Servers[0].transport = failing
		time.AfterFunc(20*time.Millisecond, func() { close(failing.release) })
		if got, err := ask(t, r, "a.x."); got != "error" {
			t.Error(got, err)
		}
	})
}

// fails is a transport that fails when it is released.
type fails struct{ release chan struct{} }

func (f fails) exchange(context.Context, *dns.Msg) (*dns.Msg, error) {
	<-f.release
	return nil, io.EOF
}
