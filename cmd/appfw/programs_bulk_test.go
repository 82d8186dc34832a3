package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func init() {
	probes["bulk"] = probeBulk
	probes["upgrade"] = probeUpgrade
}

// What arrives is compared by checksum: CRC-32C, as that costs next to nothing.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// pour writes size bytes, no two pages of which are the same, and returns their
// checksum.
func pour(dst io.Writer, size int64) (sum uint32, err error) {
	block := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(block)
	for page := uint64(0); size > 0 && err == nil; {
		for at := 0; at < len(block); at += 4096 {
			binary.BigEndian.PutUint64(block[at:], page)
			page++
		}
		var n int
		n, err = dst.Write(block[:min(size, int64(len(block)))])
		sum = crc32.Update(sum, castagnoli, block[:n])
		size -= int64(n)
	}
	return sum, err
}

// drain reads until the end, and returns how much that was, and its checksum.
func drain(src io.Reader) (size int64, sum uint32, err error) {
	block := make([]byte, 1<<20)
	for {
		n, err := src.Read(block)
		sum = crc32.Update(sum, castagnoli, block[:n])
		size += int64(n)
		if err == io.EOF {
			return size, sum, nil
		}
		if err != nil {
			return size, sum, err
		}
	}
}

// transfer pours out into a connection and takes in what comes, both at once,
// and says what it sent and received. The one who ends last does so when it has
// everything.
func transfer(c *net.TCPConn, out int64, last bool) (sent, received string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		sum, err := pour(c, out)
		if !last {
			_ = c.CloseWrite() // the other side's error tells, too
		}
		sent = fmt.Sprintf("%d bytes %08x %v", out, sum, err)
	}()
	size, sum, err := drain(c)
	<-done
	return sent, fmt.Sprintf("%d bytes %08x %v", size, sum, err)
}

// probeBulk connects to args[0] and transfers args[1] bytes to it.
func probeBulk(args []string) error {
	var size int64
	if _, err := fmt.Sscan(args[1], &size); err != nil {
		return err
	}
	c, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	sent, received := transfer(c.(*net.TCPConn), size, false)
	fmt.Printf("%s\n%s\n", sent, received)
	return c.Close()
}

// Two GiB arrive as they were sent, and are counted to the byte.
func TestBulk(t *testing.T) {
	const large, small = 2<<30 + 12345, 54321
	both(t, func(w *world) {
		h := w.Host("11.22.0.43", "2a0d:aaaa::43").Name("bulk.example")
		for _, c := range []struct {
			port     int
			up, down int64
		}{
			{1001, large, small},
			{1002, small, large},
			{1003, large / 8, large / 8},
		} {
			type ends struct{ sent, received string }
			server := make(chan ends, 1)
			h.ServeTCP(c.port, func(conn net.Conn) {
				sent, received := transfer(conn.(*net.TCPConn), c.down, true)
				server <- ends{sent, received}
			})
			address := fmt.Sprintf("bulk.example:%d", c.port)
			command := probing("bulk", address, fmt.Sprint(c.up))
			if c.port == 1001 {
				w.refused(h, "bulk.example", c.port, command...)
			}
			path := filepath.Join(w.user.Home, address)
			r := w.run(append([]string{"--allow", "bulk.example", "--log", path, "--"}, command...)...)
			out := w.ok(r)
			t.Logf("%d bytes up, %d down: %v", c.up, c.down, r.took)
			if r.took > 15*time.Second {
				t.Errorf("that is slow")
			}
			if s := <-server; out != s.received+"\n"+s.sent+"\n" {
				t.Errorf("the client sent and received\n%sthe server received and sent\n%s\n%s", out, s.received, s.sent)
			}
			wants(t, out, fmt.Sprintf("%d bytes ", c.up), fmt.Sprintf("\n%d bytes ", c.down), " <nil>\n")
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if l := find(t, readLog(t, string(text)), "close", "bulk.example", uint16(c.port)); *l.Sent != c.up || *l.Received != c.down {
				t.Errorf("the log has %d bytes sent, %d received, not %d and %d", *l.Sent, *l.Received, c.up, c.down)
			}
		}
	})
}

// What a program has sent arrives even if it does not wait for that, as with
// ncat --send-only or logger: the kernel has taken it.
func TestSentBeforeExit(t *testing.T) {
	both(t, func(w *world) {
		h := w.Host("11.22.0.43").Name("bulk.example")
		gone, arrived := make(chan struct{}), make(chan string)
		h.ServeTCP(1001, func(conn net.Conn) {
			<-gone // until then much of it is on its way
			size, _, err := drain(conn)
			arrived <- fmt.Sprintf("%d bytes %v", size, err)
		})
		for range 10 {
			c := w.Command(t.Context(), w.user, program, "run", "--allow", "bulk.example", "--",
				"sh", "-c", "head -c 300000 /dev/zero | ncat --send-only bulk.example 1001; echo sent")
			stdout, err := c.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			if b, _ := io.ReadAll(stdout); string(b) != "sent\n" { // appfw's may end here, too
				t.Fatalf("the app said %q", b)
			}
			gone <- struct{}{}
			if got := <-arrived; got != "300000 bytes <nil>" {
				t.Errorf("arrived: %s", got)
			}
			if err := c.Wait(); err != nil {
				t.Error(err)
			}
		}
	})
}

// What a server sends bit by bit comes bit by bit.
func TestStreamed(t *testing.T) {
	both(t, func(w *world) {
		h := w.Host("11.22.0.44", "2a0d:aaaa::44").Name("stream.example")
		seen := make(chan struct{})
		events := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(rw, "data: %d\n\n", i)
				rw.(http.Flusher).Flush()
				select {
				case <-seen:
				case <-r.Context().Done():
					return
				}
			}
		})
		h.ServeHTTP(80, events)
		h.ServeHTTPS(443, events, "stream.example")
		w.refused(h, "stream.example", 80, "curl", "-sSN", "http://stream.example")
		for _, url := range []string{"http://stream.example", "https://stream.example"} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			c := w.Command(ctx, w.user, program, "run", "--allow", "stream.example", "--", "curl", "-sSN", url)
			c.Stderr = os.Stderr
			stdout, err := c.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				event := make([]byte, len("data: 0\n\n"))
				if _, err := io.ReadFull(stdout, event); err != nil || string(event) != fmt.Sprintf("data: %d\n\n", i) {
					t.Fatalf("%s: event %d: %q, %v", url, i, event, err)
				}
				select {
				case seen <- struct{}{}: // only now does the server go on
				case <-ctx.Done():
					t.Fatal(ctx.Err())
				}
			}
			if err := c.Wait(); err != nil {
				t.Errorf("%s: %v", url, err)
			}
		}
	})
}

// probeUpgrade gets args[0] with an upgrade to a protocol that repeats lines,
// and has some of its lines repeated, each when the one before has come.
func probeUpgrade(args []string) error {
	request, err := http.NewRequest("GET", args[0], nil)
	if err != nil {
		return err
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", "repeat")
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(true) // HTTP/2 knows no upgrade
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("status %s", response.Status)
	}
	conn := response.Body.(io.ReadWriteCloser)
	lines := bufio.NewReader(conn)
	for i := range 3 {
		if _, err := fmt.Fprintf(conn, "GET %d\n", i); err != nil {
			return err
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		fmt.Print(line)
	}
	return conn.Close()
}

// WebSockets begin as HTTP and then are a protocol of their own.
func TestUpgrade(t *testing.T) {
	both(t, func(w *world) {
		h := w.Host("11.22.0.45", "2a0d:aaaa::45").Name("socket.example")
		repeat := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			conn, both, err := http.NewResponseController(rw).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: repeat\r\n\r\n")
			_, _ = io.Copy(conn, both)
		})
		h.ServeHTTP(80, repeat)
		h.ServeHTTPS(443, repeat, "socket.example")
		w.refused(h, "socket.example", 80, probing("upgrade", "http://socket.example")...)
		for _, url := range []string{"http://socket.example", "https://socket.example"} {
			if out := w.ok(w.run(append([]string{"--allow", "socket.example", "--"}, probing("upgrade", url)...)...)); out != "GET 0\nGET 1\nGET 2\n" {
				t.Errorf("%s: %q", url, out)
			}
		}
	})
}

// Ncat, with data in both directions. Its own server is there for datagrams only: of a stream that a command of its
// writes, it loses the last kilobytes now and then, without appfw, too.
func TestNcat(t *testing.T) {
	both(t, func(w *world) {
		h := w.Host("11.22.0.46").Name("cat.example")
		var numbers []byte
		for i := range 1000000 {
			numbers = fmt.Appendln(numbers, i+1)
		}
		h.ServeTCP(1001, func(conn net.Conn) { // takes in as many bytes, and answers with their sum and the same again
			got := make([]byte, len(numbers))
			if _, err := io.ReadFull(conn, got); err == nil {
				_, _ = fmt.Fprintf(conn, "%x  -\n%s", sha256.Sum256(got), numbers)
			}
		})
		udp := w.Server("ncat", "-u", "-l", "-k", "11.22.0.46", "1002", "--sh-exec", `read -r a; echo "$a"; read -r a; echo "$a"`)
		awaitUDP(t, udp.Process.Pid, 1002)
		stream := []string{"bash", "-o", "pipefail", "-c", "seq 1000000 | ncat --no-shutdown cat.example 1001 | cmp - <(seq 1000000 | sha256sum; seq 1000000)"}
		w.refused(h, "cat.example", 1001, stream...)
		// A program that sends without waiting for an answer hears of the denial late, or never.
		datagram := []string{"ncat", "-u", "cat.example", "1002", "--sh-exec", `echo ping; read -r answer; echo "got $answer" >&2; echo pong; read -r answer; echo "got $answer" >&2`}
		r := w.run(append([]string{"--allow", "cat.example:9", "--"}, datagram...)...)
		wants(t, r.stderr, "denied udp cat.example:1002: no rule allows it")
		if r.took > failFast || strings.Contains(r.stderr, "got p") {
			t.Errorf("denied: %v: %s", r.took, r.stderr)
		}
		w.untouched(h)

		w.ok(w.run(append([]string{"--allow", "cat.example:1001/tcp", "--"}, stream...)...))
		if r := w.run(append([]string{"--allow", "cat.example:1002/udp", "--"}, datagram...)...); r.stderr != "got ping\ngot pong\n" {
			t.Errorf("exit code %d after %v: %q", r.code, r.took, r.stderr)
		}
	})
}

// awaitUDP waits until a UDP socket in the network of a process has the port.
func awaitUDP(t *testing.T, pid, port int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/udp", pid))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(table), fmt.Sprintf(":%04X ", port)) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing has UDP port %d", port)
		}
	}
}
