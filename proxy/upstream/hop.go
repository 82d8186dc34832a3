package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// hop is one proxy.
type hop struct {
	text    string        // as messages name it, without a password
	socks   bool          // SOCKS5 (RFC 1928), else HTTP CONNECT (RFC 9110, 9.3.6)
	tls     *tls.Config   // nil: without
	addr    string        // host:port; "" for a socket of AF_UNIX, and for "tor"
	path    string        // of a socket; "" for others
	user    *url.Userinfo // nil: none was given
	isolate bool          // it may get credentials that are made up
}

// localTor is where Tor listens: the daemon, and the browser's.
var localTor = []string{"127.0.0.1:9050", "127.0.0.1:9150"}

var (
	errSilent      = errors.New("it does not answer")
	errSilentSOCKS = errors.New("it does not answer; is it a SOCKS proxy?")
)

// parseHop parses what Chain.Append takes.
func parseHop(s string) (hop, error) {
	if s == "tor" {
		return hop{text: "tor", socks: true, isolate: true}, nil
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok { // and what there is may be a password
		return hop{}, errors.New("it has no scheme; an upstream is socks5h://HOST:PORT, http://HOST:PORT, https://HOST:PORT, socks5h://unix:/PATH or tor")
	}
	h, port, err := hopOf(scheme)
	if err != nil {
		return hop{}, err
	}
	user, where, ok := strings.Cut(rest, "@")
	if !ok {
		user, where = "", rest
	}
	socket, isSocket := strings.CutPrefix(where, "unix:")
	isSocket = isSocket && (socket == "" || strings.Trim(socket, "0123456789") != "") // else a host of that name
	if isSocket {
		where = "unix"
	}
	if ok {
		where = user + "@" + where
	}
	u, err := url.Parse("x://" + where)
	switch {
	case err != nil:
		return h, errors.New("the URL cannot be understood") // its error would show the password
	case u.RawQuery != "" || u.Fragment != "":
		return h, errors.New("nothing follows the host and port of an upstream")
	}
	h.user = u.User
	if isSocket {
		return h, h.atSocket(scheme, socket)
	}
	return h, h.atHost(scheme, u, port)
}

// hopOf is a proxy of a scheme, and the port that it has by default.
func hopOf(scheme string) (h hop, port string, err error) {
	switch scheme {
	case "socks5", "socks5h":
		return hop{socks: true, isolate: true}, "1080", nil
	case "http":
		return hop{}, "8080", nil
	case "https":
		return hop{tls: &tls.Config{MinVersion: tls.VersionTLS12}}, "443", nil
	}
	return hop{}, "", fmt.Errorf("%.20q is no scheme of an upstream; there are socks5h, socks5, http and https", scheme)
}

// atSocket says that the proxy listens at a socket of AF_UNIX.
func (h *hop) atSocket(scheme, path string) error {
	switch {
	case !strings.HasPrefix(path, "/"):
		return errors.New("the path of a socket is absolute")
	case h.tls != nil:
		return errors.New("TLS needs the name of a host, which a socket does not have")
	}
	h.path, h.text = path, scheme+"://unix:"+path
	return nil
}

// atHost says that the proxy is at the host of a URL.
func (h *hop) atHost(scheme string, u *url.URL, port string) error {
	if u.Path != "" && u.Path != "/" || u.Hostname() == "" {
		return errors.New("an upstream is a host and a port")
	}
	if strings.Contains(u.Hostname(), ":") && !strings.HasPrefix(u.Host, "[") {
		return errors.New("an IPv6 address is written in brackets")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q is no port", port)
	}
	h.addr = net.JoinHostPort(u.Hostname(), port)
	h.text = scheme + "://" + h.addr
	if h.tls != nil {
		h.tls.ServerName = u.Hostname()
	}
	return nil
}

// listens is where the proxy before this one is asked to connect to.
func (h *hop) listens() string {
	if h.addr == "" { // "tor": a socket is only the first
		return localTor[0]
	}
	return h.addr
}

// reach connects to the first proxy of a chain.
func (h *hop) reach(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: greetTime}
	d.SetMultipathTCP(false)
	switch {
	case h.path != "":
		return d.DialContext(ctx, "unix", h.path)
	case h.addr != "":
		return d.DialContext(ctx, "tcp", h.addr)
	}
	var errs []error
	for _, addr := range localTor {
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errs[0]
}

// connect asks the proxy at the other end of conn for a connection.
func (h *hop) connect(ctx context.Context, conn net.Conn, target string, user *url.Userinfo) (net.Conn, error) {
	if h.socks {
		return conn, connectSOCKS(ctx, conn, target, user, h.user != nil)
	}
	if h.tls != nil {
		secure := tls.Client(conn, h.tls)
		greeting, cancel := context.WithTimeout(ctx, greetTime)
		defer cancel()
		if err := secure.HandshakeContext(greeting); err != nil {
			if ctx.Err() == nil && greeting.Err() != nil {
				err = errSilent
			}
			return nil, err
		}
		conn = secure
	}
	return conn, connectHTTP(ctx, conn, target, user)
}
