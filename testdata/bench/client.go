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
	"time"

	"github.com/miekg/dns"
)

// clientCommand makes this program the command that tools run: client JOB, with the job as JSON. It prints its figures
// as a JSON array.
const clientCommand = "client"

// job is what a client does.
type job struct {
	Mode  string
	N     int // see measure
	Span  time.Duration
	Addr  string   // of the server; none: the resolver of /etc/resolv.conf
	Proxy string   // none: no proxy
	Via   protocol // of the proxy
}

func client(args []string) error {
	var j job
	if len(args) != 1 || json.Unmarshal([]byte(args[0]), &j) != nil {
		return errors.New("usage: client JOB")
	}
	do := map[string]func() ([]float64, error){
		"out": j.bulk, "in": j.bulk, "crr": j.connectRequestResponse, "get": j.requests, "idle": j.idle,
		"datagrams": j.flood, "paced": j.flood, "flood": j.flood, "echo": j.echo, "dns": j.askResolver, "policy": j.policy,
	}[j.Mode]
	if do == nil {
		return fmt.Errorf("unknown mode %q", j.Mode)
	}
	figures, err := do()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(figures)
}

// bulk sends or receives by N connections at a time.
func (j job) bulk() ([]float64, error) {
	sums, errs := make([]int64, j.N), make([]error, j.N)
	conns := make([]net.Conn, j.N)
	for i := range conns {
		conn, err := j.dial()
		if err != nil {
			return nil, err
		}
		defer func() { _ = conn.Close() }()
		conns[i] = conn
	}
	var streams sync.WaitGroup
	began := time.Now()
	for i, conn := range conns {
		streams.Go(func() { sums[i], errs[i] = j.stream(conn) })
	}
	streams.Wait()
	took := time.Since(began)
	var sum int64
	for _, n := range sums {
		sum += n
	}
	return []float64{float64(sum) * 8 / 1e9 / took.Seconds()}, errors.Join(errs...)
}

func (j job) stream(conn net.Conn) (sum int64, err error) {
	want := byte(wantSink)
	if j.Mode == "in" {
		want = wantData
	}
	if _, err = conn.Write(binary.BigEndian.AppendUint64([]byte{want}, uint64(j.Span))); err != nil {
		return 0, err
	}
	if want == wantData {
		return drain(conn)
	}
	if sum, err = fill(conn, j.Span); err == nil {
		if _, err = conn.Write([]byte{lastByte}); err == nil {
			_, err = io.ReadFull(conn, make([]byte, 1)) // everything has arrived
		}
	}
	return sum, err
}

// connectRequestResponse makes connection after connection. The server ends each, so that ports are free again.
func (j job) connectRequestResponse() ([]float64, error) {
	return again(j.Span, func() error {
		conn, err := j.dial()
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

// again does things side by side, each again and again, and returns how often in a second, and how many µs that took
// in half of the cases and in 99 %.
func again(span time.Duration, things ...func() error) ([]float64, error) {
	times, errs := make([][]float64, len(things)), make([]error, len(things))
	var doing sync.WaitGroup
	began := time.Now()
	for i, do := range things {
		doing.Go(func() {
			for errs[i] == nil && time.Since(began) < span {
				start := time.Now()
				if err := do(); err != nil {
					errs[i] = fmt.Errorf("after %d times: %w", len(times[i]), err)
				}
				times[i] = append(times[i], float64(time.Since(start))/float64(time.Microsecond))
			}
		})
	}
	doing.Wait()
	took := time.Since(began)
	all := slices.Concat(times...)
	slices.Sort(all)
	return []float64{float64(len(all)) / took.Seconds(), quantile(all, 0.5), quantile(all, 0.99)}, errors.Join(errs...)
}

// askResolver asks for the same name again and again, N times at a time.
func (j job) askResolver() ([]float64, error) {
	if j.Addr == "" {
		conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil {
			return nil, err
		}
		j.Addr = net.JoinHostPort(conf.Servers[0], "53")
	}
	query, err := new(dns.Msg).SetQuestion(dns.Fqdn(dnsName), dns.TypeA).Pack()
	if err != nil {
		return nil, err
	}
	var askers []func() error
	for range j.N {
		conn, err := net.Dial("udp", j.Addr)
		if err != nil {
			return nil, err
		}
		defer func() { _ = conn.Close() }()
		b := make([]byte, 1500)
		askers = append(askers, func() error {
			size, err := exchange(conn, query, b)
			if err == nil && (size < 12 || b[3]&15 != dns.RcodeSuccess || binary.BigEndian.Uint16(b[6:]) == 0) {
				err = fmt.Errorf("the resolver's answer has no address: %x", b[:size])
			}
			return err
		})
	}
	return again(j.Span, askers...)
}

// idle opens N connections and returns how many KiB each costs the tool's processes, which the server weighs.
func (j job) idle() ([]float64, error) {
	scales, err := j.dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = scales.Close() }()
	weigh := func() (float64, error) {
		b := make([]byte, 8)
		_, err := scales.Write([]byte{wantWeight})
		if err == nil {
			_, err = io.ReadFull(scales, b)
		}
		return float64(binary.BigEndian.Uint64(b)), err
	}
	before, err := weigh()
	if err != nil {
		return nil, err
	}
	for i := range j.N {
		conn, err := j.dial()
		if err != nil {
			return nil, fmt.Errorf("after %d connections: %w", i, err)
		}
		defer func() { _ = conn.Close() }()
		if _, err = conn.Write([]byte{wantRest}); err == nil {
			_, err = io.ReadFull(conn, make([]byte, 1))
		}
		if err != nil {
			return nil, fmt.Errorf("after %d connections: %w", i, err)
		}
	}
	after, err := weigh()
	return []float64{(after - before) / float64(j.N)}, err
}
