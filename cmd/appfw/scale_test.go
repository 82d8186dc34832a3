package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	probes["conns"] = probeConns
	probes["share"] = probeShare
	probes["beside"] = probeBeside
}

// probeConns has connections to args, addresses, do what it is told line by line, and
// answers each by how many did it, and why no more:
//
//	open N    opens N more
//	talk      has each say something and hear the same
//	close N   closes the N oldest
//	churn N   opens, has talk and closes N others
func probeConns(addresses []string) error {
	var mu sync.Mutex
	var conns []net.Conn
	open := func(i int) error {
		// In turn: a host has 28,000 ephemeral ports a destination, and keeps each for a minute (TIME_WAIT).
		c, err := net.Dial("tcp", addresses[i%len(addresses)])
		if err == nil {
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		}
		return err
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		what, number, _ := strings.Cut(in.Text(), " ")
		n, _ := strconv.Atoi(number)
		var err error
		switch what {
		case "open":
			n, err = together(n, open)
		case "talk":
			n, err = together(len(conns), func(i int) error { return talkOver(conns[i]) })
		case "close":
			for _, c := range conns[:n] {
				c.Close()
			}
			conns = conns[n:]
		case "churn":
			n, err = together(n, func(i int) error {
				c, err := net.Dial("tcp", addresses[i%len(addresses)])
				if err != nil {
					return err
				}
				defer c.Close()
				return talkOver(c)
			})
		}
		fmt.Println(n, err)
	}
	return nil
}

// together calls f n times, some at the same time, but no more after an error. It
// returns how often that went well, and the first error.
func together(n int, f func(i int) error) (done int, err error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	next := 0
	for range 32 {
		all.Go(func() {
			mu.Lock()
			defer mu.Unlock()
			for err == nil && next < n {
				i := next
				next++
				mu.Unlock()
				failed := f(i)
				mu.Lock()
				if failed == nil {
					done++
				} else if err == nil {
					err = failed
				}
			}
		})
	}
	all.Wait()
	return done, err
}

// talkOver says something over a connection and hears the same.
func talkOver(c net.Conn) error {
	said, heard := []byte("hello"), make([]byte, 5)
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(said); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, heard); err != nil {
		return err
	}
	if !bytes.Equal(said, heard) {
		return fmt.Errorf("%q came back as %q", said, heard)
	}
	return nil
}

// churnLimitKB is how much memory may vary: a buffer or a stack that is left of each
// of fifteen thousand connections is more.
const churnLimitKB = 8 << 10

// repeat answers what it hears. It holds no pipe, as echo does.
func repeat(c net.Conn) {
	b := make([]byte, 64)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		_, _ = c.Write(b[:n])
	}
}

// usage is what processes take.
type usage struct{ kb, descriptors, threads int }

// weigh is what the processes take together.
func weigh(t *testing.T, pids ...int) (u usage) {
	t.Helper()
	for _, pid := range pids {
		u.kb += field(t, pid, "smaps_rollup", "Pss:")
		u.threads += field(t, pid, "status", "Threads:")
		u.descriptors += descriptors(t, pid)
	}
	return u
}

// field is a number in a file that proc(5) has of a process.
func field(t *testing.T, pid int, file, name string) (n int) {
	t.Helper()
	_, after, _ := strings.Cut(string(mustRead(t, fmt.Sprintf("/proc/%d/%s", pid, file))), "\n"+name)
	if _, err := fmt.Sscan(after, &n); err != nil {
		t.Fatalf("%s of %s: %v", name, file, err)
	}
	return n
}

// processes are appfw's own of a run.
func (s *session) processes() []int {
	s.t.Helper()
	return []int{s.cmd.Process.Pid, child(s.t, s.cmd.Process.Pid)}
}

// settles waits until processes have no more descriptors than before.
func (s *session) settles(before usage, pids ...int) (now usage) {
	s.t.Helper()
	for started := time.Now(); ; {
		if now = weigh(s.t, pids...); now.descriptors <= before.descriptors {
			return now
		}
		if time.Since(started) > patience {
			s.t.Fatalf("%+v, and before %+v", now, before)
		}
	}
}

// expect tells an app something, and fails the test unless it answers so.
func (s *session) expect(line, want string) {
	s.t.Helper()
	s.tell(line)
	if said := s.await(s.out, `(.*)\n`)[1]; said != want {
		s.t.Errorf("%s: %s, and not %s\nstderr: %s", line, said, want, s.err)
	}
}

// Ten thousand idle connections take less than 200 MiB, work still, and leave nothing.
func TestIdleConnections(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	n := int(min(10_000, (limit.Max-500)/2)) // a connection has two descriptors in the gateway
	w := newWorld(t)
	w.user = w.Ordinary()
	w.example.ServeTCP(2001, repeat)
	s := w.session(append([]string{"--allow", "11.22.0.10", "--"}, probing("conns", "11.22.0.10:2001")...)...)
	s.expect("open 1", "1 <nil>")
	s.expect("talk", "1 <nil>")
	pids := s.processes()
	before := weigh(t, pids...)
	all := fmt.Sprint(n, " <nil>")
	s.expect(fmt.Sprint("open ", n), all)
	idle := weigh(t, pids...)
	t.Logf("%d connections: %+v, before %+v", n, idle, before)
	if idle.kb-before.kb > n*connectionLimitKB {
		t.Errorf("a connection takes %.1f KiB", float64(idle.kb-before.kb)/float64(n))
	}
	s.expect("talk", fmt.Sprint(n+1, " <nil>"))
	s.expect(fmt.Sprint("close ", n), all)
	s.settles(before, pids...)
	s.expect("talk", "1 <nil>")
	if code := s.end(); code != 0 {
		t.Errorf("exit code %d: %s", code, s.err)
	}
}

// Without descriptors appfw refuses more connections, and says why; those that are
// there go on, and when some have ended there is room again.
func TestDescriptorLimit(t *testing.T) {
	for _, limit := range []int{200, 201} { // one more is enough for half a connection
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			w := newWorld(t)
			w.user = w.Ordinary()
			w.example.ServeTCP(2001, repeat)
			command := append([]string{"-c", `ulimit -n $0; exec "$@"`, fmt.Sprint(limit), program, "run", "--allow", "11.22.0.10", "--"}, probing("conns", "11.22.0.10:2001")...)
			s := w.talk("sh", command...)
			s.tell("open 200")
			said := s.await(s.out, `(\d+) (.*)\n`)
			n, _ := strconv.Atoi(said[1])
			wants(t, said[2], "connection refused")
			s.says("denied tcp 11.22.0.10:2001: appfw has no file descriptor left for it (ulimit -n raises the limit)")
			s.expect("talk", fmt.Sprint(n, " <nil>"))
			gateway := child(t, s.cmd.Process.Pid)
			full := weigh(t, gateway)
			t.Logf("%d connections: %+v", n, full)
			full.descriptors -= 2 * 30
			s.expect("close 30", "30 <nil>")
			s.settles(full, gateway)
			s.expect("open 8", "8 <nil>")
			s.expect("talk", fmt.Sprint(n-22, " <nil>"))
		})
	}
}

// Connections that have ended leave nothing behind, however many they were.
func TestManyConnections(t *testing.T) {
	const n, warm = 15_000, 5000
	w := newWorld(t)
	w.user = w.Ordinary()
	var addresses []string
	for port := 2001; port < 2009; port++ {
		w.example.ServeTCP(port, repeat)
		addresses = append(addresses, fmt.Sprint("11.22.0.10:", port))
	}
	s := w.session(append([]string{"--allow", "11.22.0.10", "--"}, probing("conns", addresses...)...)...)
	s.expect("open 1", "1 <nil>")
	pids := s.processes()
	idle := weigh(t, pids...)
	churn := func(n int) usage {
		for range n / 1000 {
			s.expect("churn 1000", "1000 <nil>")
		}
		return s.settles(idle, pids...)
	}
	before := churn(warm) // then buffers and stacks are there
	after := churn(n)
	t.Logf("%d connections: %+v, before %+v", n, after, before)
	if after.kb > before.kb+churnLimitKB || after.threads > before.threads+10 {
		t.Errorf("%d connections left something: %+v, before %+v", n, after, before)
	}
	s.expect("talk", "1 <nil>")
}

// probeShare has args[1] connections to args[0], which repeats what it hears, transfer
// all they can, until each of them has had its share of args[2] blocks back.
func probeShare(args []string) error {
	const size = 64 << 10 // of a block
	n, _ := strconv.Atoi(args[1])
	share, _ := strconv.Atoi(args[2])
	var conns []*net.TCPConn
	for range n {
		c, err := net.Dial("tcp", args[0])
		if err != nil {
			return err
		}
		conns = append(conns, c.(*net.TCPConn))
	}
	enough := make(chan struct{}) // closed when all have their share
	var have atomic.Int32
	ended := make(chan error, n)
	for i, c := range conns {
		sent, heard := crc32.New(castagnoli), crc32.New(castagnoli)
		onTheWay := make(chan struct{}, 8) // blocks: all TCP of the host has one memory (tcp_mem of tcp(7))
		var failed error
		var writing sync.WaitGroup
		writing.Go(func() {
			defer c.CloseWrite()
			block := make([]byte, size)
			for r := rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}); failed == nil; {
				select {
				case <-enough:
					return
				case onTheWay <- struct{}{}:
				}
				_, _ = r.Read(block[:512])
				_, _ = sent.Write(block)
				_, failed = c.Write(block)
			}
		})
		go func() {
			var err error
			for blocks := 0; err == nil; blocks++ {
				if blocks == share && have.Add(1) == int32(n) {
					close(enough)
				}
				if _, err = io.CopyN(heard, c, size); err == nil {
					<-onTheWay
				}
			}
			if err == io.EOF {
				writing.Wait()
				err = failed
			}
			if err == nil && sent.Sum32() != heard.Sum32() {
				err = fmt.Errorf("%08x came back as %08x", sent.Sum32(), heard.Sum32())
			}
			ended <- err
		}()
	}
	for range conns {
		if err := <-ended; err != nil {
			return err
		}
	}
	return nil
}

// Of three hundred connections that transfer all they can, more than there are pipes
// for, each gets on, and gets what it should.
func TestManyTransfers(t *testing.T) {
	w := newWorld(t)
	w.user = w.Ordinary()
	w.example.ServeTCP(2001, echo)
	w.ok(w.run(append([]string{"--allow", "11.22.0.10", "--"}, probing("share", "11.22.0.10:2001", "300", "32")...)...))
}

// probeBeside sends datagrams to args[0] as fast as it can, and meanwhile has args[2]
// answered by args[1], one after another.
func probeBeside(args []string) error {
	n, _ := strconv.Atoi(args[2])
	flood, err := net.Dial("udp", args[0])
	if err != nil {
		return err
	}
	c, err := net.Dial("udp", args[1])
	if err != nil {
		return err
	}
	if err := talkOver(flood); err != nil { // its flow is there
		return err
	}
	var flooding sync.WaitGroup
	defer flooding.Wait()
	defer flood.Close()
	flooding.Go(func() {
		for datagram := make([]byte, 1200); !errors.Is(err, net.ErrClosed); {
			_, err = flood.Write(datagram)
		}
	})
	for i := range n {
		if err := talkOver(c); err != nil {
			return fmt.Errorf("round trip %d: %w", i, err)
		}
	}
	return nil
}

// A flow of datagrams that floods takes nothing from another.
func TestFlood(t *testing.T) {
	const n = 1000
	w := newWorld(t)
	w.user = w.Ordinary()
	var flood, talk atomic.Int64
	repeats := func(count *atomic.Int64) func(net.PacketConn, net.Addr, []byte) {
		return func(c net.PacketConn, from net.Addr, b []byte) {
			if count.Add(1); len(b) == 5 {
				_, _ = c.WriteTo(b, from)
			}
		}
	}
	w.example.ServeUDP(2001, repeats(&flood))
	w.example.ServeUDP(2002, repeats(&talk))
	w.ok(w.run(append([]string{"--allow", "11.22.0.10", "--"}, probing("beside", "11.22.0.10:2001", "11.22.0.10:2002", fmt.Sprint(n))...)...))
	t.Logf("%d datagrams beside", flood.Load())
	if talk.Load() != n || flood.Load() < n {
		t.Errorf("%d datagrams of %d came, and beside them %d", talk.Load(), n, flood.Load())
	}
}
