package dnsguard

import (
	"context"
	"net"
	"time"
)

// writeTime is how long an app may take to take in an answer over TCP.
const writeTime = 5 * time.Second

// listener takes in connections that hold nobody up: they end with ctx, and when the app
// does not take in what it asked for.
type listener struct {
	net.Listener
	ctx context.Context
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{c, context.AfterFunc(l.ctx, func() { c.Close() })}, nil
}

type conn struct {
	net.Conn
	forget func() bool
}

// Write writes an answer.
func (c *conn) Write(b []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(writeTime))
	n, err := c.Conn.Write(b)
	if err != nil {
		c.Close()
	}
	return n, err
}

func (c *conn) Close() error {
	c.forget()
	return c.Conn.Close()
}
