package main

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"
)

const chunk = 256 << 10

// What a connection's first byte tells the server. For bulk, a duration follows.
const (
	wantSink   = 'o' // read up to lastByte, then answer a byte
	wantData   = 'i' // send for so long
	wantReply  = 'c' // answer a byte
	wantRest   = 'r' // answer a byte and wait for the client's end
	wantWeight = 'w' // answer how many KiB the tools' processes have, again and again
	wantCount  = 'u' // see datagrams
	wantPages  = 'G' // answer HTTP requests for them: this is the first byte of GET
)

// lastByte ends what is sent to the server; all before it is 0. The end of data would not do: not every proxy passes
// on that of one direction.
const lastByte = 1

// server is what clients talk to.
type server struct {
	datagrams
	weigh func() (uint64, error) // nil: not asked
}

// serveAll serves connections until the listener is closed.
func (s *server) serveAll(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = conn.Close() }()
			s.serve(conn)
		}()
	}
}

// serve does what a client wants. Errors are the client's to report.
func (s *server) serve(conn net.Conn) {
	b := make([]byte, 9)
	if _, err := io.ReadFull(conn, b[:1]); err != nil {
		return
	}
	switch b[0] {
	case wantReply, wantRest:
		_, _ = conn.Write(b[:1])
		if b[0] == wantRest {
			_, _ = conn.Read(b)
		}
	case wantWeight:
		for {
			kib, err := s.weigh()
			if err != nil {
				return
			}
			_, _ = conn.Write(binary.BigEndian.AppendUint64(nil, kib))
			if _, err := conn.Read(b[:1]); err != nil {
				return
			}
		}
	case wantCount:
		s.count(conn)
	case wantPages:
		servePages(conn, b[0])
	default:
		if _, err := io.ReadFull(conn, b[1:]); err != nil {
			return
		}
		if b[0] == wantData {
			_, _ = fill(conn, time.Duration(binary.BigEndian.Uint64(b[1:])))
		} else if _, err := drain(conn); err == nil {
			_, _ = conn.Write(b[:1])
		}
	}
}

// fill sends for so long and returns how many bytes it sent.
func fill(conn net.Conn, span time.Duration) (sum int64, err error) {
	data := make([]byte, chunk)
	for began := time.Now(); time.Since(began) < span && err == nil; {
		var n int
		n, err = conn.Write(data)
		sum += int64(n)
	}
	return sum, err
}

// drain reads to the end of data, or to lastByte, and returns how many bytes there were.
func drain(conn net.Conn) (sum int64, err error) {
	data := chunks.Get().(*[]byte)
	defer chunks.Put(data)
	for {
		n, err := conn.Read(*data)
		sum += int64(n)
		if err == io.EOF || n > 0 && (*data)[n-1] == lastByte {
			return sum, nil
		}
		if err != nil {
			return sum, err
		}
	}
}

// chunks are buffers for drain, which for a byte should not cost a large one.
var chunks = sync.Pool{New: func() any { return new(make([]byte, chunk)) }}
