package upstream

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"time"

	"golang.org/x/net/proxy"
	"golang.org/x/sys/unix"

	"appfw/proxy/upstream/socks"
)

// connectSOCKS is CONNECT of SOCKS5 (RFC 1928, 4). given tells that user is the URL's.
func connectSOCKS(ctx context.Context, conn net.Conn, target string, user *url.Userinfo, given bool) error {
	var auth *proxy.Auth
	if user != nil {
		password, _ := user.Password()
		auth = &proxy.Auth{User: user.Username(), Password: password}
	}
	d, err := proxy.SOCKS5("tcp", "", auth, nil)
	if err != nil {
		return err
	}
	on, ok := d.(interface {
		DialWithConn(context.Context, net.Conn, string, string) (net.Addr, error)
	})
	if !ok {
		return errors.New("golang.org/x/net/proxy cannot use a connection that is there")
	}
	heard := &recorder{Conn: conn, ctx: ctx, given: given}
	if _, err = on.DialWithConn(ctx, heard, "tcp", target); err != nil {
		if refusal := heard.failure(); refusal != nil {
			return refusal
		}
	}
	return err
}

// recorder keeps what a SOCKS server says: of its reply code, the library makes
// nothing but text.
type recorder struct {
	net.Conn
	ctx   context.Context
	given bool // the URL has a user
	said  []byte
}

// Read bounds the time for the first word; what follows may need the destination.
func (r *recorder) Read(b []byte) (int, error) {
	first := len(r.said) == 0
	if first {
		late := time.AfterFunc(greetTime, func() { _ = r.Conn.SetReadDeadline(time.Unix(1, 0)) })
		defer late.Stop()
	}
	n, err := r.Conn.Read(b)
	if first && errors.Is(err, os.ErrDeadlineExceeded) && r.ctx.Err() == nil {
		err = errSilentSOCKS
	}
	r.said = append(r.said, b[:min(n, max(0, 8-len(r.said)))]...)
	return n, err
}

// failure is what the server's refusal means (RFC 1928, 3 and 6); nil if it
// gave none.
func (r *recorder) failure() error {
	said := r.said
	if len(said) < 2 || said[0] != socks.Version {
		return nil
	}
	method := said[1]
	said = said[2:]
	if method == socks.MethodPassword { // RFC 1929, 2
		if len(said) >= 2 && said[1] != 0 {
			return &chainError{errno: unix.EACCES, err: errCredentials(r.given), own: true}
		}
		said = said[min(2, len(said)):]
	}
	if method == socks.NoMethod {
		return &chainError{errno: unix.EACCES, err: errCredentials(r.given), own: true}
	}
	if len(said) < 2 || said[0] != socks.Version || said[1] == 0 {
		return nil
	}
	switch said[1] {
	case 2: // not allowed by the ruleset
		return &chainError{errno: unix.EACCES}
	case 3:
		return &chainError{errno: unix.ENETUNREACH}
	case 5:
		return &chainError{errno: unix.ECONNREFUSED}
	}
	return &chainError{errno: unix.EHOSTUNREACH}
}
