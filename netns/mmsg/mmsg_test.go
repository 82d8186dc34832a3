package mmsg

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// connected are two sockets of one address that are connected to each other.
func connected(t *testing.T, addr string) (a, b *net.UDPConn) {
	t.Helper()
	var conns [2]*net.UDPConn
	for i := range conns {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(addr)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		conns[i] = c
	}
	for i, c := range conns {
		at := conns[1-i].LocalAddr().(*net.UDPAddr).AddrPort()
		var to unix.Sockaddr = &unix.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())}
		if at.Addr().Is4() {
			to = &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
		}
		control(t, c, func(fd int) error {
			return errors.Join(unix.Connect(fd, to), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20))
		})
	}
	return conns[0], conns[1]
}

func control(t *testing.T, c *net.UDPConn, do func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	var failed error
	if err == nil {
		err = raw.Control(func(fd uintptr) { failed = do(int(fd)) })
	}
	err = errors.Join(err, failed)
	if err != nil {
		t.Fatal(err)
	}
}

// take receives n datagrams.
func take(t *testing.T, c *net.UDPConn, b *Batch, n int) (list [][]byte) {
	t.Helper()
	raw, _ := c.SyscallConn()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	for len(list) < n {
		var got int
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			got, failed = b.receive(int(fd))
			return failed != unix.EAGAIN
		})
		if err = errors.Join(err, failed); err != nil {
			t.Fatalf("%d of %d: %v", len(list), n, err)
		}
		for data := range b.Datagrams(got) {
			list = append(list, slices.Clone(data))
		}
	}
	return list
}

// Datagrams of all sizes arrive as they were sent, in their order, whatever the kernel
// divides and puts together.
func TestDatagrams(t *testing.T) {
	sizes := []int{0, 1, 2, 7, 1200, 1472, 1473, 9000, 32000, 33000, 65000, 65001, 65507}
	unchecked := func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) }
	for _, addr := range []string{"127.0.0.1", "::1"} {
		for name, set := range map[string][2]func(fd int) error{ // of the sender, of the receiver
			"one by one":  {},
			"together":    {nil, Gather},
			"not divided": {unchecked, nil}, // which the kernel refuses for sockets without checksums
		} {
			t.Run(addr+", "+name, func(t *testing.T) {
				a, b := connected(t, addr)
				for i, c := range []*net.UDPConn{a, b} {
					if set[i] != nil {
						control(t, c, set[i])
					}
				}
				o, err := NewOutbox(a)
				if err != nil {
					t.Fatal(err)
				}
				batch := NewBatch(32, 1<<16)
				random := rand.New(rand.NewPCG(1, 2))
				for range 100 {
					var want [][]byte
					size, sum, headers := sizes[random.IntN(len(sizes))], 0, 0
					for range 1 + random.IntN(140) {
						switch random.IntN(20) {
						case 0:
							size = sizes[random.IntN(len(sizes))]
						case 1:
							size = random.IntN(size + 1)
						}
						if sum+size > 1<<20 {
							break
						}
						data := bytes.Repeat([]byte{byte(len(want))}, size)
						header := random.IntN(min(size, 20) + 1)
						want = append(want, data)
						o.Add(data[:header], data[header:])
						sum, headers = sum+size, headers+header
					}
					if sent, err := o.Send(); err != nil || sent != sum-headers {
						t.Fatalf("sent %d bytes of %d: %v", sent, sum-headers, err)
					}
					for i, data := range take(t, b, batch, len(want)) {
						if i >= len(want) || !bytes.Equal(data, want[i]) {
							t.Fatalf("the %d. of %d is another: %d bytes", i, len(want), len(data))
						}
					}
				}
			})
		}
	}
}

// What is too large is lost, and is not counted; what nobody takes is an error, and is
// not, either.
func TestLost(t *testing.T) {
	a, b := connected(t, "127.0.0.1")
	o, err := NewOutbox(a)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{100, 100, 65508, 1 << 17, 1 << 17, 50} {
		o.Add(nil, make([]byte, size))
	}
	if sent, err := o.Send(); err != nil || sent != 250 {
		t.Errorf("sent %d bytes: %v", sent, err)
	}
	if got := take(t, b, NewBatch(32, 1<<16), 3); len(got[2]) != 50 {
		t.Errorf("received %d bytes", len(got[2]))
	}
	b.Close()
	o.Add(nil, make([]byte, 7))
	if sent, err := o.Send(); err != nil || sent != 7 {
		t.Errorf("sent %d bytes: %v", sent, err)
	}
	o.Add(nil, make([]byte, 7)) // after the ICMP error
	o.Add(nil, make([]byte, 7))
	if sent, err := o.Send(); !errors.Is(err, unix.ECONNREFUSED) || sent != 0 {
		t.Errorf("sent %d bytes: %v", sent, err)
	}
}

// listen opens a socket at an address and a free port.
func listen(t testing.TB, at string) (*net.UDPConn, syscall.RawConn) {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(at), 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return conn, raw
}

func dial(t testing.TB, to netip.AddrPort) *net.UDPConn {
	t.Helper()
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func address(conn *net.UDPConn) netip.AddrPort { return conn.LocalAddr().(*net.UDPAddr).AddrPort() }

// Replies come from the address that was asked, at once or later.
func TestReply(t *testing.T) {
	for at, asked := range map[string]string{"0.0.0.0": "127.7.7.7", "::": "::1"} {
		conn, raw := listen(t, at)
		var failed error
		if err := raw.Control(func(fd uintptr) { failed = ReceiveTo(int(fd)) }); err != nil || failed != nil {
			t.Fatal(err, failed)
		}
		client := dial(t, netip.AddrPortFrom(netip.MustParseAddr(asked), address(conn).Port())) // receives from there alone
		for _, s := range []string{"one", "two"} {
			if _, err := client.Write([]byte(s)); err != nil {
				t.Fatal(err)
			}
		}
		b := NewBatch(8, 16)
		for answered := 0; answered < 2; {
			var n int
			err := raw.Read(func(fd uintptr) bool {
				n, failed = b.receive(int(fd))
				return failed != unix.EAGAIN
			})
			if err != nil || failed != nil {
				t.Fatal(err, failed)
			}
			for i := range n {
				if data, _ := b.Datagram(i); string(data) == "one" {
					b.Reply(i, []byte("first"))
					continue
				}
				o := b.Origin(i)
				if netip.AddrPortFrom(o.Addr.Addr().Unmap(), o.Addr.Port()) != address(client) {
					t.Errorf("from %v, not %v", o.Addr, address(client))
				}
				if _, _, err := conn.WriteMsgUDPAddrPort([]byte("later"), o.Control, o.Addr); err != nil {
					t.Fatal(err)
				}
			}
			_ = raw.Control(func(fd uintptr) { b.send(int(fd)) })
			answered += n
		}
		got := map[string]bool{}
		buffer := make([]byte, 16)
		for range 2 {
			n, err := client.Read(buffer)
			if err != nil {
				t.Fatal(err)
			}
			got[string(buffer[:n])] = true
		}
		if !got["first"] || !got["later"] {
			t.Errorf("%v", got)
		}
	}
}

// A datagram that is too large for the room is cut, and that is said.
func TestDatagramCut(t *testing.T) {
	conn, raw := listen(t, "127.0.0.1")
	if _, err := dial(t, address(conn)).Write(make([]byte, 17)); err != nil {
		t.Fatal(err)
	}
	b := NewBatch(1, 16)
	err := raw.Read(func(fd uintptr) bool {
		_, err := b.receive(int(fd))
		return err != unix.EAGAIN
	})
	if data, whole := b.Datagram(0); err != nil || len(data) != 16 || whole {
		t.Errorf("%d bytes, whole %t, %v", len(data), whole, err)
	}
}

func BenchmarkOutbox(b *testing.B) {
	to, _ := listen(b, "127.0.0.1")
	o, err := NewOutbox(dial(b, address(to)))
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 1200)
	b.ReportAllocs()
	b.SetBytes(32 * 1200)
	for b.Loop() {
		for range 32 {
			o.Add(nil, data)
		}
		if _, err := o.Send(); err != nil {
			b.Fatal(err)
		}
	}
}
