package sniff

import (
	"crypto/sha256"
	"math"
	"sync"
)

// helloRetry is the random by which a ServerHello is a HelloRetryRequest (RFC
// 8446, 4.1.3): the SHA-256 of that word.
var helloRetry = sha256.Sum256([]byte("HelloRetryRequest"))

// ServerHello watches how a TLS server answers the first ClientHello: whether it
// asks for a second one. The zero value is ready; it may be used by several
// goroutines.
type ServerHello struct {
	mu    sync.Mutex
	seen  []byte
	final bool // it went on, and so wants no second one
}

// answerSize is how much of the answer matters: up to the random of a ServerHello.
const answerSize = RecordHeader + 4 + 2 + 32

// Feed takes in what the server sent next.
func (s *ServerHello) Feed(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) < answerSize {
		s.seen = append(s.seen, b[:min(len(b), answerSize-len(s.seen))]...)
		// One in pieces stays unclear, and the client is watched further.
		s.final = len(s.seen) == answerSize && s.seen[0] == recordHandshake && recordLength(s.seen) >= answerSize-RecordHeader &&
			s.seen[RecordHeader] == serverHello && [32]byte(s.seen[answerSize-32:]) != helloRetry
	}
}

// Final tells whether it is known that no second ClientHello may follow.
func (s *ServerHello) Final() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.final
}

// Opaque is how many bytes may follow that need not be fed.
func (s *ServerHello) Opaque() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) == answerSize {
		return math.MaxInt64
	}
	return 0
}

// Skip says that n bytes of that have gone by.
func (s *ServerHello) Skip(n int64) {}

// Ended says that the server sends no more.
func (s *ServerHello) Ended() {}
