package mmsg

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

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

// collect receives n datagrams.
func collect(t testing.TB, raw syscall.RawConn, n int) (all [][]byte) {
	t.Helper()
	b := NewBatch(4, 1<<16)
	for len(all) < n {
		var got int
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			got, failed = b.Receive(int(fd))
			return failed != unix.EAGAIN
		})
		if err != nil || failed != nil {
			t.Fatal(err, failed)
		}
		for data := range b.Datagrams(got) {
			all = append(all, slices.Clone(data))
		}
	}
	return all
}

// What is sent together arrives as the datagrams that it was, in their order,
// whatever sizes follow each other, also where the kernel hands them over together.
func TestOutbox(t *testing.T) {
	sizes := []int{3, 3, 3, 2, 5, 0, 0, 1, 1400, 1400, 1400, 1, 9000, 9000, 65507, 40000, 40000, 12, 7}
	for range 200 {
		sizes = append(sizes, 100)
	}
	for _, gather := range []bool{false, true} {
		for _, at := range []string{"127.0.0.1", "::1"} {
			to, raw := listen(t, at)
			_ = to.SetReadBuffer(4 << 20)
			if gather {
				_ = raw.Control(func(fd uintptr) { Gather(int(fd)) })
			}
			o, err := NewOutbox(dial(t, address(to)))
			if err != nil {
				t.Fatal(err)
			}
			var want [][]byte
			for i, size := range sizes {
				data := bytes.Repeat([]byte{byte(i)}, size)
				cut := min(len(data), i%4)
				o.Add(data[:cut], data[cut:])
				want = append(want, data)
			}
			if err := o.Send(); err != nil {
				t.Fatal(err)
			}
			got := collect(t, raw, len(want))
			if !slices.EqualFunc(got, want, bytes.Equal) {
				for i := range min(len(got), len(want)) {
					if !bytes.Equal(got[i], want[i]) {
						t.Errorf("%s, gathered %t: datagram %d has %d bytes, not %d", at, gather, i, len(got[i]), len(want[i]))
						break
					}
				}
			}
		}
	}
}

// What is too large is lost, and nothing else; nobody there is an error.
func TestOutboxErrors(t *testing.T) {
	to, raw := listen(t, "127.0.0.1")
	o, err := NewOutbox(dial(t, address(to)))
	if err != nil {
		t.Fatal(err)
	}
	large := make([]byte, 1<<16)
	for _, data := range [][]byte{large, []byte("a"), large, large, []byte("b")} {
		o.Add(nil, data)
	}
	if err := o.Send(); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, raw, 2); fmt.Sprintf("%s", got) != "[a b]" {
		t.Errorf("%.20s", got)
	}
	to.Close()
	failed := false
	for range 3 { // the ICMP error is there with the next call
		o.Add(nil, []byte("c"))
		if o.Send() == unix.ECONNREFUSED {
			failed = true
		}
	}
	if !failed {
		t.Error("no error, though nobody listens")
	}
}

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
				n, failed = b.Receive(int(fd))
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
			_ = raw.Control(func(fd uintptr) { b.Send(int(fd)) })
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
		_, err := b.Receive(int(fd))
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
		if err := o.Send(); err != nil {
			b.Fatal(err)
		}
	}
}
