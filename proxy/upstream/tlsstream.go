package upstream

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"appfw/proxy/relay"
)

// asStream is the connection, if the kernel can splice it. One of TLS gets a
// pair of sockets before it.
func asStream(conn net.Conn) (relay.Stream, error) {
	if s, ok := conn.(relay.Stream); ok {
		return s, nil
	}
	secure, ok := conn.(*tls.Conn)
	if !ok {
		return nil, fmt.Errorf("a connection of type %T cannot be relayed", conn)
	}
	ends, err := socketpair()
	if err != nil {
		return nil, err
	}
	t := &tlsStream{UnixConn: ends[0], inner: ends[1], secure: secure, sent: make(chan struct{})}
	go t.send()
	go t.receive()
	return t, nil
}

// socketpair makes a pair of sockets (socketpair(2)), of which the kernel can splice the
// first.
func socketpair() (ends [2]*net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ends, os.NewSyscallError("socketpair", err)
	}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			if i > 0 {
				ends[0].Close()
			} else {
				unix.Close(fds[1])
			}
			return ends, err
		}
		ends[i] = c.(*net.UnixConn)
	}
	return ends, nil
}

// tlsStream is the end of a pair of sockets; at the other, TLS is added.
type tlsStream struct {
	*net.UnixConn
	inner  *net.UnixConn
	secure *tls.Conn
	sent   chan struct{} // closed when all that was written has been sent
}

func (t *tlsStream) send() {
	defer close(t.sent)
	if _, err := io.Copy(t.secure, t.inner); err != nil {
		_ = t.inner.CloseRead() // what is written now fails, and does not wait
		return
	}
	_ = t.secure.CloseWrite()
}

func (t *tlsStream) receive() {
	_, _ = io.Copy(t.inner, t.secure)
	_ = t.inner.CloseWrite()
}

// SetLinger is that of a TCP connection. With 0, Close sends nothing more.
func (t *tlsStream) SetLinger(seconds int) error {
	tcp, ok := t.secure.NetConn().(*net.TCPConn)
	if !ok {
		return errors.ErrUnsupported
	}
	if seconds == 0 {
		_ = tcp.SetLinger(0)
		return tcp.Close()
	}
	return tcp.SetLinger(seconds)
}

// closeTime is how long what was written before the end may take to be sent.
const closeTime = 10 * time.Second

// Close closes both ends. What was written is sent, as by the kernel.
func (t *tlsStream) Close() error {
	err := t.UnixConn.Close()
	_ = t.secure.SetWriteDeadline(time.Now().Add(closeTime))
	go func() {
		<-t.sent
		t.secure.NetConn().Close()
		t.inner.Close()
	}()
	return err
}
