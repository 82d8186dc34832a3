package sniff

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"math"
	"slices"
	"strings"
	"sync"
)

// Switch is what a server said to a request for another protocol.
type Switch uint8

const (
	SwitchRefused  Switch = iota // the connection stays HTTP/1
	SwitchRead                   // it is now of any protocol (CONNECT), or of one that shows names (TLS, HTTP/2)
	SwitchOpaque                 // it is now WebSocket, as both sides have proved
	SwitchUnproven               // it may be another, but HTTP/1 may go on as well
	SwitchUnknown                // the responses could not be followed
)

// Responses follows a server's responses (RFC 9112, 4), to know which of them
// agrees to another protocol. It only watches: what the server sends is not held
// up, and of what cannot be understood nothing is agreed to. The zero value is
// ready; it may be used by several goroutines.
type Responses struct {
	mu      sync.Mutex
	waiting []*exchange // requests without their final response
	lost    bool        // the responses are not understood any more
	head    []byte      // of the response being read
	inBody  bool
	body    Body
}

// exchange is a request that waits for its response.
type exchange struct {
	request *Request
	outcome chan Switch // takes one
}

// maxPipelined bounds the requests that are remembered. A client that sends more
// without waiting is not followed.
const maxPipelined = 1000

// Expect says that a request is about to be sent, and returns where it will be
// told once what became of it; nil if the responses are not understood.
func (a *Responses) Expect(r *Request) <-chan Switch {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.waiting) == maxPipelined {
		a.lose(SwitchUnknown)
	}
	if a.lost {
		return nil
	}
	x := &exchange{request: r, outcome: make(chan Switch, 1)}
	a.waiting = append(a.waiting, x)
	return x.outcome
}

// Lose says that the responses were not seen from the first byte on, and so mean
// nothing.
func (a *Responses) Lose() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lose(SwitchUnknown)
}

// lose gives up; outcome is what all are told who wait. a.mu is held.
func (a *Responses) lose(outcome Switch) {
	a.lost, a.head = true, nil
	for _, x := range a.waiting {
		x.outcome <- outcome
	}
	a.waiting = nil
}

// Ended says that the server sends no more, and so agrees to nothing.
func (a *Responses) Ended() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lose(SwitchRefused)
}

// Feed takes in what the server sent next.
func (a *Responses) Feed(b []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(b) > 0 && !a.lost {
		if a.inBody {
			n, done, err := a.body.Read(b)
			if err != nil {
				a.lose(SwitchUnknown)
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
		case len(a.waiting) == 0, size == 0 && len(a.head) > MaxHead: // nobody asked
			a.lose(SwitchUnknown)
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
func (a *Responses) response(head []byte) {
	line, lines, _ := strings.Cut(string(head[:len(head)-2]), "\r\n")
	version, rest, _ := strings.Cut(line, " ")
	status, _, _ := strings.Cut(rest, " ")
	f, err := readFields(lines)
	var framing Body
	if err == nil {
		framing, err = f.framing()
	}
	if err != nil || version != "HTTP/1.1" && version != "HTTP/1.0" || len(status) != 3 || strings.Trim(status, "0123456789") != "" {
		a.lose(SwitchUnknown)
		return
	}
	x := a.waiting[0]
	switch {
	case status == "101" && x.request.Switches(), status[0] == '2' && x.request.Method == "CONNECT":
		x.outcome <- agreed(x.request, status, &f)
		a.waiting = a.waiting[1:]
		a.lose(SwitchUnknown) // what follows is no HTTP/1, or another conversation's
		return
	case status == "101":
		a.lose(SwitchUnknown)
		return
	case status[0] == '1':
		return // the final one follows
	}
	x.outcome <- SwitchRefused
	a.waiting = a.waiting[1:]
	switch {
	case x.request.Method == "HEAD", status == "204", status == "304":
		framing = Body{}
	case framing.kind == bodyNone && f.length == nil:
		framing = Body{kind: bodyEnd}
	}
	a.body, a.inBody = framing, framing.kind != bodyNone
}

// agreed is what the head of a response agrees to. A status alone is no proof: there
// are pages that can be told which one to have. RFC 9110, 7.8 has the response name the
// protocol; and RFC 6455, 4.2.2 has it show that the server has understood.
func agreed(r *Request, status string, f *fields) Switch {
	if status != "101" {
		return SwitchRead
	}
	for _, protocol := range f.upgrade {
		switch {
		case !slices.Contains(r.Upgrade, protocol):
		case protocol == "h2c", strings.HasPrefix(protocol, "tls/"):
			return SwitchRead
		case protocol == "websocket" && r.key != "" && f.key == accept(r.key):
			return SwitchOpaque
		}
	}
	return SwitchUnproven
}

// accept is what a server of WebSocket makes of a client's key (RFC 6455, 1.3).
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Opaque is how many bytes may follow that need not be fed.
func (a *Responses) Opaque() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.lost:
		return math.MaxInt64
	case a.inBody:
		return a.body.Opaque()
	}
	return 0
}

// Skip says that n bytes of that have gone by.
func (a *Responses) Skip(n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lost {
		return
	}
	if a.body.Skip(n); a.body.kind == bodyLength && a.body.left == 0 {
		a.inBody = false
	}
}
