package proxy

import (
	"bytes"
	"errors"
	"math"
	"os"
	"strings"
	"sync"
	"time"
)

var errSwitch = errors.New("the HTTP request asks for another protocol, and it cannot be made out whether the server agrees")

// relayHTTP relays the requests of a connection, of which each is judged before
// any byte of it is passed on. It returns when the server has agreed to another
// protocol (CONNECT, Upgrade), with the request that asked for it, or at the end.
func (r *relay) relayHTTP(s *source, answers *httpAnswers) (*request, error) {
	for {
		head, err := r.nextRequest(s)
		if head == nil || err != nil {
			return nil, err
		}
		if head.state == Named && !r.judge(head.host) {
			return nil, errDenied
		}
		outcome := answers.expect(head)
		if head.switches && outcome == nil {
			return nil, errSwitch
		}
		if err := s.pass(head.size); err != nil {
			return nil, err
		}
		if err := s.passBody(&head.body); err != nil {
			return nil, err
		}
		if head.switches {
			switch agreed, err := s.await(outcome); { // nothing of what follows is passed on before
			case err != nil:
				return nil, err
			case agreed == switchUnknown:
				return nil, errSwitch
			case agreed == switchAgreed:
				return head, nil
			}
		}
	}
}

// await waits for what a server says to a request for another protocol. It
// reads on meanwhile, to hear when the app leaves; at its end, nothing matters.
func (s *source) await(outcome <-chan switching) (switching, error) {
	heard := make(chan switching, 1)
	go func() {
		agreed := <-outcome                        // comes when the destination ends, at the latest
		_ = s.app.SetReadDeadline(time.Unix(1, 0)) // ends fill
		heard <- agreed
	}()
	var err error
	for err == nil && !s.eof && s.len() < maxHead {
		err = s.fill()
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.err = nil
	case err != nil:
		return 0, err
	case s.eof:
		return switchRefused, nil
	}
	agreed := <-heard
	return agreed, s.app.SetReadDeadline(time.Time{})
}

// nextRequest reads the head of the next request; nil at the end.
func (r *relay) nextRequest(s *source) (*request, error) {
	for {
		if s.len() > 0 {
			if head, err := readRequest(s.buf); head != nil || err != nil {
				return head, err
			}
		}
		start := bytes.TrimLeft(s.buf, "\r\n")
		switch {
		case !startsWord(start), s.eof && len(start) > 0:
			return nil, errHead
		case s.eof:
			return nil, nil
		}
		if err := s.fill(); err != nil {
			return nil, err
		}
	}
}

// passBody passes on a body as it comes.
func (s *source) passBody(x *body) error {
	for {
		n, done, err := x.read(s.buf)
		if err != nil {
			return err
		}
		if err := s.pass(n); err != nil || done {
			return err
		}
		if m := x.opaque(); m >= bulk && s.len() == 0 {
			if err := s.passNext(m); err != nil {
				return err
			}
			x.skip(m)
			continue
		}
		if s.eof {
			return nil // within the body; the server hears of the end, too
		}
		if err := s.fill(); err != nil {
			return err
		}
	}
}

// switching is what a server said to a request for another protocol.
type switching uint8

const (
	switchRefused switching = iota // the connection stays HTTP/1
	switchAgreed
	switchUnknown // the answers could not be followed
)

// httpAnswers follows a server's responses, to know which of them agrees to
// another protocol. It only watches: what the server sends is not held up, and
// of what cannot be understood nothing is agreed to.
type httpAnswers struct {
	mu      sync.Mutex
	waiting []*exchange // requests without their final response
	lost    bool        // the responses are not understood any more
	head    []byte      // of the response being read
	inBody  bool
	body    body
}

type exchange struct {
	method   string
	switches bool
	outcome  chan switching // takes one
}

// maxPipelined bounds the requests that are remembered. A client that sends more
// without waiting is not followed.
const maxPipelined = 1000

// expect says that a request is about to be sent, and returns where it will be
// told what became of it; nil if the responses are not understood.
func (a *httpAnswers) expect(r *request) <-chan switching {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.waiting) == maxPipelined {
		a.lose(switchUnknown)
	}
	if a.lost {
		return nil
	}
	x := &exchange{method: r.method, switches: r.switches, outcome: make(chan switching, 1)}
	a.waiting = append(a.waiting, x)
	return x.outcome
}

// lose gives up; outcome is what all are told who wait. a.mu is held.
func (a *httpAnswers) lose(outcome switching) {
	a.lost, a.head = true, nil
	for _, x := range a.waiting {
		x.outcome <- outcome
	}
	a.waiting = nil
}

// end says that the server sends no more, and so agrees to nothing.
func (a *httpAnswers) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lose(switchRefused)
}

// feed takes in what the server sent next.
func (a *httpAnswers) feed(b []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(b) > 0 && !a.lost {
		if a.inBody {
			n, done, err := a.body.read(b)
			if err != nil {
				a.lose(switchUnknown)
				return
			}
			a.inBody = !done
			b = b[n:]
			continue
		}
		before := len(a.head)
		a.head = append(a.head, b...)
		size := headSize(a.head)
		switch {
		case len(a.waiting) == 0, size == 0 && len(a.head) > maxHead: // nobody asked
			a.lose(switchUnknown)
			return
		case size == 0:
			return
		}
		b = b[size-before:]
		a.response(a.head[:size])
		a.head = nil
	}
}

// headSize is how long the head at the start of b is; 0 if it is not complete.
func headSize(b []byte) int {
	if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 {
		return i + 4
	}
	return 0
}

// response handles the head of a response. a.mu is held.
func (a *httpAnswers) response(head []byte) {
	line, lines, _ := strings.Cut(string(head[:len(head)-2]), "\r\n")
	version, rest, _ := strings.Cut(line, " ")
	status, _, _ := strings.Cut(rest, " ")
	f, err := readFields(lines)
	var framing body
	if err == nil {
		framing, err = f.framing()
	}
	if err != nil || version != "HTTP/1.1" && version != "HTTP/1.0" || len(status) != 3 || strings.Trim(status, "0123456789") != "" {
		a.lose(switchUnknown)
		return
	}
	x := a.waiting[0]
	switch {
	case status == "101" && x.switches, status[0] == '2' && x.method == "CONNECT":
		x.outcome <- switchAgreed
		a.waiting = a.waiting[1:]
		a.lose(switchUnknown) // what follows is no HTTP/1, or another conversation's
		return
	case status == "101":
		a.lose(switchUnknown)
		return
	case status[0] == '1':
		return // the final one follows
	}
	x.outcome <- switchRefused
	a.waiting = a.waiting[1:]
	switch {
	case x.method == "HEAD", status == "204", status == "304":
		framing = body{}
	case framing.kind == bodyNone && f.length == nil:
		framing = body{kind: bodyEnd}
	}
	a.body, a.inBody = framing, framing.kind != bodyNone
}

// opaque is how much may follow that need not be seen.
func (a *httpAnswers) opaque() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.lost:
		return math.MaxInt64
	case a.inBody:
		return a.body.opaque()
	}
	return 0
}

// skip says that n bytes of that have gone by.
func (a *httpAnswers) skip(n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lost {
		return
	}
	if a.body.skip(n); a.body.kind == bodyLength && a.body.left == 0 {
		a.inBody = false
	}
}
