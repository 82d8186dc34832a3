package internet

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

// ListenTCP opens a TCP socket on each of the host's addresses, closed by cleanup.
func (h *Host) ListenTCP(port int) []net.Listener {
	h.n.t.Helper()
	return listen(h, port, "tcp", net.Listen)
}

// ListenUDP opens a UDP socket on each of the host's addresses, closed by cleanup.
func (h *Host) ListenUDP(port int) []net.PacketConn {
	h.n.t.Helper()
	return listen(h, port, "udp", net.ListenPacket)
}

func listen[S io.Closer](h *Host, port int, network string, open func(network, address string) (S, error)) []S {
	h.n.t.Helper()
	var sockets []S
	for _, addr := range h.addrs {
		family := "6" // explicit, as Go's own idea of what the system supports is that of another namespace
		if addr.Is4() {
			family = "4"
		}
		var socket S
		err := h.n.world.do(func() (err error) {
			socket, err = open(network+family, netip.AddrPortFrom(addr, uint16(port)).String())
			return err
		})
		if err != nil {
			h.n.t.Fatal("internet: ", err)
		}
		h.n.t.Cleanup(func() { _ = socket.Close() }) // closed before, mostly
		sockets = append(sockets, socket)
	}
	return sockets
}

// ServeTCP calls handler for each connection to the port, in a goroutine; the connection is closed when handler
// returns. Cleanup closes all connections and waits for the handlers.
func (h *Host) ServeTCP(port int, handler func(net.Conn)) {
	h.n.t.Helper()
	for _, l := range h.ListenTCP(port) {
		var mu sync.Mutex
		var conns []net.Conn
		var accepting, handling sync.WaitGroup
		accepting.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				mu.Lock()
				conns = append(conns, conn)
				mu.Unlock()
				handling.Go(func() {
					defer func() {
						mu.Lock()
						defer mu.Unlock()
						conns = slices.DeleteFunc(conns, func(c net.Conn) bool { return c == conn })
						_ = conn.Close() // the handler may have closed it
					}()
					handler(conn)
				})
			}
		})
		h.n.t.Cleanup(func() {
			_ = l.Close()
			accepting.Wait()
			mu.Lock()
			for _, conn := range conns {
				_ = conn.Close()
			}
			mu.Unlock()
			await(h.n.t, "a TCP handler", handling.Wait)
		})
	}
}

// ServeUDP calls handler for each datagram to the port, one after the other; conn is where to answer. Cleanup
// closes the sockets and waits for the handlers.
func (h *Host) ServeUDP(port int, handler func(conn net.PacketConn, from net.Addr, b []byte)) {
	h.n.t.Helper()
	for _, conn := range h.ListenUDP(port) {
		var serving sync.WaitGroup
		serving.Go(func() {
			for buffer := make([]byte, 1<<16); ; {
				size, from, err := conn.ReadFrom(buffer)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil { // otherwise somebody did not want an earlier answer
					handler(conn, from, slices.Clone(buffer[:size]))
				}
			}
		})
		h.n.t.Cleanup(func() {
			_ = conn.Close()
			await(h.n.t, "a UDP handler", serving.Wait)
		})
	}
}

// await calls f and reports it as what when it does not return soon.
func await(t testing.TB, what string, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Errorf("internet: %s does not end", what)
	}
}
