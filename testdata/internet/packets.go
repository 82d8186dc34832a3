package internet

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// capture counts the packets that arrive at a link and rejects those to addresses that are not taken.
type capture struct {
	socket *os.File
	raw    syscall.RawConn
	router *router
	ended  chan struct{} // closed when the reading goroutine has ended

	mu     sync.Mutex
	taken  map[netip.Addr]bool // by a server or the link itself
	counts map[destination]int
	heard  map[netip.Addr][]byte // what arrived at these addresses
	lost   uint32
}

// newCapture starts counting at the internet's end of the link.
func newCapture(world *space) (*capture, error) {
	c := &capture{ended: make(chan struct{}), counts: map[destination]int{}, taken: map[netip.Addr]bool{}, heard: map[netip.Addr][]byte{}}
	c.take(netip.MustParseAddr(routerAddr4))
	c.take(netip.MustParseAddr(routerAddr6))
	err := world.do(func() error {
		link, err := netlink.LinkByName(linkName)
		if err != nil {
			return err
		}
		// No protocol: nothing is received before bind.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening the packet socket: %w", err)
		}
		c.socket = os.NewFile(uintptr(fd), "packets")
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			return fmt.Errorf("setting the packet socket's buffer: %w", err)
		}
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if c.router, err = newRouter(); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index})
	})
	if err != nil {
		if c.socket != nil {
			_ = c.socket.Close()
		}
		return nil, err
	}
	if c.raw, err = c.socket.SyscallConn(); err != nil {
		return nil, err
	}
	go func() {
		defer close(c.ended)
		_ = c.raw.Read(func(fd uintptr) bool { // until closed
			c.drain(int(fd))
			return false
		})
	}()
	return c, nil
}

func (c *capture) close() {
	_ = c.socket.Close()
	<-c.ended
	_ = c.router.close()
}

// take records that addr is somebody's, perhaps a somebody who does not answer.
func (c *capture) take(addr netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken[addr] = true
}

// drain counts, and perhaps rejects, the packets that have arrived.
func (c *capture) drain(fd int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	packet := make([]byte, 256) // as much as headers may be
	if len(c.heard) > 0 {
		packet = make([]byte, 1<<17) // as much as a packet may be, before it is segmented
	}
	for {
		size, from, err := unix.Recvfrom(fd, packet, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			break // EAGAIN: that was all
		}
		link, ok := from.(*unix.SockaddrLinklayer)
		if !ok || link.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if to, ok := parse(packet[:size]); ok {
			c.counts[to]++
			if heard, ok := c.heard[to.addr]; ok {
				c.heard[to.addr] = append(heard, payload(packet[:size])...)
			}
			if !c.taken[to.addr] {
				_ = c.router.reject(packet[:size], to) // the sender, perhaps gone, may as well time out
			}
		}
	}
	if s, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
		c.lost += s.Drops
	}
}

// Packets is the number of packets to addr that arrived from the simulated host, whether or not a server has
// the address. Large sends may count as one packet.
func (n *Internet) Packets(addr netip.Addr) int {
	return n.countPackets(func(d destination) bool { return d.addr == addr })
}

// PacketsTo is like Packets, for one protocol (unix.IPPROTO_TCP, ...) and port (0 if it has none).
func (n *Internet) PacketsTo(addr netip.Addr, proto uint8, port uint16) int {
	return n.countPackets(func(d destination) bool { return d == destination{addr, proto, port} })
}

// Overhear keeps, from now on, what TCP segments and UDP datagrams to addr carry. See Heard.
func (n *Internet) Overhear(addr netip.Addr) {
	n.packets.mu.Lock()
	defer n.packets.mu.Unlock()
	if n.packets.heard[addr] == nil {
		n.packets.heard[addr] = []byte{}
	}
}

// Heard is what TCP segments and UDP datagrams brought to addr since Overhear, in the order in which they arrived.
func (n *Internet) Heard(addr netip.Addr) []byte {
	n.t.Helper()
	n.Packets(addr) // takes in all that has arrived
	n.packets.mu.Lock()
	defer n.packets.mu.Unlock()
	return n.packets.heard[addr]
}

func (n *Internet) countPackets(matches func(destination) bool) int {
	n.t.Helper()
	if err := n.packets.raw.Control(func(fd uintptr) { n.packets.drain(int(fd)) }); err != nil {
		n.t.Fatal("internet: counting packets: ", err)
	}
	n.packets.mu.Lock()
	defer n.packets.mu.Unlock()
	if n.packets.lost > 0 {
		n.t.Fatalf("internet: %d packets could not be counted", n.packets.lost)
	}
	sum := 0
	for d, count := range n.packets.counts {
		if matches(d) {
			sum += count
		}
	}
	return sum
}

// StopCounting ends what a benchmark would measure along: counting packets, and rejecting those for nobody.
func (n *Internet) StopCounting() { n.packets.close() }
