package upstream

import (
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"appfw/proxy/message"
	"appfw/proxy/relay"
)

func (p *plainStream) receive() {
	<-p.asked
	defer p.inner.CloseWrite()
	if p.tunnelled() {
		_, _ = io.Copy(p.inner, p.proxy)
		return
	}
	p.mu.Lock()
	proxy, failed := p.proxy, p.cause != nil || p.heard == nil
	p.mu.Unlock()
	if failed {
		return
	}
	err := p.responses(&message.Reader{From: proxy})
	p.heard()
	if p.silent.Load() {
		err = errSilentHTTP
	}
	if err != nil {
		p.fail(err)
		return
	}
	p.close()
}

// responses passes on what the proxy answers, until it ends in order.
func (p *plainStream) responses(from *message.Reader) error {
	for n := 0; ; n++ {
		if len(from.Buffered()) == 0 {
			if err := from.Fill(); err != nil {
				return p.hungUp(n, err)
			}
		}
		p.heard()
		if n == 0 && !startsHTTP(from.Buffered()) {
			return errNoHTTP
		}
		method, ok := p.next()
		if !ok { // nobody has asked: it tells that it ends (408)
			_, err := io.Copy(p.inner, io.MultiReader(strings.NewReader(string(from.Buffered())), from.From))
			return ignoreReset(err)
		}
		last, err := p.response(from, method, n == 0)
		switch {
		case err == message.ErrHead && n == 0:
			return errNoHTTP
		case err != nil || last:
			return err
		}
		if p.answered() {
			return nil
		}
	}
}

// hungUp is what it means that the proxy has said nothing more.
func (p *plainStream) hungUp(n int, err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.silent.Load(), n == 0 && len(p.waiting) > 0 && err == io.EOF && !p.ended:
		return errHungUp
	case n > 0 && err == io.EOF, len(p.waiting) == 0:
		return nil // it keeps it open no longer
	}
	return err
}

func ignoreReset(err error) error {
	if errors.Is(err, unix.ECONNRESET) {
		return nil
	}
	return err
}

// next is the method of the request that is answered next.
func (p *plainStream) next() (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		return "", false
	}
	return p.waiting[0], true
}

// answered says that one has been; true if it was the last.
func (p *plainStream) answered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = p.waiting[1:]
	return p.ended && len(p.waiting) == 0
}

// response passes one response on, and those before it that are not final. last tells
// that nothing follows it.
func (p *plainStream) response(from *message.Reader, method string, first bool) (last bool, err error) {
	for {
		r, err := from.Response(method)
		switch {
		case err != nil:
			return false, err
		case r.Status == 407, r.Status == 401 && first && p.refuses(): // the app knows of no proxy
			return false, refusal(r, p.route.last().user != nil)
		case r.Status == 101:
			return false, errors.New("it agrees to another protocol that it was not asked for")
		}
		if _, err := p.inner.Write(r.Append(nil)); err != nil {
			return true, nil // the app has left
		}
		if r.Status/100 == 1 {
			continue
		}
		err = from.Pass(p.inner, &r.Body)
		if _, left := errors.AsType[*message.WriteError](err); left {
			return true, nil
		}
		return r.Ends, err
	}
}

// refuses tells whether a 401 is the proxy's own, as tinyproxy's is, and no server's:
// then what is for the proxy itself has the same answer.
func (p *plainStream) refuses() bool {
	r, err := p.route.probe(p.ctx, len(p.route.hops)-1)
	return err == nil && r.Status == 401
}

// SetLinger is that of a TCP connection. With 0, Close sends nothing more.
func (p *plainStream) SetLinger(seconds int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if seconds == 0 {
		p.closed = true
		p.cancel()
		relay.Reset(netConn(p.proxy))
	}
	return nil
}

// netConn is the connection below TLS, if there is that.
func netConn(c net.Conn) net.Conn {
	if below, ok := c.(interface{ NetConn() net.Conn }); ok {
		return below.NetConn()
	}
	return c
}

// Close closes both ends. What was written is sent, as by the kernel.
func (p *plainStream) Close() error {
	err := p.UnixConn.Close()
	p.mu.Lock()
	p.closed = true
	_ = p.proxy.SetWriteDeadline(time.Now().Add(closeTime))
	p.mu.Unlock()
	go func() {
		select {
		case <-p.sent:
		case <-time.After(closeTime):
		}
		p.cancel()
		p.close()
		p.inner.Close()
	}()
	return err
}
