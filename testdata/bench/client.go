package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// clientCommand makes this program the command that tools run: client MODE ADDR DURATION [PROTOCOL PROXY]. It prints
// its figures as a JSON array.
const clientCommand = "client"

const (
	chunk = 256 << 10
	// askers is how many DNS queries are under way at a time.
	askers = 8
)

// What a connection's first byte tells the server. For bulk, a duration follows.
const (
	wantSink  = 'o' // read up to lastByte, then answer a byte
	wantData  = 'i' // send for so long
	wantReply = 'c' // answer a byte
	wantPages = 'G' // answer HTTP requests for them: this is the first byte of GET
)

// lastByte ends what is sent to the server; all before it is 0. The end of data would not do: not every proxy passes
// on that of one direction.
const lastByte = 1

func client(args []string) error {
	if len(args) != 3 && len(args) != 5 {
		return errors.New("usage: client MODE ADDR DURATION [PROTOCOL PROXY]")
	}
	span, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	to := dialer{addr: args[1]}
	if len(args) == 5 {
		to.via, to.proxy = protocol(args[3]), args[4]
	}
	var figures []float64
	switch args[0] {
	case "out":
		figures, err = bulk(to, span, wantSink)
	case "in":
		figures, err = bulk(to, span, wantData)
	case "crr":
		figures, err = connectRequestResponse(to, span)
	case "get":
		figures, err = requests(to, span)
	case "dns":
		figures, err = askResolver(to.addr, span)
	case "await":
		err = await(to.addr, span)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(figures)
}

func bulk(to dialer, span time.Duration, want byte) ([]float64, error) {
	conn, err := to.dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	began := time.Now()
	if _, err = conn.Write(binary.BigEndian.AppendUint64([]byte{want}, uint64(span))); err != nil {
		return nil, err
	}
	var sum int64
	if want == wantData {
		sum, err = drain(conn)
	} else if sum, err = fill(conn, span); err == nil {
		if _, err = conn.Write([]byte{lastByte}); err == nil {
			_, err = io.ReadFull(conn, make([]byte, 1)) // everything has arrived
		}
	}
	return []float64{float64(sum) * 8 / 1e9 / time.Since(began).Seconds()}, err
}

// connectRequestResponse makes connection after connection. The server ends each, so that ports are free again.
func connectRequestResponse(to dialer, span time.Duration) ([]float64, error) {
	return again(span, func() error {
		conn, err := to.dial()
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		if _, err = conn.Write([]byte{wantReply}); err != nil {
			return err
		}
		_, err = drain(conn) // one byte and the end
		return err
	})
}

// again does the same again and again, and returns how often in a second, and how many µs that took in half of the
// cases and in 99 %.
func again(span time.Duration, do func() error) ([]float64, error) {
	var times []float64
	began := time.Now()
	for time.Since(began) < span {
		start := time.Now()
		if err := do(); err != nil {
			return nil, fmt.Errorf("after %d times: %w", len(times), err)
		}
		times = append(times, float64(time.Since(start))/float64(time.Microsecond))
	}
	rate := float64(len(times)) / time.Since(began).Seconds()
	slices.Sort(times)
	return []float64{rate, quantile(times, 0.5), quantile(times, 0.99)}, nil
}

// askResolver asks for the same name again and again.
func askResolver(addr string, span time.Duration) ([]float64, error) {
	if addr == "" {
		conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil {
			return nil, err
		}
		addr = conf.Servers[0]
	}
	var answers atomic.Int64
	errs := make([]error, askers)
	var asking sync.WaitGroup
	began := time.Now()
	for i := range askers {
		asking.Go(func() { errs[i] = ask(net.JoinHostPort(addr, "53"), began.Add(span), &answers) })
	}
	asking.Wait()
	return []float64{float64(answers.Load()) / time.Since(began).Seconds()}, errors.Join(errs...)
}

func ask(addr string, until time.Time, answers *atomic.Int64) error {
	conn, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	query, err := new(dns.Msg).SetQuestion(dns.Fqdn(dnsName), dns.TypeA).Pack()
	if err != nil {
		return err
	}
	for b := make([]byte, 1500); time.Now().Before(until); answers.Add(1) {
		if _, err := conn.Write(query); err != nil {
			return err
		}
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second)) // fails only for a closed connection
		size, err := conn.Read(b)
		if err != nil {
			return err
		}
		if size < 12 || b[3]&15 != dns.RcodeSuccess || binary.BigEndian.Uint16(b[6:]) == 0 {
			return fmt.Errorf("the resolver's answer has no address: %x", b[:size])
		}
	}
	return nil
}

// serveAll serves connections until the listener is closed.
func serveAll(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = conn.Close() }()
			serve(conn)
		}()
	}
}

// serve does what a client wants. Errors are the client's to report.
func serve(conn net.Conn) {
	b := make([]byte, 9)
	if _, err := io.ReadFull(conn, b[:1]); err != nil {
		return
	}
	switch b[0] {
	case wantReply:
		_, _ = conn.Write(b[:1])
		return
	case wantPages:
		servePages(conn, b[0])
		return
	}
	if _, err := io.ReadFull(conn, b[1:]); err != nil {
		return
	}
	if b[0] == wantData {
		_, _ = fill(conn, time.Duration(binary.BigEndian.Uint64(b[1:])))
	} else if _, err := drain(conn); err == nil {
		_, _ = conn.Write(b[:1])
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
