//go:build soak

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	socks "golang.org/x/net/proxy"
	"golang.org/x/sys/unix"
)

// The soak takes long, so it is no part of the tests: make soak.
var soakTime = flag.Duration("soak", 10*time.Minute, "how long TestSoak has traffic, 3m at least")

const (
	// soakWarm is how long it takes until there are as many UDP flows, names and
	// connections in TIME_WAIT as there will be.
	soakWarm = 90 * time.Second
	// So much may the medians of the last third be above those of the first.
	slackKB, slackDescriptors, slackThreads = 6 << 10, 50, 6
)

func init() { probes["soak"] = probeSoak }

// soaker makes traffic: under appfw run, or by the proxy that appfw serve is.
type soaker struct {
	proxy string // "" under appfw run
}

// kind is one kind of traffic, of which something happens every so often.
type kind struct {
	name  string
	every time.Duration
	do    func(i int) error
}

func (s soaker) kinds() []kind {
	kinds := []kind{
		{"short", 10 * time.Millisecond, s.on("example.com:2001", talkOn)},
		{"bulk", 500 * time.Millisecond, s.on("example.com:2002", bulkOn)},
		{"half-closed", 50 * time.Millisecond, s.on("example.com:2002", halfCloseOn)},
		{"reset", 50 * time.Millisecond, s.on("example.com:2001", func(c *net.TCPConn) error { return errors.Join(talkOn(c), c.SetLinger(0)) })},
		{"reset by the server", 50 * time.Millisecond, s.on("example.com:2003", awaitReset)},
		{"half a ClientHello", 50 * time.Millisecond, s.half("example.com:2001", "\x16\x03\x01")},
		{"half a request", 50 * time.Millisecond, s.half("example.com:2001", "GET / HTTP/1.1\r\nHo")},
		{"cut by reloads", 50 * time.Millisecond, s.cut},
		{"udp", 20 * time.Millisecond, s.udp},
		{"uncached name", 50 * time.Millisecond, func(i int) error { // it lives for a second
			return s.on(fmt.Sprintf("n%d.fresh.example:2001", i%500), talkOn)(i)
		}},
		{"denied address", 50 * time.Millisecond, s.denied("11.22.0.20:2001")},
		{"denied name", 50 * time.Millisecond, s.denied("denied.test:2001")},
	}
	if s.proxy != "" {
		greeting := soaker{}.half(s.proxy, "\x05")
		kinds = append(kinds, kind{"half a greeting", 50 * time.Millisecond, greeting})
	}
	return kinds
}

func (s soaker) dial(address string) (*net.TCPConn, error) {
	if s.proxy == "" {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return nil, err
		}
		return c.(*net.TCPConn), nil
	}
	d, err := socks.SOCKS5("tcp", s.proxy, nil, socks.Direct)
	if err != nil {
		return nil, err
	}
	c, err := d.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// on does something with a new connection, and closes it.
func (s soaker) on(address string, do func(*net.TCPConn) error) func(int) error {
	return func(int) error {
		c, err := s.dial(address)
		if err != nil {
			return err
		}
		defer c.Close()
		return do(c)
	}
}

func talkOn(c *net.TCPConn) error { return talkOver(c) }

func bulkOn(c *net.TCPConn) error {
	if sent, received := transfer(c, 4<<20, false); sent != received {
		return fmt.Errorf("sent %s, received %s", sent, received)
	}
	return nil
}

func halfCloseOn(c *net.TCPConn) error {
	if _, err := io.WriteString(c, "question"); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	if b, err := io.ReadAll(c); string(b) != "question" {
		return fmt.Errorf("%q came back: %w", b, err)
	}
	return nil
}

func awaitReset(c *net.TCPConn) error {
	if err := talkOver(c); !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
		return fmt.Errorf("no reset: %w", err)
	}
	return nil
}

// half opens connections that say a part of something. Some are there at any time;
// the oldest is closed, or reset.
func (s soaker) half(address, say string) func(int) error {
	var held [20]*net.TCPConn
	return func(i int) error {
		c, err := s.dial(address)
		if err != nil {
			return err
		}
		if old := held[i%len(held)]; old != nil {
			_ = old.SetLinger(-i % 2) // 0 resets
			old.Close()
		}
		held[i%len(held)] = c
		_, err = io.WriteString(c, say)
		return err
	}
}

// cut opens a connection that a policy allows and the next one cuts. Whether it
// can be opened is a matter of chance.
func (s soaker) cut(int) error {
	c, err := s.dial("other.example:2002")
	if err != nil {
		return nil
	}
	go func() {
		defer c.Close()
		_, _ = io.Copy(c, c) // ends with the policy
	}()
	return nil
}

// denied says that a destination is not reached.
func (s soaker) denied(address string) func(int) error {
	return func(int) error {
		c, err := s.dial(address)
		if err != nil {
			return nil
		}
		c.Close()
		return errors.New("it is reached")
	}
}

// udp has a datagram answered, in a flow of its own.
func (s soaker) udp(int) error {
	const destination = "11.22.0.10:2004"
	if s.proxy == "" {
		c, err := net.Dial("udp", destination)
		if err != nil {
			return err
		}
		defer c.Close()
		return talkOver(c)
	}
	control, err := net.Dial("tcp", s.proxy)
	if err != nil {
		return err
	}
	defer control.Close()
	// The choice of a method, and UDP ASSOCIATE (RFC 1928, 3 to 7).
	if _, err := io.WriteString(control, "\x05\x01\x00"+"\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00"); err != nil {
		return err
	}
	reply := make([]byte, 2+10)
	if _, err := io.ReadFull(control, reply); err != nil {
		return err
	}
	at := net.UDPAddr{IP: reply[6:10], Port: int(reply[10])<<8 | int(reply[11])}
	c, err := net.DialUDP("udp", nil, &at)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	datagram := append([]byte{0, 0, 0, 1, 11, 22, 0, 10, 2004 >> 8, 2004 & 0xff}, "hello"...)
	if _, err := c.Write(datagram); err != nil {
		return err
	}
	heard := make([]byte, 100)
	n, err := c.Read(heard)
	if err == nil && !bytes.Equal(heard[:n], datagram) {
		err = fmt.Errorf("%q came back", heard[:n])
	}
	return err
}

// probeSoak has traffic of all kinds, by the proxy at args[0] if there is one, until
// its input ends. Then it says how much that was.
func probeSoak(args []string) error {
	var s soaker
	if len(args) > 0 {
		s.proxy = args[0]
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	kinds := s.kinds()
	errs := make([]error, len(kinds))
	var all sync.WaitGroup
	for i, k := range kinds {
		all.Go(func() {
			tick := time.NewTicker(k.every)
			defer tick.Stop()
			done, failed := 0, 0
			for ; ctx.Err() == nil; done++ {
				if err := k.do(done); err != nil {
					if failed++; failed == 1 {
						errs[i] = fmt.Errorf("%s, number %d: %w", k.name, done, err)
					}
				}
				<-tick.C
			}
			fmt.Printf("%7d %s, %d failed\n", done, k.name, failed)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// Whatever the traffic, and however long: appfw grows no further.
func TestSoak(t *testing.T) {
	w := newWorld(t)
	w.user = w.Ordinary()
	w.Zone().Set("*.fresh.example. 1 IN A 11.22.0.10")
	w.example.ServeTCP(2001, repeat)
	w.example.ServeTCP(2002, echo)
	w.example.ServeTCP(2003, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 5))
		_ = c.(*net.TCPConn).SetLinger(0)
	})
	w.example.ServeUDP(2004, func(c net.PacketConn, from net.Addr, b []byte) { _, _ = c.WriteTo(b, from) })
	w.other.ServeTCP(2002, echo)
	const always = "allow example.com\nallow *.fresh.example\nallow 11.22.0.10/udp\ndns-budget 0\n"
	policies := []string{always, always + "allow other.example:2002\n"}
	path := w.write("soak.policy", policies[0])

	run := w.session(append([]string{"--policy", path, "--"}, probing("soak")...)...)
	serve := w.serve("--listen", "127.0.0.1:1080", "--policy", path)
	served := []int{serve.cmd.Process.Pid}
	before := weigh(t, served...)
	command := probing("soak", "127.0.0.1:1080")
	client := w.talk(command[0], command[1:]...)

	var ran, serving []sample
	tick := time.NewTicker(max(time.Second, *soakTime/120))
	defer tick.Stop()
	for started := time.Now(); time.Since(started) < *soakTime; {
		<-tick.C
		ran = append(ran, sample{time.Since(started), weigh(t, run.processes()...)})
		serving = append(serving, sample{time.Since(started), weigh(t, served...)})
		t.Logf("%6v  run: %v  serve: %v", time.Since(started).Round(time.Second), ran[len(ran)-1].usage, serving[len(serving)-1].usage)
		w.write("soak.policy", policies[len(ran)%2])
		run.reload()
		serve.reload()
	}
	t.Log("the traffic ends")
	for what, s := range map[string]*session{"run": run, "client of serve": client} {
		if code := s.end(); code != 0 {
			t.Errorf("%s: exit code %d", what, code)
		}
		t.Logf("%s:\n%s", what, s.out)
	}
	before.descriptors += 20 // pipes are kept, too
	serve.settles(before, served...)
	serve.stop()
	settled(t, "run", ran)
	settled(t, "serve", serving)
}

// sample is what was taken at a time.
type sample struct {
	at time.Duration
	usage
}

func (u usage) String() string {
	return fmt.Sprintf("%6d KiB, %5d descriptors, %2d threads", u.kb, u.descriptors, u.threads)
}

// settled prints samples, and fails the test if the last third of them is above the
// first, when it was warm.
func settled(t *testing.T, what string, samples []sample) {
	t.Helper()
	samples = slices.DeleteFunc(samples, func(s sample) bool { return s.at < soakWarm })
	third := len(samples) / 3
	if third == 0 {
		t.Fatalf("%v is too short", *soakTime)
	}
	median := func(samples []sample, of func(sample) int) int {
		var all []int
		for _, s := range samples {
			all = append(all, of(s))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	for _, c := range []struct {
		name  string
		of    func(sample) int
		slack int
	}{
		{"KiB", func(s sample) int { return s.kb }, slackKB},
		{"descriptors", func(s sample) int { return s.descriptors }, slackDescriptors},
		{"threads", func(s sample) int { return s.threads }, slackThreads},
	} {
		first, last := median(samples[:third], c.of), median(samples[len(samples)-third:], c.of)
		t.Logf("%s: %d %s in the first third, %d in the last; %d more would do", what, first, c.name, last, c.slack)
		if last > first+c.slack {
			t.Errorf("%s has grown by %d %s", what, last-first, c.name)
		}
	}
}
