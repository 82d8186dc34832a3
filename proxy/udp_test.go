package proxy

import (
	"bytes"
	"net"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"appfw/netns/mmsg"
)

// What the destination sends and what refuses the flow are delivered by two
// goroutines, and mix in no datagram.
func TestDeliverAtOnce(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		ends[i], err = net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer ends[i].Close()
	}
	a := &gatedUDP{}
	if a.outbox, err = mmsg.NewOutbox(ends[0].(*net.UnixConn)); err != nil {
		t.Fatal(err)
	}
	const rounds, each = 200, 20
	var work sync.WaitGroup
	for _, c := range []byte("ab") {
		work.Go(func() {
			for range rounds {
				var datagrams [][]byte
				for i := range each { // of other sizes, so that the kernel need not divide
					datagrams = append(datagrams, bytes.Repeat([]byte{c}, 1+i))
				}
				if err := a.deliver(datagrams); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	work.Go(func() {
		next := map[byte]int{}
		b := make([]byte, 1<<16)
		for range 2 * rounds * each {
			n, err := ends[1].Read(b)
			if c := b[0]; err != nil || n != 1+next[c]%each || len(bytes.Trim(b[:n], string(c))) > 0 {
				t.Errorf("the %d. datagram of %c is %q, %v", next[c], c, b[:n], err)
				ends[1].Close() // so that nobody waits for room
				return
			}
			next[b[0]]++
		}
	})
	within(t, "the delivery", work.Wait)
}
