package netns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// entry is a packet in the queue.
type entry struct {
	id     uint32
	packet []byte
}

func (e entry) equal(o entry) bool {
	return e.id == o.id && (e.packet == nil) == (o.packet == nil) && bytes.Equal(e.packet, o.packet)
}

// entries are the packets in messages. They must be within b.
func entries(t *testing.T, b []byte) (list []entry) {
	t.Helper()
	for id, packet := range queued(b) {
		if cap(packet) > 0 {
			at := cap(b) - cap(packet)
			if at < 0 || at+len(packet) > len(b) || &b[:cap(b)][at] != &packet[:1][0] {
				t.Fatalf("%d bytes are not within %d", len(packet), len(b))
			}
		}
		list = append(list, entry{id, packet})
	}
	return list
}

// messageOf is a message as the kernel makes it: struct nlmsghdr, struct nfgenmsg,
// attributes. The last one of a packet's is not padded.
func messageOf(kind uint16, attributes ...[]byte) []byte {
	body := []byte{unix.AF_INET, 0, 0, 0}
	for _, a := range attributes {
		body = append(body, a...)
	}
	b := make([]byte, 16)
	binary.NativeEndian.PutUint32(b, uint32(16+len(body)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	return append(b, body...)
}

// attributeOf is struct nlattr and its data, with padding.
func attributeOf(kind uint16, data []byte) []byte { return padded(lastOf(kind, data)) }

// lastOf is the same without.
func lastOf(kind uint16, data []byte) []byte {
	b := make([]byte, 4, 4+len(data))
	binary.NativeEndian.PutUint16(b, uint16(4+len(data)))
	binary.NativeEndian.PutUint16(b[2:], kind)
	return append(b, data...)
}

func padded(b []byte) []byte {
	for len(b)%4 > 0 {
		b = append(b, 0)
	}
	return b
}

// Numbers of linux/netfilter/nfnetlink.h and nfnetlink_queue.h.
const (
	nlError, packetKind                = 2, 3 << 8
	aHeader, aMark, aHardware, aPacket = 1, 3, 8, 10
)

func idOf(id uint32) []byte { // struct nfqnl_msg_packet_hdr
	return attributeOf(aHeader, append(binary.BigEndian.AppendUint32(nil, id), 8, 0, 1))
}

// script makes messages: each is told by a byte, its id, and a length of what follows.
// ends are where they end, and counts how many packets there are up to there.
func script(b []byte) (messages []byte, want []entry, ends, counts []int) {
	for len(b) >= 3 && len(ends) < 8 {
		how, id, size := b[0], uint32(b[1])<<24|uint32(len(ends)), int(b[2])
		size = min(size, len(b)-3)
		data := b[3 : 3+size]
		b = b[3+size:]
		var m []byte
		switch how % 6 {
		case 0:
			m = messageOf(packetKind, idOf(id), attributeOf(aMark, []byte{0, 0, 0, 1}), lastOf(aPacket, data))
			want = append(want, entry{id, append([]byte{}, data...)})
		case 1: // the other way round, with more between
			m = messageOf(packetKind, attributeOf(aPacket, data), attributeOf(aHardware, data), attributeOf(aHardware, nil), idOf(id))
			want = append(want, entry{id, append([]byte{}, data...)})
		case 2: // not shown
			m = messageOf(packetKind, attributeOf(aHardware, data), idOf(id))
			want = append(want, entry{id, nil})
		case 3: // no id
			m = messageOf(packetKind, lastOf(aPacket, data))
		case 4: // looks like a packet
			m = messageOf(nlError, idOf(id), lastOf(aPacket, data))
		case 5: // another message of the queue's
			m = messageOf(packetKind|2, idOf(id), lastOf(aPacket, data))
		}
		messages = append(padded(messages), m...)
		ends, counts = append(ends, len(messages)), append(counts, len(want))
	}
	return messages, want, ends, counts
}

// Whatever bytes come, what is read is in them; and what the kernel writes is read.
func FuzzQueued(f *testing.F) {
	shown := messageOf(packetKind, idOf(7), attributeOf(aPacket, []byte("packet")))
	f.Add(append(shown, shown...), []byte("\x00\x01\x05hello\x01\x02\x05other\x02\x01\x00"))
	f.Add(shown[:len(shown)-5], []byte("\x03\x02\x01x\x04\x03\x01y\x05\x04\x01z\x00\x05\x00"))
	f.Fuzz(func(t *testing.T, b, how []byte) {
		entries(t, b)
		messages, want, ends, counts := script(how)
		got := entries(t, messages)
		if len(got) != len(want) {
			t.Fatalf("%d packets of %d in %x", len(got), len(want), messages)
		}
		for i := range want {
			if !got[i].equal(want[i]) {
				t.Fatalf("the %d. is %+v, not %+v", i, got[i], want[i])
			}
		}
		// What follows does not matter, and what is cut is not read.
		if more := entries(t, append(padded(bytes.Clone(messages)), b...)); len(more) < len(want) {
			t.Fatalf("with %x behind, %d packets of %d", b, len(more), len(want))
		}
		before := 0
		for i, end := range ends {
			if n := len(entries(t, messages[:end-1])); n != before {
				t.Fatalf("without the end of the %d. message: %d packets, not %d", i, n, before)
			}
			before = counts[i]
			if n := len(entries(t, messages[:end])); n != before {
				t.Fatalf("up to the %d. message: %d packets, not %d", i, n, before)
			}
		}
	})
}

// Packets of all sizes are shown whole; but of the largest, the kernel keeps the last
// four bytes: an attribute has 16 bits for the sum of its header and its data.
func TestQueueShowsWhole(t *testing.T) {
	const most = 65535 - 4
	p := newPair(t)
	for _, far := range []netip.AddrPort{far4, far6} {
		headers := 20 + 8
		if far.Addr().Is6() {
			headers = 40 + 8
		}
		for _, size := range []int{headers, headers + 1, 1500, 65528, 65529, 65530, most, most + 1, 65535} {
			data := make([]byte, size-headers)
			for i := range data {
				data[i] = byte(i * 7 >> 3)
			}
			err := p.app.Do(func() error {
				c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(far))
				if err != nil {
					return err
				}
				defer c.Close()
				_, err = c.Write(data)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			s := p.next()
			if s.err != nil || s.Dst != far || len(s.IP) != min(size, most) {
				t.Errorf("%d bytes to %v are shown as %d to %v, %v", size, far, len(s.IP), s.Dst, s.err)
			}
			if !bytes.Equal(s.Payload, data[:min(size, most)-headers]) {
				t.Errorf("other data in %d bytes to %v", size, far)
			}
		}
	}
}

// datagramTo sends a datagram to the gate; its port tells it from others.
func (p *pair) datagramTo(port uint16) {
	p.t.Helper()
	p.sendRaw(from(netip.AddrPortFrom(App4, 4000), netip.AddrPortFrom(far4.Addr(), port)).Datagram([]byte("x")), far4.Addr())
}

// A verdict on what is not in the queue, or not any more, changes nothing.
func TestUnknownVerdicts(t *testing.T) {
	p := newPair(t)
	for i := range 50 {
		for _, unknown := range []uint32{0, 1 << 31, ^uint32(i)} {
			if err := errors.Join(p.gate.Drop(Packet{id: unknown}), p.gate.Accept(Packet{id: unknown})); err != nil {
				t.Fatal(err)
			}
		}
		p.datagramTo(uint16(1000 + i))
		s := p.next()
		if s.err != nil || s.Dst.Port() != uint16(1000+i) {
			t.Fatalf("after %d, shown %v, %v", i, s.Dst, s.err)
		}
		if err := p.gate.Drop(s.Packet); err != nil { // there was a verdict already
			t.Fatal(err)
		}
	}
}

// lost waits until the gate has met so many packets, and tells how many of them the
// kernel could not show, since nobody read (seq_show in nfnetlink_queue.c).
func (p *pair) lost(met int) (lost int) {
	p.t.Helper()
	for late := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		var b []byte
		err := p.gateway.Do(func() (err error) {
			b, err = os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_queue")
			return err
		})
		if err != nil {
			p.t.Fatal(err)
		}
		var skip, full, last int
		if _, err := fmt.Sscan(string(b), &skip, &skip, &skip, &skip, &skip, &full, &lost, &last); err != nil {
			p.t.Fatalf("one queue is %q: %v", b, err)
		}
		if last == met {
			return lost
		}
		if time.Now().After(late) {
			p.t.Fatalf("the gate has met %d packets of %d: %q", last, met, b)
		}
	}
}

// Packets that come faster than they are read are lost. Those that follow are shown.
func TestQueueOverrun(t *testing.T) {
	p := newPair(t)
	var failed error
	err := p.gate.queue.conn.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<14) })
	if err = errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	met := 0
	send := func(port uint16) (lost int) {
		p.datagramTo(port)
		met++
		return p.lost(met)
	}
	lost := 0
	for lost == 0 { // Run waits for someone to read shown
		if lost = send(1); met > maxQueued {
			t.Fatal("nothing is lost")
		}
	}
	lost = send(1)
	for n := range met - lost {
		if s := p.next(); s.err != nil || s.Dst.Port() != 1 {
			t.Fatalf("the %d. is to %v, %v", n, s.Dst, s.err)
		}
	}
	send(2)
	if s := p.next(); s.err != nil || s.Dst.Port() != 2 {
		t.Errorf("then one to %v, %v", s.Dst, s.err)
	}
}

// A namespace has one queue; who comes later has an error, until the first gives it back.
func TestQueueTaken(t *testing.T) {
	ns, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	open := func() (q *queue, err error) {
		err = ns.Do(func() error { q, err = openQueue(queueNumber, maxQueued); return err })
		return q, err
	}
	descriptors := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	before := descriptors()
	for range 3 {
		q, err := open()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := open(); again != nil || !errors.Is(err, unix.EPERM) {
			t.Errorf("taken twice: %v", err)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}
	if n := descriptors(); n > before {
		t.Errorf("%d descriptors, before %d", n, before)
	}
}
