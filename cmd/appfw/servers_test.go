package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"appfw/policy"
	"appfw/proxy/sniff"
)

// mutations is how many messages TestServers plays to each server: a minute's worth. make fuzz plays more.
var mutations = flag.Int("mutations", 150, "how many mutated messages TestServers plays to each server")

func init() { probes["play"] = probePlay }

// silence is how long a server is waited for that says nothing.
const silence = 100 * time.Millisecond

// probePlay plays the messages of a file, a JSON array, to servers: args are the file and their addresses.
func probePlay(args []string) error {
	text, err := os.ReadFile(args[0])
	var messages [][]byte
	if err == nil {
		err = json.Unmarshal(text, &messages)
	}
	var all sync.WaitGroup
	for _, address := range args[1:] {
		for i := range 4 {
			all.Go(func() {
				for j := i; j < len(messages); j += 4 {
					play(address, messages[j])
				}
			})
		}
	}
	all.Wait()
	return err
}

// play says a message, and listens until nothing more is said.
func play(address string, message []byte) {
	c, err := net.DialTimeout("tcp", address, probeTime)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	_, _ = c.Write(message) // refused already, perhaps
	listen(c)
	_ = c.(*net.TCPConn).CloseWrite()
	listen(c)
}

// listen reads until there is silence, or the end.
func listen(c net.Conn) {
	b := make([]byte, 1<<16)
	for err := error(nil); err == nil; {
		_ = c.SetReadDeadline(time.Now().Add(silence))
		_, err = c.Read(b)
	}
}

// tap stands before a server and sees what comes and what is said to it.
type tap struct {
	kind    *serverKind
	port    int
	served  atomic.Int64 // connections in which the denied name was
	ended   chan bool    // gets one for each connection
	mu      sync.Mutex
	example []byte // a message that made it so
}

// relay passes a connection on to the server as it comes, and hears the answer out.
func (x *tap) relay(h dialer, c net.Conn) {
	defer func() { x.ended <- true }()
	s, err := h.DialFrom("tcp", netip.AddrPortFrom(h.Addr4(), uint16(x.port+1000)).String())
	if err != nil {
		return
	}
	defer s.Close()
	var said bytes.Buffer
	var done sync.WaitGroup
	done.Go(func() {
		_, _ = io.Copy(io.MultiWriter(s, &said), c)
		_ = s.(*net.TCPConn).CloseWrite()
		_ = s.SetReadDeadline(time.Now().Add(3 * silence))
	})
	var answer bytes.Buffer
	_, _ = io.Copy(io.MultiWriter(&answer, discardAfterError{c}), s)
	c.Close()
	done.Wait()
	if x.kind.denied(said.Bytes(), answer.Bytes()) {
		x.served.Add(1)
		x.mu.Lock()
		x.example = said.Bytes()
		x.mu.Unlock()
	}
}

// await waits for the end of n connections.
func (x *tap) await(t *testing.T, n int) {
	t.Helper()
	patience := time.After(time.Minute + time.Duration(n)*100*time.Millisecond)
	for range n {
		select {
		case <-x.ended:
		case <-patience:
			t.Fatalf("%s: not all of %d connections end", x.kind.name, n)
		}
	}
}

// discardAfterError is a connection whose end does not end what is copied to it.
type discardAfterError struct{ net.Conn }

func (c discardAfterError) Write(b []byte) (int, error) {
	_, _ = c.Conn.Write(b)
	return len(b), nil
}

// dialer is a host of the internet.
type dialer interface {
	DialFrom(network, address string) (net.Conn, error)
	Addr4() netip.Addr
}

// lets tells whether package sniff lets something of a message go on that may show the denied name.
func lets(b []byte) bool {
	var o sniff.Opening
	name, state, err := o.Identify(b, false)
	switch {
	case err != nil, state == sniff.Named && name == "shared.example":
		return false
	case state != sniff.Watched:
		return true
	}
	var l sniff.Lines
	for state = sniff.Named; state == sniff.Named; {
		if _, name, state, err = l.Read(b, false); err != nil || name == policy.Name("shared.example") {
			return false
		}
	}
	return true
}

// mutate makes every message that differs from one of these in one byte, or has one more or less; of them, n that
// sniff lets go on, as far as there are so many, and some that it does not; and before all, these.
func mutate(bases []string, n int) (messages [][]byte) {
	for _, b := range bases {
		messages = append(messages, []byte(b))
	}
	random := rand.New(rand.NewPCG(17, 0))
	var passing, refused [][]byte
	take := func(b []byte) {
		if lets(b) {
			passing = append(passing, b)
		} else if random.IntN(500) == 0 {
			refused = append(refused, b)
		}
	}
	for _, base := range bases {
		for i := range len(base) {
			take([]byte(base[:i] + base[i+1:]))
			for c := range 256 {
				take([]byte(base[:i] + string([]byte{byte(c)}) + base[i:]))
				take([]byte(base[:i] + string([]byte{byte(c)}) + base[i+1:]))
			}
		}
	}
	shuffle := func(s [][]byte) { random.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] }) }
	shuffle(passing)
	shuffle(refused)
	messages = append(messages, passing[:min(len(passing), n)]...)
	return append(messages, refused[:min(len(refused), n/3)]...)
}

// playTo plays messages to servers, with appfw and without.
func (w *world) playTo(kinds []*serverKind, messages [][]byte) {
	t := w.t
	file := filepath.Join(w.Dir(), "messages")
	text, err := json.Marshal(messages)
	if err == nil {
		err = os.WriteFile(file, text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	var taps []*tap
	args := []string{file}
	for i, kind := range kinds {
		x := &tap{kind: kind, port: 20000 + i, ended: make(chan bool, len(messages))}
		kind.start(w, x.port+1000)
		taps = append(taps, x)
		args = append(args, fmt.Sprintf("example.com:%d", x.port))
	}
	for _, x := range taps {
		w.AwaitTCP(x.port + 1000)
		w.example.ServeTCP(x.port, func(c net.Conn) { x.relay(w.example, c) })
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	started := time.Now()
	play := func(command ...string) {
		t.Helper()
		if out := w.ok(w.finish(w.Command(ctx, w.user, command[0], command[1:]...))); out != "" {
			t.Fatal(out)
		}
	}
	play(append([]string{program, "run", "--quiet", "--allow", "example.com", "--"}, probing("play", args...)...)...)
	t.Logf("%d messages to %d servers in %v", len(messages), len(kinds), time.Since(started))
	for _, x := range taps {
		x.await(t, len(messages))
		if n := x.served.Load(); n > 0 {
			x.mu.Lock()
			t.Errorf("%s served the denied name %d times, as after %q", x.kind.name, n, x.example)
			x.mu.Unlock()
		}
		x.served.Store(0)
	}
	// Without appfw they do: of the messages as they are, at least.
	some := slices.Concat(messages[:len(messages)/10+1], messages[len(messages)-len(messages)/10:])
	text, err = json.Marshal(some)
	if err == nil {
		err = os.WriteFile(file, text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	play(probing("play", args...)...)
	for _, x := range taps {
		x.await(t, len(some))
		if x.served.Load() == 0 {
			t.Errorf("%s never serves the name, so it shows nothing", x.kind.name)
		}
		t.Logf("%s: %d of %d without appfw", x.kind.name, x.served.Load(), len(some))
	}
}

// TestServers plays mutations of requests to servers that differ in what they take for one.
func TestServers(t *testing.T) {
	w := newWorld(t)
	const host = "Host: shared.example\r\nConnection: close\r\n\r\n"
	w.playTo(httpServers(w), mutate([]string{
		"GET / HTTP/1.1\r\n" + host, "GET / HTTP/1.0\r\n" + host, "GET http://shared.example/ HTTP/1.1\r\n" + host,
		"POST / HTTP/1.1\r\nContent-Length: 2\r\n" + host + "hi", "GET / HTTP/1.1\r\nHost: example.com\r\n\r\nGET / HTTP/1.1\r\n" + host,
		"GET / HTTP/1.1\r\nHost: example.com\r\n" + host, "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n" + host,
	}, *mutations))
}

// TestServersTLS plays mutations of a ClientHello to the stacks there are.
func TestServersTLS(t *testing.T) {
	w := newWorld(t)
	hello := string(clientHello(t, "shared.example"))
	w.playTo(tlsServers(w), mutateHeader(hello, *mutations))
}

// mutateHeader is mutate for the headers of a ClientHello, and records of all kinds before it.
func mutateHeader(hello string, n int) [][]byte {
	const header = 5 + 4 + 2 // of the record and the message, and its version
	messages := mutate([]string{hello}, 0)
	var all [][]byte
	for i := range header {
		for c := range 256 {
			all = append(all, []byte(hello[:i]+string([]byte{byte(c)})+hello[i+1:]))
		}
	}
	for kind := 20; kind < 25; kind++ {
		for _, rest := range []string{"\x03\x01\x00\x00", "\x03\x03\x00\x01\x01", "\x03\x03\x00\x02\x01\x5a", "\x10\x01\x00\x00", "\x00\x00\x00\x01\x00"} {
			all = append(all, []byte(string([]byte{byte(kind)})+rest+hello))
		}
	}
	random := rand.New(rand.NewPCG(17, 0))
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	versions := [][]byte{}
	for c := range 256 {
		versions = append(versions, []byte(hello[:1]+string([]byte{byte(c)})+hello[2:]))
	}
	return slices.Concat(messages[:1], versions[:min(n, len(versions))], all[:min(n, len(all))], messages[:1])
}

// serverKind is a server and how to start it on a port.
type serverKind struct {
	name   string
	denied func(said, answer []byte) bool // the answer serves the denied name
	start  func(w *world, port int)
}

func servesPage(_, answer []byte) bool {
	return bytes.Contains(answer, []byte("served shared.example"))
}

// shakesHands tells whether an answer begins with a ServerHello, to what has the name.
func shakesHands(said, answer []byte) bool {
	return len(answer) > 5 && answer[0] == 22 && answer[5] == 2 && strings.Contains(string(said), "shared.example")
}
